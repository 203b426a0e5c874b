"""The verdict card: findings as text, HTML and JSON, the failures first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.preflight.check import BUDGET_S, Finding, Part

__all__ = ["PreflightReport", "failure_message"]

FOLLOWS = ("did not pass", "did not end")
"""How the title of a check ends that was skipped since it needs another."""


@dataclass(frozen=True, repr=False)
class PreflightReport:
    """What preflight found.

    Args:
        findings: The gravest first.
        verdict: What was proven, as plain data; it is kept with the run.
        name: Name of the task.
    """

    findings: Sequence[Finding]
    verdict: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        """The findings that stop a run."""
        return [f for f in self.findings if f.severity == "fail"]

    @property
    def text(self) -> str:
        """The card for a terminal."""
        return render_text(*self._heading(), self._rows())

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    @property
    def html(self) -> str:
        """The card for a notebook, one HTML fragment."""
        return render_card(*self._heading(), self._rows())

    def _repr_html_(self) -> str:
        return self.html

    def json(self) -> str:
        """Findings and verdict as JSON text."""
        findings = [asdict(finding) for finding in self.findings]
        body = {"name": self.name, "verdict": self.verdict, "findings": findings}
        return json.dumps(body, indent=2, ensure_ascii=False)

    def save(self, directory: str | Path) -> Path:
        """Write ``preflight.json`` and ``preflight.html``; returns the folder."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("json", self.json()), ("html", self.html)):
            target = directory / f"preflight.{name}"
            unfinished = target.with_suffix(f".{name}.partial")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(target)
        return directory

    def _heading(self) -> tuple[str, Status, str]:
        words = {"fail": "failed", "warn": "to look at", "skip": "skipped"}
        counts = {kind: _number(self._of(kind)) for kind in (*words, "pass")}
        said = [
            f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind]
        ]
        said.append(f"{counts['pass']} passed")
        status: Status = "pass"
        if counts["fail"] or counts["warn"]:
            status = "fail" if counts["fail"] else "warn"
        of = f" of {self.name}" if self.name else ""
        took = f"{_cost(self.findings)}{self._budget()}"
        return f"Preflight{of}", status, f"{', '.join(said)} in {took}"

    def _budget(self) -> str:
        """What the depth allows for, where there is a limit."""
        depth = str(self.verdict.get("depth", ""))
        limit_s = BUDGET_S.get(depth, math.inf)
        return f" ({depth}: up to {limit_s:.0f} s)" if math.isfinite(limit_s) else ""

    def _of(self, severity: str) -> list[Finding]:
        return [f for f in self.findings if f.severity == severity]

    def _rows(self) -> list[Row]:
        """Failures and warnings one by one; what was skipped and passed on one line."""
        rows = [
            row
            for severity in ("fail", "warn")
            for finding in self._of(severity)
            for row in _problem_rows(finding)
        ]
        if skipped := self._of("skip"):
            rows.append(_skipped_row(skipped))
        if passed := self._of("pass"):
            ids = " ".join(finding.id for finding in passed)
            title = f"{len(passed)} passed in {_cost(passed)}: {ids}"
            inner = [_quiet_row(finding) for finding in passed]
            rows.append(Row("pass", title, folded=True, rows=inner))
        return rows


def _number(findings: Sequence[Finding]) -> int:
    """Claims that a reader sees, of which a check may make several."""
    return sum(max(len(finding.parts), 1) for finding in findings)


def _cost(findings: Sequence[Finding]) -> str:
    return f"{sum(finding.cost_s for finding in findings):.1f} s"


def _problem_rows(finding: Finding) -> Iterator[Row]:
    """A row for each claim: expected, actual and fix in sight, the rest folded."""
    hidden = [("why", finding.why)] if finding.why else []
    hidden += [*finding.details, ("took", f"{finding.cost_s:.2f} s")]
    for part in finding.parts or (finding,):
        words = ("expected", "actual", "fix")
        shown = [(word, getattr(part, word)) for word in words if getattr(part, word)]
        title = f"{finding.id}  {part.title}"
        yield Row(finding.severity, title, hidden, folded=True, shown_pairs=shown)
        hidden = []


def _skipped_row(skipped: Sequence[Finding]) -> Row:
    """One line; reasons of their own are in sight, those that only follow are not."""
    own = [finding for finding in skipped if not finding.title.endswith(FOLLOWS)]
    shown = [(finding.id, finding.title) for finding in own]
    ids = " ".join(finding.id for finding in skipped)
    inner = [_quiet_row(finding) for finding in skipped]
    title = f"{len(skipped)} skipped: {ids}"
    return Row("skip", title, folded=True, shown_pairs=shown, rows=inner)


def _quiet_row(finding: Finding) -> Row:
    """A finding that asks for nothing; all but its title is folded."""
    words = ("expected", "actual")
    pairs = [(word, getattr(finding, word)) for word in words if getattr(finding, word)]
    pairs += [*finding.details, ("took", f"{finding.cost_s:.2f} s")]
    title = f"{finding.id}  {finding.title}"
    return Row(finding.severity, title, pairs, folded=True)


def failure_message(report: PreflightReport) -> str:
    """Every failed check in plain text: what was expected, what was found, the fix."""
    failures = report.failures
    noun = "check" if len(failures) == 1 else "checks"
    lines = [f"{len(failures)} preflight {noun} failed:"]
    for finding in failures:
        for part in finding.parts or (finding,):
            lines += _told(finding.id, part)
    lines.append('To train all the same: preflight="skip".')
    return "\n".join(lines)


def _told(name: str, part: Finding | Part) -> Iterator[str]:
    yield f"{name}: {part.title}"
    for label in ("expected", "actual", "fix"):
        text = getattr(part, label)
        if text:
            indented = text.replace("\n", "\n" + " " * 12)
            yield f"  {label + ':':<10}{indented}"
