"""Which rented cards hold a run, and what to change when none does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nbutils.preflight.fake.plan import MemoryPlan, size_text

__all__ = [
    "CARDS",
    "Card",
    "Change",
    "advise",
    "card_table",
    "fitting",
    "smaller_batch",
]

USABLE = 0.92
"""Share of a card's memory for tensors; the rest is the driver's context, libraries'
workspaces and gaps between blocks."""
MANY = 4096
WORTH = 0.01
"""Share of the total below which a change is not worth a line."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card to rent, with its memory in GiB."""

    name: str
    memory_gib: int

    @property
    def usable(self) -> float:
        """Bytes for tensors."""
        return USABLE * self.memory_gib * 2**30

    def __str__(self) -> str:
        return f"{self.name} {self.memory_gib} GB"


CARDS = (
    Card("T4", 16),
    Card("L4", 24),
    Card("A5000", 24),
    Card("A100", 40),
    Card("A100", 80),
    Card("H100", 80),
    Card("H200", 141),
)


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that saves memory: what to set, and the plan that follows.

    The text may name ``{batch_size}`` and ``{accumulation}`` of that plan.
    """

    text: str
    apply: Callable[[MemoryPlan], MemoryPlan]


def fitting(plan: MemoryPlan) -> list[Card]:
    """The cards that hold the run as it is planned."""
    return [card for card in CARDS if plan.total <= card.usable]


def card_table(plan: MemoryPlan) -> str:
    """One line per card: whether the planned batch fits, and the largest that does."""
    width = max(len(str(card)) for card in CARDS)
    return "\n".join(f"{card!s:<{width}}  {_verdict(plan, card)}" for card in CARDS)


def advise(plan: MemoryPlan, changes: Sequence[Change]) -> str:
    """The changes that make a card suffice, those that save most first."""
    left = list(changes)
    lines: list[str] = []
    while left and not fitting(plan):
        best = min(left, key=lambda change: change.apply(plan).total)
        left.remove(best)
        after = best.apply(plan)
        if plan.total - after.total < WORTH * plan.total:
            break
        text = best.text.format(
            batch_size=after.batch_size,
            accumulation=math.ceil(plan.batch_size / after.batch_size),
        )
        saved = size_text(plan.total - after.total)
        lines.append(f"{len(lines) + 1}. {text}: saves {saved}")
        plan = after
    return "\n".join([*lines, _outcome(plan, is_changed=bool(lines))])


def smaller_batch(plan: MemoryPlan) -> MemoryPlan:
    """The plan with the largest micro-batch, a power of two, that a card holds."""
    most = max(plan.largest_batch(card.usable) for card in CARDS)
    most = max(1, min(most, plan.batch_size - 1))
    return plan.at(2 ** (most.bit_length() - 1))


def _verdict(plan: MemoryPlan, card: Card) -> str:
    largest = plan.largest_batch(card.usable)
    if plan.total <= card.usable:
        text = f"{largest:,}" if largest < MANY else f"over {MANY:,}"
        return f"fits; micro-batch up to about {text}"
    if largest:
        return f"does not fit; micro-batch up to about {largest:,} would"
    return f"does not fit: {size_text(plan.total_at(1))} for one sample"


def _outcome(plan: MemoryPlan, *, is_changed: bool) -> str:
    needed = size_text(plan.total)
    if cards := fitting(plan):
        names = ", ".join(map(str, cards))
        return f"Then {needed} are needed, which fits {names}."
    largest = max(CARDS, key=lambda card: card.memory_gib)
    count = math.ceil(plan.total / largest.usable)
    start = f"Even then {needed} are" if is_changed else f"{needed} are"
    return (
        f"{start} needed: at least {count} x {largest} with the model sharded (FSDP), "
        "or fewer trainable parameters (a frozen base with adapters)."
    )
