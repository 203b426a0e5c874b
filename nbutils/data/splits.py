"""Deterministic splits that keep the share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nbutils.errors import ContractError

__all__ = ["stratified_split", "stratified_subset"]

Indices = npt.NDArray[np.int64]


def stratified_split(
    labels: Sequence[object] | npt.NDArray[np.generic],
    fractions: Sequence[float],
    seed: int,
) -> list[Indices]:
    """Index arrays, one per fraction, with every class in each of them.

    The result is a pure function of the arguments: the same on every machine.

    Args:
        labels: One class per sample.
        fractions: Share of each split; positive, summing to 1.
        seed: Origin of the random order.

    Returns:
        Disjoint index arrays in random order that together hold every sample.

    Raises:
        ContractError: The fractions do not sum to 1, or a class has fewer samples
            than there are splits.

    Example:
        >>> [len(part) for part in stratified_split([0, 1] * 10, (0.8, 0.2), seed=0)]
        [16, 4]
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.size == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ContractError(
            f"split fractions are {tuple(fractions)}; each must be above 0 and "
            "their sum must be 1. Change val_fraction or test_fraction."
        )
    members = _members(labels)
    small = [
        f"{name!r} ({len(index)})"
        for name, index in members
        if len(index) < len(shares)
    ]
    if small:
        raise ContractError(
            f"{len(small)} of {len(members)} classes have too few samples for "
            f"{len(shares)} splits: {', '.join(small[:10])}"
            f"{', …' if len(small) > 10 else ''}. Each class needs at least "
            f"{len(shares)}: add samples or remove the class."
        )
    generator = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in shares]
    for _, index in members:
        ends = np.cumsum(_counts(len(index), shares))[:-1]
        pieces = np.split(generator.permutation(index), ends)
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    return [generator.permutation(np.concatenate(part)) for part in parts]


def stratified_subset(
    labels: Sequence[object] | npt.NDArray[np.generic], count: int, seed: int
) -> Indices:
    """Indices of ``count`` samples with class shares as in the whole.

    All indices when ``count`` covers them; never fewer than one of each class.

    Raises:
        ContractError: ``count`` is below the number of classes.
    """
    members = _members(labels)
    total = len(labels)
    if count >= total:
        return np.arange(total, dtype=np.int64)
    if count < len(members):
        raise ContractError(
            f"max_samples is {count}, but there are {len(members)} classes; "
            "it must leave at least one sample of each."
        )
    sizes = np.array([len(index) for _, index in members])
    generator = np.random.default_rng(seed)
    picked = [
        generator.permutation(index)[:size]
        for (_, index), size in zip(members, _counts(count, sizes / total), strict=True)
    ]
    return np.sort(np.concatenate(picked))


def _members(
    labels: Sequence[object] | npt.NDArray[np.generic],
) -> list[tuple[object, Indices]]:
    """Each class with the indices of its samples, classes sorted."""
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    return [
        (name.item(), np.flatnonzero(codes == code)) for code, name in enumerate(names)
    ]


def _counts(total: int, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Whole numbers near ``total * shares``: sum exact, each at least 1."""
    counts = np.maximum(1, np.floor(total * shares)).astype(np.int64)
    while (difference := total - int(counts.sum())) != 0:
        gap = total * shares - counts
        if difference < 0:
            gap = np.where(counts > 1, gap, np.inf)
        counts[np.argmax(gap) if difference > 0 else np.argmin(gap)] += np.sign(
            difference
        )
    return counts
