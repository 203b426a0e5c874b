"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbutils.errors import ContractError
from nbutils.monitor.figures.style import (
    GREY,
    ORANGE,
    headline,
    new_figure,
    shorten,
    styled,
    tidy,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MAX_CLASSES", "plot_confusion"]

MAX_CLASSES = 30
"""Of a matrix that can be read; of more, the worst pairs are shown."""
_MAX_PAIRS = 20
_MAX_SHARES = 12
"""Classes up to which a cell has room for its share beside its count."""


def plot_confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Confusion matrix: colour is the share of the true class, text the count.

    Beyond 30 classes, bars of the pairs that are confused most often.

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
    with styled():
        if num > MAX_CLASSES:
            return _pairs(counts, class_names)
        return _matrix(counts, class_names)


def _matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    import numpy as np

    num = len(class_names)
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    size = min(max(4.6, 0.30 * num + 2.6), 11.5)
    longest = max(len(shorten(name)) for name in class_names)
    figure = new_figure(size + 0.9, size + 0.75)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axis, shrink=0.75, pad=0.02)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)  # type: ignore[operator]  # a Spine
    _write_cells(axis, counts, share, cell_pt=size * 0.72 * 72 / max(num, 1))
    labels = [shorten(name) for name in class_names]
    empty = [" (none)" if total == 0 else "" for total in totals[:, 0]]
    font = 8.5 if num <= 16 else 7.5
    turn = 0 if longest * num < 50 else 90 if num > 10 else 45
    axis.set_xticks(range(num), labels, rotation=turn, fontsize=font)
    axis.set_yticks(range(num), map("".join, zip(labels, empty, strict=True)))
    axis.tick_params(axis="both", labelsize=font, length=0)
    axis.set_xticks(np.arange(-0.5, num), minor=True)
    axis.set_yticks(np.arange(-0.5, num), minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    headline(figure, _message(counts, class_names), _detail(counts))
    return figure


def _pairs(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The cells off the diagonal that hold the most, as bars."""
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None)[::-1][:_MAX_PAIRS]
    cells = [divmod(int(cell), len(class_names)) for cell in order]
    cells = [cell for cell in cells if wrong[cell] > 0]
    figure = new_figure(7.5, 1.6 + 0.27 * max(len(cells), 3))
    axis = figure.subplots()
    values = [int(wrong[cell]) for cell in cells]
    axis.barh(range(len(cells)), values, color=ORANGE, height=0.7)
    for place, (row, column) in enumerate(cells):
        of = wrong[row, column] / max(counts[row].sum(), 1)
        text = f" {wrong[row, column]:,} ({of:.0%} of the class)"
        axis.text(values[place], place, text, va="center", fontsize=8, color=GREY)
    names = [f"{shorten(class_names[i])} → {shorten(class_names[j])}" for i, j in cells]
    axis.set_yticks(range(len(cells)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, max([*values, 1]) * 1.35)
    axis.set_xlabel("samples; true class → what it was taken for")
    tidy(axis)
    axis.grid(visible=False, axis="y")
    rest = int(wrong.sum()) - sum(values)
    more = f"; {rest:,} more mistakes in other pairs" if rest else ""
    headline(figure, _message(counts, class_names), _detail(counts) + more)
    return figure


def _message(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """What the matrix shows, in a sentence."""
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    if not counts.sum():
        return "Confusion matrix: no samples"
    if not wrong.sum():
        return "No class is taken for another"
    row, column = divmod(int(wrong.argmax()), len(class_names))
    pair = f"'{shorten(class_names[row])}' taken for '{shorten(class_names[column])}'"
    of = f"{int(wrong[row, column]):,} of {int(counts[row].sum()):,}"
    return f"Most frequent mistake: {pair}, {of}"


def _detail(counts: np.ndarray) -> str:
    total, right = int(counts.sum()), int(counts.trace())
    if not total:
        return "nothing was evaluated"
    return f"{right:,} of {total:,} right ({right / total:.1%}); text: samples"


def _write_cells(
    axis: Axes, counts: np.ndarray, share: np.ndarray, cell_pt: float
) -> None:
    longest = len(str(int(counts.max()))) if counts.size else 1
    font = min(10.0, max(4.0, cell_pt / (0.62 * longest + 1.1)))
    has_share = len(counts) <= _MAX_SHARES and cell_pt > 26
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if share[row, column] > 0.55 else "black"
        text = f"{int(counts[row, column])}"
        if has_share:
            text += f"\n{share[row, column]:.0%}"
        axis.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color=colour,
            fontsize=min(font, 8.5) if has_share else font,
            linespacing=1.15,
        )
