"""A check proves one claim about a task and returns a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nbutils.preflight.probe import Probe

__all__ = [
    "BUDGET_S",
    "SEVERITIES",
    "Check",
    "Claims",
    "Finding",
    "Part",
    "Severity",
]

Severity = Literal["pass", "warn", "fail", "skip"]
Pair = tuple[str, str]

SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "skip", "pass")
"""Worst first: the order of a report."""

BUDGET_S = {"static": 5.0, "standard": 60.0, "rehearsal": float("inf")}
"""Seconds that the checks of a depth share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Args:
        id: The check's name in the catalogue; stable.
        severity: ``fail`` stops a run; ``warn`` is worth a look; ``skip``: not judged.
        title: The outcome in one sentence.
        expected: What a healthy task gives.
        actual: What this one gave.
        why: What the check protects from.
        fix: What to do next; empty when nothing is to be done.
        cost_s: Seconds the check took.
        details: ``(label, text)`` pairs, such as the shape of every tensor.
        parts: The claims that the title joins, each with its own words; empty where
            there is but one.
    """

    id: str
    severity: Severity
    title: str
    expected: str = ""
    actual: str = ""
    why: str = ""
    fix: str = ""
    cost_s: float = 0.0
    details: tuple[Pair, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One claim of a check, and its outcome; fields as in :class:`Finding`."""

    severity: Severity
    title: str
    expected: str = ""
    actual: str = ""
    fix: str = ""


@dataclass(slots=True)
class Claims:
    """What a check collects while it runs; the worst claims make the finding."""

    claims: list[Part] = field(default_factory=list)
    details: list[Pair] = field(default_factory=list)

    def add(
        self,
        severity: Severity,
        title: str,
        *,
        expected: str = "",
        actual: str = "",
        fix: str = "",
    ) -> None:
        """Note one claim and its outcome."""
        claim = Part(severity, title, expected, actual, fix)
        if claim not in self.claims:
            self.claims.append(claim)

    def show(self, pairs: Iterable[Pair]) -> None:
        """Put ``(label, text)`` pairs on the card."""
        self.details.extend(pairs)

    @property
    def worst(self) -> Severity:
        """The gravest outcome so far; ``pass`` when nothing was claimed."""
        found = {claim.severity for claim in self.claims} or {"pass"}
        return next(severity for severity in SEVERITIES if severity in found)

    def finding(self, check: Check) -> Finding:
        """The finding: the gravest claims speak, all of them are in the details."""
        worst = self._severity()
        main = [claim for claim in self.claims if claim.severity == worst]
        shown = main if worst != "pass" else main[:1]
        title = "; ".join(claim.title for claim in shown) or check.title
        notes = [(claim.severity, claim.title) for claim in self.claims]
        return Finding(
            id=check.id,
            severity=worst,
            title=check.title if worst == "pass" else title,
            expected=_joined(claim.expected for claim in main),
            actual=_joined(claim.actual for claim in main),
            why=check.why,
            fix=_joined(claim.fix for claim in main),
            details=(*notes, *self.details) if len(notes) > 1 else (*self.details,),
            parts=tuple(main) if len(main) > 1 and worst in ("warn", "fail") else (),
        )

    def _severity(self) -> Severity:
        """As :attr:`worst`; parts skipped beside parts proven do not skip the check."""
        worst = self.worst
        proven = any(claim.severity == "pass" for claim in self.claims)
        return "pass" if worst == "skip" and proven else worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One entry of the catalogue.

    Args:
        id: Its name there.
        title: The claim that it proves.
        why: What goes wrong when the claim is false.
        run: Proves it on a probe.
        depth: The shallowest depth that runs it.
        needs: Ids of checks that must not have failed.
        limit_s: Seconds after which it ends what it can leave out.
    """

    id: str
    title: str
    why: str
    run: Callable[[Probe, Claims], None]
    depth: Literal["static", "standard", "rehearsal"] = "standard"
    needs: Sequence[str] = ()
    limit_s: float = 15.0


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(text for text in texts if text))
