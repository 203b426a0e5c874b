"""One piece of advice about this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Advice", "Severity"]

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What was found, why it matters and the command that mends it.

    Args:
        severity: ``fail`` stops a run, ``warn`` costs time or data, ``info`` is
            worth knowing.
        what: What was found, with its value.
        why: What it leads to.
        fix: What to type or click.
    """

    severity: Severity
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        """The advice as three lines."""
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"
