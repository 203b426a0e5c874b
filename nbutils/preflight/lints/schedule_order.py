"""S5: the schedule moves before the optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, is_compatible, of_kind

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    for _, found in source.training:
        for event in of_kind(found, "schedule"):
            if event.loops and not event.node.args and not event.node.keywords:
                yield from _judged(event, found)


def _judged(event: Event, found: list[Event]) -> Iterator[Hit]:
    """A step in the same turn of the loop, and all of them below the schedule's."""
    steps = [
        step
        for step in of_kind(found, "step")
        if event.loops == step.loops[: len(event.loops)]
        and is_compatible(step.path, event.path)
        and set(event.path) <= set(step.path)
    ]
    if steps and all(step.node.lineno > event.node.lineno for step in steps):
        yield Hit(
            line=event.node.lineno,
            title=f"{event.who}.step() comes before {steps[0].who}.step()",
            expected="the optimizer steps first, then the schedule",
            actual=f"{event.who} moves first: the first learning rate is never used",
            fix=f"Move {event.who}.step() below {steps[0].who}.step().",
            severity="warn",
        )


RULE = Rule(
    "S5.schedule-order",
    "The curve is shifted by a step; with warm-up or one cycle its ends are wrong.",
    _run,
    (".step(",),
)
