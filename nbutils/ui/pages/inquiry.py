"""A button and the place for its answer: work that is done only when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from time import monotonic
from typing import Any

from nbutils.config import RunConfig
from nbutils.errors import ConfigError, NbutilsError
from nbutils.ui.kit import Kit

__all__ = ["Answer", "Inquiry", "Question", "trouble_html"]

Guard = Callable[[Callable[..., Any]], Callable[..., None]]
_ROW = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}
_BUTTON = {"width": "auto", "margin": "8px 8px 4px 0", "padding": "0 14px"}
_WIDE = {"width": "auto"}
_HIDDEN = {"display": "none"}
_DOUBLE_S = 0.4
"""Clicks made while the kernel worked arrive right after it has answered."""
_STALE = (
    '<div role="status" class="nbu-help">! Settings have changed since; press the '
    "button again.</div>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was found, and settings that would mend it.

    Args:
        html: To show.
        offer: Settings to take over with one press; empty: none.
    """

    html: str
    offer: Mapping[str, Any] = field(default_factory=dict)


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a button asks.

    Args:
        text: On the button.
        tip: What it will do, and how long that takes.
        busy: Shown meanwhile.
        answer: From the present settings to what was found; may show HTML meanwhile.
    """

    text: str
    tip: str
    busy: str
    answer: Callable[[RunConfig, Say], Answer]


class Inquiry:
    """Buttons with one place for what they find.

    What goes wrong in a way that the reader can mend is shown as an alert, and told to
    ``on_trouble``; the rest is for the guard.

    Args:
        kit: Makes and registers every widget.
        guard: Wraps callbacks.
        draft: The settings as they are on the form.
        raw: The raw answers as they are on the form.
        on_trouble: Gets the sentences of an error; none: it went well.
        on_offer: Takes settings over that an answer offered.
        questions: One button each.
        watches: Leaves that the answer depends on.
    """

    def __init__(
        self,
        kit: Kit,
        guard: Guard,
        draft: Callable[[], RunConfig],
        raw: Callable[[], Mapping[str, Any]],
        on_trouble: Callable[[Sequence[str]], None],
        on_offer: Callable[[Mapping[str, Any]], None],
        questions: Sequence[Question],
        watches: Sequence[str] = (),
    ) -> None:
        self._draft = draft
        self._raw = raw
        self._on_trouble = on_trouble
        self._watches = watches
        self._asked_of: dict[str, Any] | None = None
        self._offered: Mapping[str, Any] = {}
        self._last: Question | None = None
        self._ended_s = -math.inf
        self._kit = kit
        self.buttons = [self._button(guard, question) for question in questions]
        self.stale = kit.make("HTML", layout=_WIDE)
        self.output = kit.make("HTML", layout=_WIDE)
        self.offer = kit.make("Button", tip="Put these into the form", layout=_HIDDEN)
        take = guard(lambda: on_offer(self._offered))
        self.offer.on_click(lambda _button: take())
        row = kit.make("HBox", layout=_ROW, children=tuple(self.buttons))
        parts = (row, self.stale, self.output, self.offer)
        self.box = kit.make("VBox", layout=_WIDE, children=parts)

    def refresh(self) -> None:
        """Say so where the answer on show is about other settings than these."""
        text = _STALE if self._is_stale() else ""
        if self.stale.value != text:
            self.stale.value = text

    def press(self, question: Question) -> None:
        """What a click does: ask, unless it was waiting for the same answer."""
        is_second = monotonic() - self._ended_s < _DOUBLE_S
        if is_second and question is self._last and not self._is_stale():
            return
        self.ask(question)

    def ask(self, question: Question) -> None:
        """Answer a question on the spot.

        The buttons stay enabled meanwhile: one that is not loses the keyboard.
        """
        self._say(f'<div role="status">{escape(question.busy)}</div>')
        self._asked_of = self._watched()
        self.stale.value = ""
        sentences: Sequence[str] = ()
        answer = Answer(html="")
        try:
            answer = question.answer(self._draft(), self._say)
        except NbutilsError as error:
            is_many = isinstance(error, ConfigError)
            sentences = error.problems if is_many else [str(error)]
            answer = Answer(html=trouble_html(sentences))
        finally:
            self._say(answer.html)
            self._offer(answer.offer)
            self._last, self._ended_s = question, monotonic()
        self._on_trouble(sentences)

    def _say(self, html: str) -> None:
        self.output.value = html

    def _offer(self, settings: Mapping[str, Any]) -> None:
        """Show a button that takes settings over, or hide it."""
        self._offered = settings
        told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        self.offer.description = f"Use {told}" if told else ""
        self.offer.layout = self._kit.layout(
            {**_BUTTON, "align_self": "flex-start"} if told else _HIDDEN
        )

    def _is_stale(self) -> bool:
        return self._asked_of is not None and self._asked_of != self._watched()

    def _watched(self) -> dict[str, Any]:
        raw = self._raw()
        return {name: raw.get(name) for name in self._watches}

    def _button(self, guard: Guard, question: Question) -> Any:
        button = self._kit.make(
            "Button", description=question.text, tip=question.tip, layout=_BUTTON
        )
        answer = guard(lambda: self.press(question))
        button.on_click(lambda _button: answer())
        return button


def trouble_html(sentences: Sequence[str]) -> str:
    """Sentences that say what went wrong, announced as an alert."""
    items = "".join(f"<p>✗ {escape(sentence)}</p>" for sentence in sentences)
    return f'<div role="alert" class="nbu-alert">{items}</div>'
