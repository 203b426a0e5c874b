"""A field for a key that can be written and never read back.

The text leaves the widget as soon as it arrives. It is held in this process until
Apply puts it into the environment, or the form is closed; it is in no config, no file
and no state of a widget.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

from nbutils.environment.secrets import secret_source
from nbutils.errors import EnvironmentProblem
from nbutils.ui.fields import FIELD, LABEL_WIDTH, NOTE
from nbutils.ui.kit import Kit

__all__ = ["SecretField"]

_ROW = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}


class SecretField:
    """A password field over one environment variable.

    Args:
        kit: Makes and registers every widget.
        variable: A key of ``environment.secrets.SECRETS``.
        label: Words beside the field.
        guard: Wraps callbacks.
        on_edit: Called when a key was typed.
    """

    def __init__(
        self,
        kit: Kit,
        variable: str,
        label: str,
        guard: Callable[[Callable[..., Any]], Callable[..., None]],
        on_edit: Callable[[], None],
    ) -> None:
        self.variable = variable
        self.label = label
        self._held = ""
        self._kit = kit
        self._on_edit = on_edit
        self.widget = kit.make(
            "Password",
            description=label,
            placeholder="write-only",
            continuous_update=False,
            tip=f"Goes to {variable} in this kernel on Apply, and nowhere else",
            label_width=LABEL_WIDTH,
            layout=FIELD,
        )
        self.note = kit.make("HTML", layout=NOTE)
        self.row = kit.make("HBox", layout=_ROW, children=(self.widget, self.note))
        self.widget.observe(guard(self._typed), names="value")

    @property
    def is_pending(self) -> bool:
        """Whether a key was typed and not applied."""
        return bool(self._held)

    def apply(self) -> None:
        """Put the key into the environment of this process, and forget it here."""
        if self._held:
            os.environ[self.variable] = self._held
        self.forget()

    def take_over(self, earlier: SecretField) -> None:
        """Hold the key that was typed into another field."""
        self._held = earlier._held

    def forget(self) -> None:
        """Drop a key that was typed."""
        self._held = ""

    def refresh(self, *, is_used: bool = True) -> None:
        """Say whether there is a key, and where; never what it is.

        Args:
            is_used: Whether a setting asks for it; else the field is out of sight.
        """
        is_seen = is_used or self.is_pending
        self.row.layout = self._kit.layout(_ROW if is_seen else {"display": "none"})
        if self._held:
            html = (
                '<span class="nbu-moved">• a key is held</span> <span class="nbu-help">'
                f"Apply sets {self.variable} in this kernel.</span>"
            )
        else:
            html = f'<span class="nbu-help">{escape(self._source())}</span>'
        if self.note.value != html:
            self.note.value = html

    def _typed(self, change: dict[str, Any]) -> None:
        text = str(change["new"])
        if not text:
            return
        self._held = text.strip()
        self.widget.value = ""
        self._on_edit()

    def _source(self) -> str:
        try:
            source = secret_source(self.variable)
        except EnvironmentProblem as problem:
            return str(problem)
        if source:
            return f"✓ A key is there: {source}. Type another to replace it."
        return (
            "None found: the run is recorded offline. A key typed here is never saved "
            "with the notebook or the config."
        )
