"""One place of a notebook that a panel draws in, again and again.

With ipywidgets the drawing lives in the kernel: it is there again when the tab is
reopened. Without, a display is updated in place. Either way the last drawing is plain
HTML that needs no kernel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

from nbutils.monitor.dashboard import STYLE, Parts

__all__ = ["DisplaySlot", "Slot", "StaticSlot", "WidgetSlot", "make_slot"]

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class Slot(Protocol):
    """Where a dashboard is shown."""

    def show(self, parts: Parts) -> None:
        """Draw what has changed since the last call."""

    def end(self, html: str, text: str) -> None:
        """Leave plain HTML, with its text, in the place of what was live."""


def make_slot(below: Sequence[Any] = ()) -> Slot:
    """The best slot that this kernel can have.

    Args:
        below: Widgets to show under the dashboard while it is live.
    """
    if importlib.util.find_spec("ipywidgets") is not None:
        return WidgetSlot(below)
    return DisplaySlot()


class StaticSlot:
    """One output of a cell, drawn once: at the end."""

    def show(self, parts: Parts) -> None:
        """Nothing yet."""

    def end(self, html: str, text: str) -> None:
        """Show the whole."""
        from IPython.display import display

        display({"text/html": html, "text/plain": text}, raw=True)


class DisplaySlot:
    """One output of a cell, replaced in place; a reloaded tab shows it frozen."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = ""

    def show(self, parts: Parts) -> None:
        """Show the whole block where the one before stood."""
        self._put(parts.joined(), "")

    def end(self, html: str, text: str) -> None:
        """Show the last drawing."""
        self._put(html, text)

    def _put(self, html: str, text: str) -> None:
        from IPython.display import display

        bundle = {"text/html": html, "text/plain": text or "a run in progress"}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        elif html != self._shown and self._handle is not None:
            self._handle.update(bundle, raw=True)
        self._shown = html


class WidgetSlot:
    """Widgets that hold the drawing in the kernel, and a display that ends as HTML.

    Args:
        below: Widgets under the dashboard, until the end.
    """

    def __init__(self, below: Sequence[Any] = ()) -> None:
        from ipywidgets import HTML, VBox

        self._style = HTML(STYLE)
        self._parts = [HTML() for _ in range(3)]
        self.box = VBox([self._style, *self._parts, *below])
        self.box.add_class("nbu-dash")
        self._handle: Any = None

    def show(self, parts: Parts) -> None:
        """Send the parts that changed; the first call shows the widget."""
        texts = parts.head, parts.charts, parts.notes
        for widget, text in zip(self._parts, texts, strict=True):
            widget.value = text  # unchanged, it is not sent
        if self._handle is None:
            self._handle = self._display(parts)

    def end(self, html: str, text: str) -> None:
        """Plain HTML in the output and in the widget: a reopened tab has either."""
        bundle = {"text/html": html, "text/plain": text}
        if self._handle is None:
            from IPython.display import display

            display(bundle, raw=True)
            return
        kept, *others = self._parts
        self.box.children = [kept]
        self.box.remove_class("nbu-dash")
        kept.value = html  # these two stay open: a closed tab comes back to them
        self._handle.update(bundle, raw=True)
        for widget in (self._style, *others):
            widget.close()

    def _display(self, parts: Parts) -> Any:
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {
            _WIDGET_VIEW: view,
            "text/html": parts.joined(),
            "text/plain": "a run in progress",
        }
        return display(bundle, raw=True, display_id=True)
