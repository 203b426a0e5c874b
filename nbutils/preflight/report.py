"""The verdict card: findings as text, HTML and JSON, the failures first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.preflight.check import Finding

__all__ = ["PreflightReport", "failure_message"]


@dataclass(frozen=True)
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
        return render_text(*self._heading(), self._rows(with_details=False))

    def __str__(self) -> str:
        return self.text

    @property
    def html(self) -> str:
        """The card for a notebook, one HTML fragment."""
        return render_card(*self._heading(), self._rows(with_details=True))

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
        counts: dict[str, int] = dict.fromkeys(("fail", "warn", "skip", "pass"), 0)
        for finding in self.findings:
            counts[finding.severity] += 1
        words = {"fail": "failed", "warn": "to look at", "skip": "skipped"}
        said = [f"{counts[k]} {w}" for k, w in words.items() if counts[k]]
        said.append(f"{counts['pass']} passed")
        cost_s = sum(finding.cost_s for finding in self.findings)
        status: Status = "pass"
        if counts["fail"] or counts["warn"]:
            status = "fail" if counts["fail"] else "warn"
        of = f" of {self.name}" if self.name else ""
        return f"Preflight{of}", status, f"{', '.join(said)} in {cost_s:.1f} s"

    def _rows(self, *, with_details: bool) -> list[Row]:
        return [_row(finding, with_details=with_details) for finding in self.findings]


def _row(finding: Finding, *, with_details: bool) -> Row:
    """Expected and actual always in sight, and what to do about a problem."""
    is_fine = finding.severity in ("pass", "skip")
    words = ("expected", "actual", "why", "fix")
    pairs = [(word, getattr(finding, word)) for word in words if getattr(finding, word)]
    shown = [pair for pair in pairs if not is_fine or pair[0] in words[:2]]
    hidden = [pair for pair in pairs if pair not in shown]
    if with_details:
        hidden += [*finding.details, ("took", f"{finding.cost_s:.2f} s")]
    title = f"{finding.id}  {finding.title}"
    return Row(finding.severity, title, hidden, folded=True, shown_pairs=shown)


def failure_message(report: PreflightReport) -> str:
    """Every failed check in plain text: what was expected, what was found, the fix."""
    failures = report.failures
    noun = "check" if len(failures) == 1 else "checks"
    lines = [f"{len(failures)} preflight {noun} failed:"]
    for finding in failures:
        lines.append(f"{finding.id}: {finding.title}")
        for label in ("expected", "actual", "fix"):
            text = getattr(finding, label)
            if text:
                indented = text.replace("\n", "\n" + " " * 12)
                lines.append(f"  {label + ':':<10}{indented}")
    lines.append('To train all the same: preflight="skip".')
    return "\n".join(lines)
