"""The course of a run: loss, metrics and learning rate over its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.monitor.charts import smoothed
from nbutils.monitor.curves import PALETTE, decimate
from nbutils.monitor.events import Event
from nbutils.monitor.figures.style import (
    GREEN,
    GREY,
    INK,
    headline,
    new_figure,
    plain,
    styled,
    tidy,
)
from nbutils.monitor.runview import NO_METRIC, RunView, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_history"]

Rows = Sequence[Mapping[str, Any]]

_DRAWN_ELSEWHERE = (*NO_METRIC, "loss", "train_loss", "val_loss")
_STYLES = ("-", "--", "-.", ":")
_MAX_OWN_PANELS = 3
_MAX_MARKS = 12
_MAX_DOTS = 40
_NOISY = 60
"""From so many points on, a moving mean says more than the steps do."""
_WIDE = 30.0
"""A loss that falls by this factor gets a logarithmic axis."""


def plot_history(
    rows: Rows,
    events: Sequence[Event],
    best: Mapping[str, Any] | None = None,
) -> Figure:
    """Loss, metrics and learning rate over the steps.

    The loss of each step stands behind its moving mean; the best epoch, resumes and
    rollbacks are marked.

    Args:
        rows: One mapping per finished epoch, as in ``TrainResult.history``.
        events: The run's events; their steps give the fine loss curve.
        best: ``metric``, ``value`` and ``step``; by default what the events say.
    """
    view = RunView.from_events(events)
    best = best or _best(rows, view)
    groups, left_out = _metric_groups(rows)
    with styled():
        figure = new_figure(8.6, 4.0 + 1.7 * (len(groups) + 0.4))
        ratios = [2.2, *[1.35] * len(groups), 0.9]
        axes = figure.subplots(
            len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios
        )[:, 0]
        _draw_loss(axes[0], rows, view)
        for axis, names in zip(axes[1:], groups, strict=False):
            _draw_columns(axis, rows, names)
            axis.set_ylabel(plain(names[0]) if len(names) == 1 else "metrics")
        _draw_lr(axes[-1], rows, view)
        for axis in axes:
            tidy(axis)
        _mark_turns(list(axes), view)
        _mark_best(list(axes[:-1]), rows, best)
        for axis in axes[:-1]:
            _explain(axis)
        axes[-1].set_xlabel("optimizer step")
        if left_out:
            names = ", ".join(map(plain, left_out))
            axes[-1].set_title(f"not drawn: {names}", fontsize=8, loc="left")
        figure.align_ylabels(axes)
        headline(figure, _message(view, best), _course(rows, view))
    return figure


def _message(view: RunView, best: Mapping[str, Any]) -> str:
    """What the run reached, in a sentence."""
    if best.get("value") is not None:
        metric, value = best.get("metric", "metric"), format_number(best["value"])
        of = f" of {view.step:,}" if view.step else ""
        return plain(f"Best {metric} {value}, at step {best.get('step', 0):,}{of}")
    if view.loss.points:
        first, last = view.loss.points[0][1], view.loss.points[-1][1]
        return f"Training loss from {format_number(first)} to {format_number(last)}"
    return "No step was recorded"


def _course(rows: Rows, view: RunView) -> str:
    """How much was done, and how it ended."""
    ended = view.end.get("reason") or view.stop.get("reason")
    parts = [
        f"{len(rows):,} epochs" if len(rows) != 1 else "1 epoch",
        f"{view.step:,} steps",
        f"ended: {ended}" if ended else "end not recorded",
    ]
    if view.num_refused:
        parts.append(f"{view.num_refused:,} updates refused")
    return plain(" · ".join(parts))


def _best(rows: Rows, view: RunView) -> dict[str, Any]:
    """The row of the best checkpoint, by its first validation number."""
    step = view.best_checkpoint.get("step")
    row = next((row for row in rows if row.get("step") == step), {})
    name = next((name for name in row if name.startswith("val_")), None)
    if step is None or name is None:
        return {}
    return {"metric": name, "value": row[name], "step": step}


def _metric_groups(rows: Rows) -> tuple[list[list[str]], list[str]]:
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


def _column(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Finite numbers of one column over the steps."""
    found = []
    for row in rows:
        x, y = row.get("step", row.get("epoch")), row.get(name)
        if isinstance(y, (int, float)) and math.isfinite(y) and x is not None:
            found.append((float(x), float(y)))
    return found


def _draw_loss(axis: Axes, rows: Rows, view: RunView) -> None:
    points = [point for point in view.loss.points if math.isfinite(point[1])]
    if points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color="0.78", linewidth=0.9, label="loss of a step", zorder=1)
    if len(points) >= _NOISY:
        x, y = zip(*smoothed(points, 0.02), strict=True)
        axis.plot(x, y, color="0.45", linewidth=1.3, label="its moving mean", zorder=2)
    _draw_columns(axis, rows, ["train_loss", "val_loss"])
    drawn = [y for name in ("train_loss", "val_loss") for _, y in _column(rows, name)]
    drawn += [y for _, y in points]
    if drawn and min(drawn) > 0 and max(drawn) > _WIDE * min(drawn):
        axis.set_yscale("log")
    axis.set_ylabel("loss")


def _draw_columns(axis: Axes, rows: Rows, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        points = decimate(_column(rows, name), 600)
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axis.plot(
            x,
            y,
            color=PALETTE[index % len(PALETTE)],
            linestyle=_STYLES[index % len(_STYLES)],
            marker="os^D"[index % 4] if len(points) <= _MAX_DOTS else None,
            markersize=3.5,
            label=plain(name),
            zorder=3,
        )


def _draw_lr(axis: Axes, rows: Rows, view: RunView) -> None:
    points = view.lr.points or _column(rows, "lr")
    if points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color=INK, linewidth=1.4)
        axis.set_ylim(bottom=0)
    axis.set_ylabel("learning rate")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _mark_turns(axes: Sequence[Axes], view: RunView) -> None:
    """Lines where the run was resumed or went back to an earlier snapshot."""
    for kind, key, style, word in (
        ("resume", "step", (0, (6, 3)), "resumed"),
        ("rollback", "to_step", (0, (1, 2)), "rolled back"),
    ):
        found = [event for event in view.notable if event["kind"] == kind]
        steps = sorted({event.get(key) or 0 for event in found})[-_MAX_MARKS:]
        for axis in axes:
            for number, step in enumerate(steps):
                times = f" ({len(found)} times)" if len(found) > 1 else ""
                label = f"{word}{times}" if number == 0 else None
                axis.axvline(step, color=GREY, linestyle=style, lw=1.1, label=label)


def _mark_best(axes: Sequence[Axes], rows: Rows, best: Mapping[str, Any]) -> None:
    """A line at the best step, and a star on the metric that decided."""
    step = best.get("step")
    if step is None:
        return
    for axis in axes:
        axis.axvline(step, color=GREEN, linewidth=5, alpha=0.22, zorder=0)
    name = str(best.get("metric"))
    value = best.get("value")
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return
    for axis in axes:
        if any(line.get_label() == plain(name) for line in axis.lines):
            axis.plot(
                [step],
                [value],
                marker="*",
                markersize=13,
                color=GREEN,
                markeredgecolor="white",
                linestyle="none",
                label=f"best: step {step:,}",
                zorder=5,
            )
            return


def _explain(axis: Axes) -> None:
    """Names of the lines beside the axis, where they hide nothing."""
    handles, _ = axis.get_legend_handles_labels()
    if len(handles) > 1:  # one line alone is named by its axis
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.4)
