"""How far predicted numbers lie from the true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbutils.monitor.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    headline,
    new_figure,
    styled,
    tidy,
)
from nbutils.monitor.runview import format_number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_values"]

_MAX_DOTS = 3000
_MAX_POINTS = 200_000


def plot_values(
    true_N: np.ndarray, predicted_N: np.ndarray, *, unit: str = ""
) -> Figure:
    """Predicted over true values, and the residuals over what was predicted.

    Args:
        true_N: What is right, any shape; read flat.
        predicted_N: What the model says, as many.
        unit: Of both, for the axes.
    """
    import numpy as np

    true = np.asarray(true_N, np.float64).reshape(-1)
    said = np.asarray(predicted_N, np.float64).reshape(-1)
    finite = np.isfinite(true) & np.isfinite(said)
    num_lost = int((~finite).sum())
    true, said = true[finite], said[finite]
    num = len(true)
    step = max(1, -(-num // _MAX_POINTS))
    where = f" ({unit})" if unit else ""
    with styled():
        figure = new_figure(9.2, 4.6)
        left, right = figure.subplots(1, 2)
        _scatter(left, true[::step], said[::step])
        if num:
            ends = [min(true.min(), said.min()), max(true.max(), said.max())]
            left.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        left.set_xlabel(f"true value{where}")
        left.set_ylabel(f"predicted value{where}")
        _scatter(right, said[::step], (said - true)[::step])
        right.axhline(0, color=GREY, linestyle="--", linewidth=1)
        if num:
            _mark_spread(right, said - true)
        right.set_xlabel(f"predicted value{where}")
        right.set_ylabel(f"residual: predicted - true{where}")
        for axis in (left, right):
            tidy(axis)
        lost = f"; {num_lost:,} not finite, left out" if num_lost else ""
        headline(
            figure, _message(true, said, unit), f"{num:,} values{lost}; dashed: exact"
        )
    return figure


def _scatter(axis: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) <= _MAX_DOTS:
        size = 14 if len(x) < 500 else 6
        axis.scatter(x, y, s=size, color=BLUE, alpha=0.5, linewidths=0)
    else:
        axis.hexbin(x, y, gridsize=45, cmap="Blues", mincnt=1, bins="log", linewidths=0)


def _mark_spread(axis: Axes, residual: np.ndarray) -> None:
    """Lines between which the middle 90 % of the residuals lie."""
    import numpy as np

    for edge in np.quantile(residual, (0.05, 0.95)):
        axis.axhline(float(edge), color=ORANGE, linestyle=":", linewidth=1.2)
    axis.set_title(
        "dotted: 90% of the residuals lie between",
        loc="right",
        fontsize=8,
        color=ORANGE,
    )


def _message(true: np.ndarray, said: np.ndarray, unit: str) -> str:
    """Explained variance and typical error, in a sentence."""
    import numpy as np

    if not len(true):
        return "No finite values"
    typical = format_number(float(np.median(np.abs(said - true))))
    error = f"half of the errors are below {typical}{' ' + unit if unit else ''}"
    spread = float(((true - true.mean()) ** 2).sum())
    if spread == 0:
        return error.capitalize()
    explained = 1 - float(((said - true) ** 2).sum()) / spread
    if explained <= 0:
        return f"No better than the mean of the true values; {error}"
    return f"Explains {explained:.0%} of the variance; {error}"
