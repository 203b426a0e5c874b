"""Showing things in a notebook: the place that lower packages show through.

Lower packages call :func:`nbutils.monitor.display.show`; :func:`attach` makes that a
notebook output in a kernel. IPython is imported only when something is shown.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from nbutils.environment.platform import is_interactive
from nbutils.monitor import display as place
from nbutils.ui.panel import LivePanel

__all__ = ["attach", "display_form", "in_kernel", "make_live_panel", "show_object"]

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def attach() -> bool:
    """Show in the notebook from now on, if this process is a kernel.

    Returns:
        Whether it is. Harmless to repeat.
    """
    if not in_kernel():
        return False
    place.register(show_object, make_live_panel)
    _draw_figures()
    return True


def _draw_figures() -> None:
    """Let a matplotlib figure that ends a cell be a picture, without pyplot."""
    shell = sys.modules["IPython"].get_ipython()
    png = shell.display_formatter.formatters["image/png"]
    png.for_type_by_name("matplotlib.figure", "Figure", _to_png)


def _to_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel; imports nothing to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def show_object(obj: object) -> None:
    """Display an object as HTML with its text beside it; a plain text is printed."""
    if isinstance(obj, str):
        sys.stdout.write(obj + "\n")
        return
    from IPython.display import display

    to_html = getattr(obj, "_repr_html_", None)
    if to_html is None:
        display(obj)
    else:
        display({"text/html": to_html(), "text/plain": str(obj)}, raw=True)


def display_form(root: Any, summary: Any) -> None:
    """Display a widget; viewers that cannot show one get the summary instead.

    Args:
        root: The outermost widget.
        summary: What a reader of the saved notebook sees: HTML and text.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    if not InteractiveShell.initialized():
        place.show(summary)  # a plain interpreter has no output to put a form in
        return
    view = {"version_major": 2, "version_minor": 0, "model_id": root.model_id}
    bundle = {
        _WIDGET_VIEW: view,
        "text/html": summary._repr_html_(),
        "text/plain": str(summary),
    }
    display(bundle, raw=True)


def make_live_panel(run_dir: Path, config: Any) -> LivePanel | None:
    """A live panel where someone is looking; ``None`` leaves it to plain text."""
    del config
    return LivePanel(run_dir) if is_interactive() else None
