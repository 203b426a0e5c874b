"""The wizard's face: its pages in their frame, kept in line with the answers.

It shows what :class:`Answers` holds and passes clicks on; it decides nothing about
values. Back never discards, Next is always enabled and says what is in the way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nbutils.errors import ConfigError
from nbutils.ui.answers import Answers, Problem
from nbutils.ui.fields import FormBuilder
from nbutils.ui.frame import STEPS, Frame, marks_of
from nbutils.ui.kit import Kit, alert_html, focus_soon, guarded
from nbutils.ui.leaves import format_value, label_of
from nbutils.ui.looks import banner_html
from nbutils.ui.notes import Notes
from nbutils.ui.pages.lookups import Lookups
from nbutils.ui.pages.price import PriceField
from nbutils.ui.pages.secret import SecretField
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
            "undo": guard(self._preset_undone),
        }
        saves = self._answers.source.path is not None
        self.frame = Frame(self._kit, actions, self._answers.preset, saves=saves)
        self.form = FormBuilder(self._kit, guard(self._edited))
        self._notes = Notes(self._answers, self.form)
        self.key = SecretField(
            self._kit, "WANDB_API_KEY", "W&B API key", guard, self.refresh
        )
        self.price = PriceField(self._kit, guard, self.refresh)
        self.lookups = Lookups(
            self._kit,
            guard,
            draft=self._answers.draft,
            raw=lambda: self._answers.raw,
            on_trouble=self._tell_trouble,
            on_offer=self._take_offer,
            price=lambda: self.price.value,
            chosen=lambda: self._answers.preset,
        )
        self.review = self._kit.make("HTML", layout={"width": "auto"})
        self.pages = [self._page(step) for step in STEPS]
        self.refresh()

    def close(self) -> None:
        """Close every widget model; harmless to repeat."""
        self.key.forget()
        self._kit.close()

    def take_over(self, earlier: WizardView) -> None:
        """Keep what was typed into another form beside its answers."""
        self.key.take_over(earlier.key)
        self.price.widget.value = earlier.price.widget.value
        self.refresh()

    def go(self, index: int) -> None:
        """Turn to a page; forwards only when this one has no problem."""
        if index > self.current and self._answers.problems(self._leaves_here()):
            self._alert_scope = "page"
            self.refresh()
            self._focus_problem()
            return
        self._alert_scope = "none"
        self.current = min(max(index, 0), len(STEPS) - 1)
        self._visited.add(self.current)
        self.refresh()
        first = self.form.first_of(self.pages[self.current])
        focus_soon(self.lookups.checks.buttons[0] if first is None else first)

    def show_problems(self) -> None:
        """List all problems and turn to the first page that has one."""
        self._alert_scope = "all"
        self._visited.update(range(len(STEPS)))
        first = next((p.leaf for p in self._owner.problems() if p.leaf), None)
        if first is not None:
            self.current = STEPS.index(self._answers.leaves[first].step)
        self.refresh()
        self._focus_problem()

    def applied(self) -> None:
        """Take over what is no config: the key and the price."""
        self.key.apply()
        self.price.apply()

    def pending(self) -> list[str]:
        """What beside the config is not applied."""
        return [field.label for field in (self.key, self.price) if field.is_pending]

    def refresh(self) -> None:
        """Bring every part in line with the answers."""
        problems = self._owner.problems()
        wrong = {self._answers.leaves[p.leaf].step for p in problems if p.leaf}
        marks = marks_of(wrong, self._visited - {self.current})
        self.frame.show_page(self.current, self.pages[self.current], marks)
        pending = [label_of(name) for name in self._owner.pending()]
        self.frame.banner.value = banner_html(pending, self._owner.applied_text())
        self._notes.refresh(problems)
        answers = self._answers
        self.frame.tell_preset(
            answers.moved_by_preset, len(answers.touched), can_undo=answers.can_undo
        )
        self._refresh_alert(problems)
        self._refresh_review(problems)
        self.key.refresh(is_used="wandb" in str(self._answers.raw["tracker"]))
        self.lookups.refresh()

    def _edited(self, name: str, raw: Any) -> None:
        self._answers.edit(name, raw)
        self._put_answers()
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
        self._put_answers()
        self.refresh()

    def _preset_undone(self) -> None:
        self._answers.undo_preset()
        self.frame.preset.value = self._answers.preset
        self._put_answers()
        self.refresh()
        focus_soon(self.frame.preset)  # the button that was pressed is out of sight

    def _put_answers(self) -> None:
        """Show what the answers hold, where the user did not type it."""
        for name, field in self.form.fields.items():
            if field.widget.value != self._answers.raw[name]:
                field.put(self._answers.raw[name])

    def _tell_trouble(self, step: str, sentences: Sequence[str]) -> None:
        self._notes.tell_trouble(step, sentences)
        self.refresh()

    def _take_offer(self, settings: Mapping[str, Any]) -> None:
        """Take settings that a look offered, as answers of the user's."""
        for name, value in settings.items():
            self._answers.edit(name, format_value(value))
        self._put_answers()
        self.refresh()

    def _show_crash(self, html: str) -> None:
        self.frame.alert.value = html

    def _page(self, step: str) -> Any:
        """Fields of a step, and what else belongs on its page."""
        leaves = [leaf for leaf in self._answers.leaves.values() if leaf.step == step]
        looks = self.lookups
        top = {"Data": [self.frame.preset_row, looks.presets.box]}
        bottom = {
            "Data": [looks.data.box],
            "Model": [looks.model.box],
            "Training": [self.price.row, looks.time.box],
            "Review": [self.review, looks.checks.box],
        }
        return self.form.page(
            step,
            leaves,
            self._answers.raw,
            top=top.get(step, []),
            bottom=bottom.get(step, []),
            after={"run_name": self.key.row},
        )

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

    def _focus_problem(self) -> None:
        """Unfold and put the keyboard into the first field with a problem here."""
        here = self._leaves_here()
        wrong = [p.leaf for p in self._owner.problems() if p.leaf in here]
        if wrong and wrong[0] is not None:
            self.form.reveal(wrong[0])
            focus_soon(self.form.fields[wrong[0]].widget)

    def _leaves_here(self) -> list[str]:
        """Leaves of the page on show."""
        step = STEPS[self.current]
        return [n for n, leaf in self._answers.leaves.items() if leaf.step == step]
