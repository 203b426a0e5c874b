"""The wizard's face: its pages in their frame, kept in line with the answers.

It shows what :class:`Answers` holds and passes clicks on; it decides nothing about
values. Back never discards, Next is always enabled and says what is in the way.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from nbutils.errors import ConfigError
from nbutils.ui.answers import Answers, Problem
from nbutils.ui.fields import FormBuilder
from nbutils.ui.frame import STEPS, Frame
from nbutils.ui.kit import Kit, alert_html, guarded
from nbutils.ui.looks import banner_html
from nbutils.ui.summary import review_html

__all__ = ["Owner", "WizardView"]


class Owner(Protocol):
    """What the view asks of the wizard."""

    answers: Answers

    def apply(self) -> bool:
        """Judge all answers and take them over."""
        ...

    def problems(self) -> list[Problem]:
        """Everything that stands against applying."""
        ...

    def pending(self) -> list[str]:
        """Leaves whose answers are not applied."""
        ...

    def applied_text(self) -> str:
        """What was applied; empty when nothing was."""
        ...


class WizardView:
    """Widgets over one wizard; ``frame.root`` is what is displayed.

    Args:
        owner: The wizard.
    """

    def __init__(self, owner: Owner) -> None:
        self.current = 0
        self._owner = owner
        self._answers = owner.answers
        self._visited = {0}
        self._alert_scope = "none"
        self._kit = Kit()
        guard = guarded(threading.RLock(), self._show_crash)
        actions = {
            "go": guard(self.go),
            "back": guard(lambda: self.go(self.current - 1)),
            "next": guard(lambda: self.go(self.current + 1)),
            "apply": guard(lambda: self._owner.apply()),
            "choose": guard(self._preset_chosen),
        }
        saves = self._answers.source.path is not None
        self.frame = Frame(self._kit, actions, self._answers.preset, saves=saves)
        self.form = FormBuilder(self._kit, guard(self._edited))
        self.review = self._kit.make("HTML", layout={"width": "100%"})
        self.pages = [*(self._page(step) for step in STEPS[:-1]), self.review]
        self.refresh()

    def close(self) -> None:
        """Close every widget model; harmless to repeat."""
        self._kit.close()

    def go(self, index: int) -> None:
        """Turn to a page; forwards only when this one has no problem."""
        if index > self.current and self._answers.problems(self._leaves_here()):
            self._alert_scope = "page"
            self.refresh()
            return
        self._alert_scope = "none"
        self.current = min(max(index, 0), len(STEPS) - 1)
        self._visited.add(self.current)
        self.refresh()

    def show_problems(self) -> None:
        """List all problems and turn to the first page that has one."""
        self._alert_scope = "all"
        self._visited.update(range(len(STEPS)))
        first = next((p.leaf for p in self._owner.problems() if p.leaf), None)
        if first is not None:
            self.current = STEPS.index(self._answers.leaves[first].step)
            self.form.reveal(first)
        self.refresh()

    def refresh(self) -> None:
        """Bring every part in line with the answers."""
        problems = self._owner.problems()
        self.frame.show_page(
            self.current, self.pages[self.current], self._marks(problems)
        )
        self.frame.banner.value = banner_html(
            self._owner.pending(), self._owner.applied_text()
        )
        self._refresh_notes(problems)
        self._refresh_alert(problems)
        self._refresh_review(problems)

    def _edited(self, name: str, raw: Any) -> None:
        self._answers.edit(name, raw)
        self.refresh()

    def _preset_chosen(self, change: dict[str, Any]) -> None:
        if change["new"] == self._answers.preset:
            return
        try:
            self._answers.choose_preset(change["new"])
        except ConfigError as error:
            self.frame.preset.value = self._answers.preset
            self.refresh()
            self.frame.alert.value = alert_html(error.problems)
            return
        for name, field in self.form.fields.items():
            field.put(self._answers.raw[name])
        self.refresh()

    def _show_crash(self, html: str) -> None:
        self.frame.alert.value = html

    def _page(self, step: str) -> Any:
        leaves = [leaf for leaf in self._answers.leaves.values() if leaf.step == step]
        top = [self.frame.preset_row] if step == STEPS[0] else []
        return self.form.page(step, leaves, self._answers.raw, top=top)

    def _marks(self, problems: Sequence[Problem]) -> list[str]:
        """A sign for each page: ``!`` has a problem, ``✓`` seen, ``•`` to be seen."""
        wrong = {self._answers.leaves[p.leaf].step for p in problems if p.leaf}
        seen = self._visited - {self.current}
        return [
            "!" if step in wrong else "✓" if index in seen else "•"
            for index, step in enumerate(STEPS)
        ]

    def _refresh_notes(self, problems: Sequence[Problem]) -> None:
        by_leaf = {p.leaf: p for p in reversed(problems) if p.leaf}
        moved = self._answers.moved_by_preset
        for name, field in self.form.fields.items():
            field.annotate(by_leaf.get(name), moved.get(name))
        self.frame.tell_preset(moved, len(self._answers.touched))

    def _refresh_alert(self, problems: Sequence[Problem]) -> None:
        here = set(self._leaves_here())
        shown = {
            "none": [],
            "page": [p.text for p in problems if p.leaf in here],
            "all": [p.text for p in problems],
        }[self._alert_scope]
        if not shown:
            self._alert_scope = "none"
        self.frame.alert.value = alert_html(shown)

    def _refresh_review(self, problems: Sequence[Problem]) -> None:
        if STEPS[self.current] != "Review":
            return
        config, _ = self._answers.build()
        if config is None:
            self.review.value = alert_html([p.text for p in problems])
        else:
            self.review.value = review_html(config, self._answers.preset)

    def _leaves_here(self) -> list[str]:
        """Leaves of the page on show."""
        step = STEPS[self.current]
        return [n for n, leaf in self._answers.leaves.items() if leaf.step == step]
