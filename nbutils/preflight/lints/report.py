"""What the lints found, as text, HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.preflight.check import Finding

__all__ = ["LintReport"]


@dataclass(frozen=True)
class LintReport:
    """The findings of the lints, the gravest first.

    Args:
        name: What was read.
        findings: In the order of the files and lines within a severity.
        num_files: Files that were read.
        seconds: How long it took.
    """

    name: str
    findings: Sequence[Finding]
    num_files: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is certain to be wrong."""
        return all(finding.severity != "fail" for finding in self.findings)

    @property
    def text(self) -> str:
        """The card for a terminal."""
        return render_text(*self._heading(), self._rows())

    def __str__(self) -> str:
        return self.text

    @property
    def html(self) -> str:
        """The card for a page or a notebook, one HTML fragment."""
        return render_card(*self._heading(), self._rows())

    def _repr_html_(self) -> str:
        return self.html

    def json(self) -> str:
        """The findings as JSON text."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"name": self.name, "findings": findings}, indent=2)

    def _heading(self) -> tuple[str, Status, str]:
        num_failed = sum(finding.severity == "fail" for finding in self.findings)
        num_warned = len(self.findings) - num_failed
        status: Status = "fail" if num_failed else "warn" if num_warned else "pass"
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        said = f"{num_failed} failed, {num_warned} to look at"
        outcome = said if self.findings else "nothing found"
        return (
            f"Lint of {self.name}",
            status,
            f"{outcome}; {files}, {self.seconds:.1f} s",
        )

    def _rows(self) -> list[Row]:
        return [_row(finding) for finding in self.findings]


def _row(finding: Finding) -> Row:
    where = dict(finding.details)
    words = ("expected", "actual", "why", "fix")
    pairs = [("at", where.get("at", ""))]
    pairs += [(word, getattr(finding, word)) for word in words]
    title = f"{finding.id}  {finding.title}"
    return Row(finding.severity, title, shown_pairs=pairs)
