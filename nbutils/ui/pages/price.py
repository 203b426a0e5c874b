"""The price of an hour: no setting of a run, but what its cost is worked out from."""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

from nbutils.environment.price import PRICE, parse_price
from nbutils.errors import ConfigError
from nbutils.ui.fields import FIELD, LABEL_WIDTH, NOTE, heading_html
from nbutils.ui.kit import Kit

__all__ = ["PriceField"]

_ROW = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}
_HELP = "Of this machine, in any currency; tells the run's cost."


class PriceField:
    """A text field over ``NBUTILS_PRICE_PER_HOUR``, which preflight reads as well.

    Args:
        kit: Makes and registers every widget.
        guard: Wraps callbacks.
        on_edit: Called when the text changed.
    """

    label = "Price of an hour"

    def __init__(
        self,
        kit: Kit,
        guard: Callable[[Callable[..., Any]], Callable[..., None]],
        on_edit: Callable[[], None],
    ) -> None:
        self._on_edit = on_edit
        self.widget = kit.make(
            "Text",
            value=os.environ.get(PRICE, ""),
            description=self.label,
            placeholder="none",
            continuous_update=False,
            tip=f"{_HELP} In code: the variable {PRICE}",
            label_width=LABEL_WIDTH,
            layout=FIELD,
        )
        self.note = kit.make("HTML", layout=NOTE)
        heading = kit.make("HTML", value=heading_html("Time and cost"))
        field = kit.make("HBox", layout=_ROW, children=(self.widget, self.note))
        self.row = kit.make("VBox", layout={"width": "100%"}, children=(heading, field))
        self.widget.observe(guard(self._typed), names="value")
        self._say()

    @property
    def value(self) -> float | None:
        """The price; none where there is none that can be read."""
        try:
            return parse_price(self.widget.value)
        except ConfigError:
            return None

    @property
    def is_pending(self) -> bool:
        """Whether the price on the form is not the one in the environment."""
        return self.widget.value.strip() != os.environ.get(PRICE, "").strip()

    def apply(self) -> None:
        """Let this process know the price, so that preflight tells the cost."""
        if self.value is not None:
            os.environ[PRICE] = self.widget.value.strip()
        elif not self.widget.value.strip():
            os.environ.pop(PRICE, None)

    def _typed(self, change: dict[str, Any]) -> None:
        del change
        self._say()
        self._on_edit()

    def _say(self) -> None:
        try:
            parse_price(self.widget.value)
            html = f'<span class="nbu-help">{_HELP}</span>'
        except ConfigError as error:
            html = f'<span class="nbu-error">✗ {escape(error.problems[0])}</span>'
        self.note.value = html
