"""What a rule is, and how rules write numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine

__all__ = ["GIB", "MIB", "Rule", "size"]

GIB = 2**30
MIB = 2**20

Rule = Callable[[Machine], Iterator[Advice]]


def size(num_bytes: float) -> str:
    """Bytes as a reader's number.

    Example:
        >>> size(64 * MIB)
        '64 MiB'
    """
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.0f} MiB"
