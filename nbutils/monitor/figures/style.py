"""One look for every figure: sizes, colours, a title that says the message."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.monitor.rundir import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "FIGURE_DPI",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "headline",
    "new_figure",
    "plain",
    "save_figure",
    "shorten",
    "styled",
    "tidy",
]

FIGURE_DPI = 200
"""Of saved figures: sharp on a slide; a page shows them at 100."""

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Of the Okabe-Ito set, told apart by people with any colour vision."""
INK, GREY = "#222222", "#767676"

_LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "text.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """The look, for what is drawn inside; the user's own settings return after."""
    from matplotlib import rc_context

    with rc_context(_LOOK):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own: no window, no leak."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr]
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, message: str, detail: str = "") -> None:
    """The message of a figure as its title, left; what it rests on, small, below."""
    width = figure.get_figwidth()
    lines = _wrapped(message, int(width * 10.2))
    below = _wrapped(detail, int(width * 14.5)) if detail else []
    figure.suptitle(
        "\n".join(lines), x=0.012, ha="left", fontsize=12, fontweight="bold"
    )
    if below:
        figure.axes[0].set_title(
            "\n".join(below), loc="left", fontsize=8.5, color=GREY, pad=8
        )


def tidy(axis: Axes) -> None:
    """A light grid, and no frame where nothing is read."""
    axis.grid(True)
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = FIGURE_DPI) -> Path:
    """Write ``figure`` as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # Names in a script that the font lacks become boxes; the numbers stay right.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure.savefig(buffer, format="png", dpi=dpi)
    return write_atomic(Path(path), buffer.getvalue())


def shorten(name: str, limit: int = 22) -> str:
    """A name that fits beside an axis."""
    return plain(name if len(name) <= limit else name[: limit - 1] + "…")


def plain(text: str) -> str:
    """Text that matplotlib will not read as mathematics."""
    return text.replace("$", r"\$")


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, max(width, 20)) or [""]
