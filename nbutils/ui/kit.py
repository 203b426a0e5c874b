"""Making and closing core ipywidgets so that 7.7 and 8.x behave alike.

A :class:`Kit` keeps its own register: closing a container does not close what is in
it, and layouts and styles are models of their own. ``close`` leaves none behind.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from html import escape
from time import monotonic
from typing import Any

__all__ = ["Kit", "alert_html", "crash_html", "focus_soon", "guarded", "has_widgets"]

_LOG = logging.getLogger(__name__)
_FOCUS_DELAY_S = 0.25
"""A front end needs so long to draw a page; what it has not drawn takes no focus."""
_FOCUS_LIMIT_S = 1.0
"""Later than this, the user may be typing elsewhere on the page."""


def has_widgets() -> bool:
    """Whether ipywidgets can be imported here."""
    return importlib.util.find_spec("ipywidgets") is not None


class Kit:
    """A register of widgets with shared layouts and styles."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._layouts: dict[tuple[tuple[str, str], ...], Any] = {}
        self._styles: dict[tuple[str, str], Any] = {}

    def make(
        self,
        kind: str,
        *,
        tip: str = "",
        label_width: str = "initial",
        layout: dict[str, str] | None = None,
        **traits: Any,
    ) -> Any:
        """A core widget by its class name, registered here.

        Args:
            kind: Name in ``ipywidgets``: ``"Text"``, ``"Dropdown"``, ``"HBox"``.
            tip: Text shown on hover, whatever trait this version keeps it in.
            label_width: CSS width of the description.
            layout: CSS properties; equal ones share one model.
            **traits: Passed to the class.
        """
        import ipywidgets

        cls = getattr(ipywidgets, kind)
        style = self._styles.get((kind, label_width))
        if style is not None:
            traits["style"] = style
        traits.update(_tip_traits(cls, tip))
        widget = cls(layout=self.layout(layout or {}), **traits)
        self._made.append(widget)
        if style is None and widget.has_trait("style"):
            if widget.style.has_trait("description_width"):
                widget.style.description_width = label_width
            self._styles[kind, label_width] = widget.style
        return widget

    def close(self) -> None:
        """Close every widget, layout and style made here; harmless to repeat."""
        shared = [*self._layouts.values(), *self._styles.values()]
        for model in [*reversed(self._made), *shared]:
            model.close()
        self._made.clear()
        self._layouts.clear()
        self._styles.clear()

    def layout(self, properties: dict[str, str]) -> Any:
        """The one layout model with these CSS properties."""
        import ipywidgets

        key = tuple(sorted(properties.items()))
        if key not in self._layouts:
            self._layouts[key] = ipywidgets.Layout(**properties)
        return self._layouts[key]


def guarded(
    lock: threading.RLock, report: Callable[[str], None]
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A decorator for callbacks: one at a time, and no exception ever vanishes.

    Front ends drop what a callback raises, so ``report`` gets it as HTML, and the log
    gets its traceback.
    """

    def decorate(callback: Callable[..., Any]) -> Callable[..., None]:
        @wraps(callback)
        def run(*args: Any) -> None:
            with lock:
                try:
                    callback(*args)
                except Exception as error:
                    _LOG.exception("a callback of the form failed")
                    report(crash_html(error))

        return run

    return decorate


def focus_soon(widget: Any) -> None:
    """Put the keyboard into a widget that is about to be drawn, where that can be.

    ipywidgets 7 has no way to do it, and without an event loop nobody is looking.
    """
    if not hasattr(widget, "focus"):
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    asked_s = monotonic()
    loop.call_later(_FOCUS_DELAY_S, _focus, widget, asked_s)


def _focus(widget: Any, asked_s: float) -> None:
    """Not where the form was closed meanwhile, nor so late that someone types."""
    if widget.comm is not None and monotonic() - asked_s < _FOCUS_LIMIT_S:
        widget.focus()


def alert_html(sentences: list[str]) -> str:
    """Sentences as one box that screen readers announce; empty without any."""
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    noun = (
        "1 setting needs" if len(sentences) == 1 else f"{len(sentences)} settings need"
    )
    head = f"<strong>! {noun} a change</strong>"
    return f'<div role="alert" class="nbu-alert">{head}<ul>{items}</ul></div>'


def crash_html(error: BaseException) -> str:
    """An unforeseen error as an alert, with its traceback folded away."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    name = escape(f"{type(error).__name__}: {error}")
    return (
        f'<div role="alert" class="nbu-alert"><strong>✗ The wizard could not do that'
        f"</strong><p>{name}</p><details><summary>Technical details</summary>"
        f"<pre>{escape(trace)}</pre></details></div>"
    )


def _tip_traits(cls: Any, tip: str) -> dict[str, str]:
    """The trait that holds a tooltip: it moved between versions 7 and 8.

    An empty text is set too where there is a label: left out, browsers show "null".
    """
    names = cls.class_trait_names()
    trait = next((n for n in ("tooltip", "description_tooltip") if n in names), None)
    if trait is None or (not tip and "description" not in names):
        return {}
    return {trait: tip}
