"""Figures for the report and for slides; drawn with matplotlib, without pyplot."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.errors import ContractError
from nbutils.monitor.curves import PALETTE
from nbutils.monitor.events import Event
from nbutils.monitor.rundir import write_atomic
from nbutils.monitor.runview import NO_METRIC, RunView, format_number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FIGURE_DPI",
    "plot_confusion",
    "plot_history",
    "plot_mistakes",
    "save_figure",
]

FIGURE_DPI = 150
"""Of saved figures: sharp on fine screens; a page shows them at 100."""


_DRAWN_ELSEWHERE = (*NO_METRIC, "loss", "train_loss", "val_loss")
_STYLES = ("-", "--", "-.", ":")
_MAX_OWN_PANELS = 3


def plot_history(rows: Sequence[Mapping[str, Any]], events: Sequence[Event]) -> Figure:
    """Loss, metrics and learning rate over the steps; the best epoch is marked.

    Args:
        rows: One mapping per finished epoch, as in ``TrainResult.history``.
        events: The run's events; their steps give the fine loss curve.
    """
    view = RunView.from_events(events)
    groups, left_out = _metric_groups(rows)
    figure = _figure(9.0, 2.5 + 1.9 * (len(groups) + 1))
    axes = figure.subplots(len(groups) + 2, 1, sharex=True, squeeze=False)[:, 0]
    _draw_loss(axes[0], rows, view)
    for axis, names in zip(axes[1:], groups, strict=False):
        _draw_columns(axis, rows, names)
        axis.set_ylabel(_plain(names[0]) if len(names) == 1 else "metrics")
    _draw_lr(axes[-1], rows, view)
    _mark_best(list(axes[:-1]), rows, view)
    axes[-1].set_xlabel("optimizer step")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if left_out:
        names = ", ".join(map(_plain, left_out))
        axes[-1].set_title(f"not drawn: {names}", fontsize=8, loc="left")
    return figure


def plot_confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Confusion matrix: colour is the share of the true class, text the count.

    Args:
        matrix: Counts; rows are true classes, columns predicted ones, ``(K, K)``.
        class_names: K names.

    Raises:
        ContractError: Not square, or another number of names.
    """
    import numpy as np

    counts = np.asarray(matrix)
    num = len(class_names)
    if counts.shape != (num, num):
        raise ContractError(
            f"The confusion matrix is {counts.shape} for {num} class names; expected "
            f"({num}, {num}). Pass one name per row."
        )
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    size = min(max(5.5, 0.27 * num + 3.0), 13.0)
    figure = _figure(size + 0.8, size)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    _write_counts(axis, counts, share, cell_pt=size * 0.78 * 72 / max(num, 1))
    labels = [_shorten(name) for name in class_names]
    empty = [" (none)" if total == 0 else "" for total in totals[:, 0]]
    font = 9 if num <= 25 else 8
    axis.set_xticks(range(num), labels, rotation=90 if num > 10 else 45, fontsize=font)
    axis.set_yticks(range(num), map("".join, zip(labels, empty, strict=True)))
    axis.tick_params(axis="y", labelsize=font)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    total = int(counts.sum())
    right = int(np.trace(counts))
    of = f"{right / total:.1%} of {total:,} right" if total else "no samples"
    axis.set_title(f"Confusion matrix: {of}")
    return figure


def plot_mistakes(
    images: Sequence[Any], titles: Sequence[str], heading: str = ""
) -> Figure:
    """A grid of samples with a title each.

    Args:
        images: Arrays or tensors ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` with one
            or three channels; values beyond 0..1 are scaled to the image's range.
        titles: One text an image, for example ``"true 4, said 9 (0.81)"``.
        heading: What these are, above them.

    Raises:
        ContractError: Another number of titles, or no image shape.
    """
    if len(images) != len(titles):
        raise ContractError(
            f"{len(images)} images came with {len(titles)} titles; expected one title "
            "an image."
        )
    columns = min(max(len(images), 1), 6)
    num_rows = math.ceil(max(len(images), 1) / columns)
    figure = _figure(max(1.6 * columns, 3.0), 2.0 * num_rows + 0.3 * bool(heading))
    if heading:
        figure.suptitle(_plain(heading), fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(_as_image(image), cmap="gray", interpolation="nearest")
        axis.set_title(_plain(title), fontsize=8, wrap=True)
    if not len(images):
        axes[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = FIGURE_DPI) -> Path:
    """Write ``figure`` as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return write_atomic(Path(path), buffer.getvalue())


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # a canvas of its own: no pyplot, no window, no leak
    return figure


def _metric_groups(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[list[str]], list[str]]:
    """Columns that share a panel, and those for which there is no room."""
    names = {name: None for row in rows for name in row if name not in _DRAWN_ELSEWHERE}
    fractions, own = [], []
    for name in names:
        values = [y for _, y in _column(rows, name)]
        if values:
            is_fraction = all(0 <= value <= 1 for value in values)
            (fractions if is_fraction else own).append(name)
    groups = [fractions] if fractions else []
    groups += [[name] for name in own[:_MAX_OWN_PANELS]]
    return groups, own[_MAX_OWN_PANELS:]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Finite numbers of one column over the steps."""
    found = []
    for row in rows:
        x, y = row.get("step", row.get("epoch")), row.get(name)
        if isinstance(y, (int, float)) and math.isfinite(y) and x is not None:
            found.append((float(x), float(y)))
    return found


def _draw_loss(axis: Axes, rows: Sequence[Mapping[str, Any]], view: RunView) -> None:
    if view.loss.points:
        x, y = zip(*view.loss.points, strict=True)
        axis.plot(x, y, color="0.7", linewidth=1, label="loss of a step", zorder=1)
    _draw_columns(axis, rows, ["train_loss", "val_loss"])
    axis.set_ylabel("loss")
    axis.set_title("Training history", loc="left", fontweight="bold")


def _draw_columns(
    axis: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    for index, name in enumerate(names):
        points = _column(rows, name)
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axis.plot(
            x,
            y,
            color=PALETTE[index % len(PALETTE)],
            linestyle=_STYLES[index % len(_STYLES)],
            marker="o",
            markersize=3,
            label=_plain(name),
        )
    if len(axis.lines) > 1:  # one line alone is named by its axis
        axis.legend(loc="best", frameon=False)


def _draw_lr(axis: Axes, rows: Sequence[Mapping[str, Any]], view: RunView) -> None:
    points = view.lr.points or _column(rows, "lr")
    if points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color=PALETTE[2])
    axis.set_ylabel("learning rate")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _mark_best(
    axes: Sequence[Axes], rows: Sequence[Mapping[str, Any]], view: RunView
) -> None:
    step = view.best_checkpoint.get("step")
    if step is None:
        return
    for axis in axes:
        axis.axvline(step, color="0.35", linestyle=":", linewidth=1)
    row = next((row for row in rows if row.get("step") == step), {})
    numbers = [
        f"{_plain(name)} {format_number(row[name])}"
        for name in row
        if name.startswith("val_")
    ]
    axes[0].set_title(
        f"best: step {step}  {'  '.join(numbers[:2])}", loc="right", fontsize=9
    )


def _write_counts(
    axis: Axes, counts: np.ndarray, share: np.ndarray, cell_pt: float
) -> None:
    longest = len(str(int(counts.max()))) if counts.size else 1
    font = min(11.0, max(4.0, cell_pt / (0.62 * longest + 0.9)))
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if share[row, column] > 0.55 else "black"
        axis.text(
            column,
            row,
            f"{int(counts[row, column])}",
            ha="center",
            va="center",
            color=colour,
            fontsize=font,
        )


def _as_image(image: Any) -> np.ndarray:
    """Values in 0..1 as ``(H, W)`` or ``(H, W, 3)``."""
    import numpy as np

    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and array.shape[-1:] != (3,):
        raise ContractError(
            f"An image has shape {tuple(np.shape(image))}; expected (H, W), (H, W, C) "
            "or (C, H, W) with one or three channels. Choose the channels to show."
        )
    array = array.astype("float64")
    low, high = np.nanmin(array), np.nanmax(array)
    if low < 0 or high > 1:
        array = (array - low) / ((high - low) or 1.0)
    return array


def _shorten(name: str, limit: int = 22) -> str:
    return _plain(name if len(name) <= limit else name[: limit - 1] + "…")


def _plain(text: str) -> str:
    """Text that matplotlib will not read as mathematics."""
    return text.replace("$", r"\$")
