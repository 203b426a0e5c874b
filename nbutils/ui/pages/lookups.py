"""The buttons of each page that look something up; torch is loaded on the first press.

Nothing here runs when the form is drawn: under Run All the wizard returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils.config import RunConfig
from nbutils.ui.kit import Kit
from nbutils.ui.pages.inquiry import Answer, Guard, Inquiry, Question, Say

if TYPE_CHECKING:
    from nbutils.ui.pages.findings import Findings

__all__ = ["Lookups"]

MODEL = (
    "architecture",
    "pretrained",
    "image_size",
    "drop_rate",
    "gradient_checkpointing",
    "batch_size",
    "precision",
    "device",
    "optimizer",
    "ema_decay",
)
TIME = (*MODEL, "data_dir", "max_samples", "val_fraction", "test_fraction", "epochs")
TIME += ("max_steps", "max_hours", "accumulation", "num_workers", "drop_last")


class Lookups:
    """One inquiry per page, and what they share.

    Args:
        kit: Makes and registers every widget.
        guard: Wraps callbacks.
        draft: The settings as they are on the form.
        raw: The raw answers as they are on the form.
        on_trouble: Gets the page's name and the sentences of an error.
        on_offer: Takes settings over that an answer offered.
        price: The price of an hour as it is on the form; none if not known.
        chosen: The preset that is chosen.
    """

    def __init__(
        self,
        kit: Kit,
        guard: Guard,
        draft: Callable[[], RunConfig],
        raw: Callable[[], Mapping[str, Any]],
        on_trouble: Callable[[str, Sequence[str]], None],
        on_offer: Callable[[Mapping[str, Any]], None],
        price: Callable[[], float | None],
        chosen: Callable[[], str | None],
    ) -> None:
        self._price, self._chosen = price, chosen
        self._found: Findings | None = None

        def inquiry(name: str, *questions: Question, watches: Sequence[str]) -> Inquiry:
            def trouble(sentences: Sequence[str]) -> None:
                on_trouble(name, sentences)

            return Inquiry(
                kit, guard, draft, raw, trouble, on_offer, questions, watches
            )

        self.presets = inquiry("Presets", self._presets_question(), watches=())
        self.data = inquiry(
            "Data", self._data_question(), watches=("data_dir", "max_samples")
        )
        self.model = inquiry("Model", self._model_question(), watches=MODEL)
        self.time = inquiry("Training", *self._time_questions(), watches=TIME)
        self.checks = inquiry("Review", self._checks_question(), watches=tuple(raw()))
        self.all = (self.presets, self.data, self.model, self.time, self.checks)

    def refresh(self) -> None:
        """Mark answers that are about other settings than those on the form."""
        for inquiry in self.all:
            inquiry.refresh()

    @property
    def findings(self) -> Findings:
        """What was found so far."""
        if self._found is None:
            from nbutils.ui.pages.findings import Findings

            self._found = Findings()
        self._found.price = self._price()
        return self._found

    def _presets_question(self) -> Question:
        def answer(config: RunConfig, say: Say) -> Answer:
            from nbutils.ui.pages.cards import comparison_html

            del config
            rows: list[Any] = []
            html = ""
            for row in self.findings.compare():
                rows.append(row)
                html = comparison_html(rows, self._chosen())
                say(html)
            return Answer(html=html)

        return Question(
            text="Compare presets on this machine",
            tip="Parameters, memory, time and cost of each preset; some seconds",
            busy="Working out each preset; the first one loads torch …",
            answer=answer,
        )

    def _data_question(self) -> Question:
        def answer(config: RunConfig, _: Say) -> Answer:
            from nbutils.ui.pages.cards import look_html

            return Answer(html=look_html(self.findings.look(config)))

        return Question(
            text="Look at the data",
            tip="Count files and classes and open a few samples; up to five seconds",
            busy="Looking at the data …",
            answer=answer,
        )

    def _model_question(self) -> Question:
        def answer(config: RunConfig, _: Say) -> Answer:
            from nbutils.recipes.beforehand import weights_problem
            from nbutils.ui.pages.cards import model_html

            found, count, is_assumed = self.findings.check(config)
            problem = weights_problem(config)
            html = model_html(
                found,
                count,
                is_assumed=is_assumed,
                remarks=[problem] if problem else (),
            )
            return Answer(html=html, offer=found.changes)

        return Question(
            text="Check the model",
            tip="Parameters, input and memory against this device; no weights are made",
            busy="Walking through a step without values; this takes some seconds …",
            answer=answer,
        )

    def _time_questions(self) -> list[Question]:
        def ask(*, measure: bool) -> Callable[[RunConfig, Say], Answer]:
            def answer(config: RunConfig, _: Say) -> Answer:
                from nbutils.ui.pages.cards import estimate_html

                found = self.findings
                estimate = found.estimate(config, measure=measure)
                return Answer(html=estimate_html(estimate, config, found.price))

            return answer

        return [
            Question(
                text="Estimate time and cost",
                tip="A lower bound from counted operations; nothing is trained",
                busy="Counting operations …",
                answer=ask(measure=False),
            ),
            Question(
                text="Measure a step",
                tip="Time real steps on made-up samples on this machine; up to 15 s",
                busy="Making the model and timing its steps …",
                answer=ask(measure=True),
            ),
        ]

    def _checks_question(self) -> Question:
        def answer(config: RunConfig, _: Say) -> Answer:
            return Answer(html=_static_checks(config, self.findings))

        return Question(
            text="Run the static checks",
            tip="The part of preflight that reads no data: settings, code and shapes",
            busy="Running the static checks …",
            answer=answer,
        )


def _static_checks(config: RunConfig, findings: Findings) -> str:
    """The report of the static checks on the recipe's outline, or on its task."""
    from nbutils.preflight.runner import preflight
    from nbutils.recipes import build_task
    from nbutils.recipes.beforehand import has_outline, outline

    note = ""
    if has_outline(config):
        count, is_assumed = findings.num_classes(config)
        task = outline(config, count)
        note = _NO_DATA if is_assumed else ""
    else:
        task = build_task(config)
    report = preflight(task, config, depth="static", on_failure="return")
    return note + report.html


_NO_DATA = (
    '<p class="nbu-remark">! The data is not on this machine or could not be counted; '
    "the checks assume 10 classes.</p>"
)
