"""Windows: the batches that together make one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

__all__ = ["windows"]


def windows(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Group batches into windows of ``size``; the last may be short, never lost.

    Example:
        >>> list(windows("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(batches)
    while window := list(islice(iterator, size)):
        yield window
