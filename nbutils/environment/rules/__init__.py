"""From what was measured to advice: small rules, silent on a healthy machine."""

from __future__ import annotations

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine
from nbutils.environment.rules import device, host, known_bad, packages, storage
from nbutils.environment.rules.rule import Rule

__all__ = ["RULES", "advise"]

RULES: tuple[Rule, ...] = (
    *packages.RULES,
    known_bad.known_bad_rule,
    *device.RULES,
    *host.RULES,
    *storage.RULES,
)


def advise(machine: Machine) -> list[Advice]:
    """Advice on a machine, the most urgent first."""
    order = ("fail", "warn", "info")
    found = [advice for rule in RULES for advice in rule(machine)]
    return sorted(found, key=lambda advice: order.index(advice.severity))
