"""``doctor()``: facts about this machine, and advice where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from nbutils.environment.advice import Advice
from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.environment.facts import ABILITIES, PACKAGES, facts_of
from nbutils.environment.machine import inspect_machine
from nbutils.environment.rules import advise
from nbutils.errors import EnvironmentProblem

__all__ = ["DoctorReport", "doctor"]


@dataclass(frozen=True, slots=True, repr=False)
class DoctorReport:
    """What the doctor found.

    Args:
        facts: Measured values by name, in words.
        advice: What to change, the most urgent first; empty on a healthy machine.
    """

    facts: Mapping[str, str]
    advice: Sequence[Advice]

    @property
    def ok(self) -> bool:
        """Whether a run can start here: no advice is a failure."""
        return not any(advice.severity == "fail" for advice in self.advice)

    def to_dict(self) -> dict[str, Any]:
        """Facts and advice as plain data, for ``environment.json``."""
        return {
            "ok": self.ok,
            "facts": dict(self.facts),
            "advice": [asdict(advice) for advice in self.advice],
        }

    def to_json(self) -> str:
        """Facts and advice as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """The card for a terminal."""
        pairs = [(label, fill(text, 76)) for label, text in self.facts.items()]
        facts = Row("info", "This machine", pairs)
        return render_text(*self._heading(), [*self._advice_rows(), facts])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The card for a notebook."""
        rows = [*self._advice_rows(), *self._fact_rows()]
        return render_card(*self._heading(), rows)

    def _heading(self) -> tuple[str, Status, str]:
        """Title, verdict and subtitle of the card."""
        counts = {"fail": 0, "warn": 0, "info": 0}
        for advice in self.advice:
            counts[advice.severity] += 1
        status: Status = "pass"
        if counts["warn"] or counts["fail"]:
            status = "fail" if counts["fail"] else "warn"
        words = {"fail": "to mend first", "warn": "to look at", "info": "to know"}
        said = [f"{counts[key]} {words[key]}" for key in words if counts[key]]
        return "Doctor", status, ", ".join(said) or "this machine is ready to train"

    def _advice_rows(self) -> list[Row]:
        """One open row for each piece of advice."""
        return [
            Row(a.severity, a.what, (("why", a.why), ("fix", a.fix)))
            for a in self.advice
        ]

    def _fact_rows(self) -> list[Row]:
        """The facts in one open row; abilities and versions folded beneath it."""
        folded = {PACKAGES, *ABILITIES}
        facts = [(k, v) for k, v in self.facts.items() if k not in folded]
        able = [(k, self.facts[k]) for k in ABILITIES if k in self.facts]
        packages = self.facts.get(PACKAGES, "").split(", ")
        pairs = [(a, b) for a, _, b in (item.rpartition(" ") for item in packages) if a]
        rows = [Row("info", "This machine", facts)]
        if able:
            rows.append(Row("info", "What the device can do", able, folded=True))
        return [*rows, Row("info", f"{len(pairs)} packages", pairs, folded=True)]


def doctor(*, strict: bool = False, thorough: bool = True) -> DoctorReport:
    """Facts about this machine and advice on it; imports torch, trains nothing.

    Args:
        strict: Raise when a run could not start here.
        thorough: Also measure how fast the disk is; once in a process.

    Raises:
        EnvironmentProblem: ``strict``, and at least one piece of advice is a failure.
    """
    machine = inspect_machine(thorough=thorough)
    report = DoctorReport(facts_of(machine), tuple(advise(machine)))
    if strict and not report.ok:
        failures = [str(a) for a in report.advice if a.severity == "fail"]
        noun = "problem stops" if len(failures) == 1 else "problems stop"
        raise EnvironmentProblem(
            "\n".join([f"{len(failures)} {noun} a run on this machine:", *failures])
        )
    return report
