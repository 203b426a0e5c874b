"""Showing things in a notebook: the place that lower packages show through.

Lower packages call :func:`nbutils.monitor.display.show`; :func:`attach` makes that a
notebook output in a kernel. IPython is imported only when something is shown.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbutils.environment.platform import is_interactive
from nbutils.errors import EnvironmentProblem
from nbutils.monitor import display as place
from nbutils.monitor.events import read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.ui.attached import attach_live
from nbutils.ui.panel import HeadlessPanel, LivePanel

__all__ = ["attach", "display_form", "in_kernel", "make_live_panel", "show_object"]

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_COLOURS = 128


def attach() -> bool:
    """Show in the notebook from now on, if this process is a kernel.

    Returns:
        Whether it is. Harmless to repeat.
    """
    if not in_kernel():
        return False
    place.register(show_object, make_live_panel, attach_live)
    _draw_figures()
    return True


def _draw_figures() -> None:
    """Let a matplotlib figure that ends a cell be a picture, without pyplot."""
    shell = sys.modules["IPython"].get_ipython()
    png = shell.display_formatter.formatters["image/png"]
    png.for_type_by_name("matplotlib.figure", "Figure", _to_png)


def _to_png(figure: Any) -> bytes:
    """A figure in few colours: a third of the bytes that a notebook has to keep."""
    from PIL import Image  # comes with matplotlib

    buffer, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(_COLOURS).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()


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


def display_form(root: Any, summary: Any) -> Callable[[Any], None]:
    """Display a widget, and under it what is read where the widget is not.

    A widget lives in its kernel: after a restart a page says that its model is not
    found. The summary stands beside it in the saved notebook; the style sheet of a
    living form keeps it out of sight.

    Args:
        root: The outermost widget.
        summary: HTML and text.

    Returns:
        Puts another summary in its place.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    if not InteractiveShell.initialized():
        place.show(summary)  # a plain interpreter has no output to put a form in
        return lambda _newer: None
    view = {"version_major": 2, "version_minor": 0, "model_id": root.model_id}
    display({_WIDGET_VIEW: view, "text/plain": _FORM}, raw=True)
    slot = display(_formless(summary), raw=True, display_id=True)

    def retell(newer: Any) -> None:
        if slot is not None:
            slot.update(_formless(newer), raw=True)

    return retell


_FORM = "The form is shown where the notebook runs; its values are below."


def _formless(summary: Any) -> dict[str, str]:
    html = f'<div class="nbu-formless">{summary._repr_html_()}</div>'
    return {"text/html": html, "text/plain": str(summary)}


def make_live_panel(run_dir: Path, config: Any) -> LivePanel | HeadlessPanel:
    """A live panel where someone is looking, else lines and a page at the end."""
    del config
    panel = LivePanel(run_dir) if is_interactive() else HeadlessPanel(run_dir)
    try:
        past = read_events(RunDirectory(run_dir).events_path)
    except EnvironmentProblem as problem:
        show_object(f"What this run did before cannot be shown: {problem}")
        return panel
    for event in past:  # of a run that is resumed
        panel.view.apply(event)
    return panel
