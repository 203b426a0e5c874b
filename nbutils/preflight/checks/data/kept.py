"""Part of R3: a collate keeps samples, their lengths, and each field its own values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims

__all__ = ["Collated", "is_row", "judge_kept"]


class Collated:
    """Some samples by their parts, and the batch that a collate made of them.

    Args:
        columns: Path of a sample's part -> its value in each sample.
        batch: What the collate made of the samples.
    """

    def __init__(self, columns: dict[str, list[Tensor]], batch: Any) -> None:
        self.columns = columns
        self.fields = {path: t for path, t in tensors(batch) if t.ndim}
        self.size = len(next(iter(columns.values()), []))

    def pairs(self) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
        """Fields of the batch that bear the name of a part of the samples."""
        for path, field in self.fields.items():
            if path in self.columns:
                yield path, field, self.columns[path]


def judge_kept(split: str, groups: list[Collated], claims: Claims) -> bool:
    """Judge what the collate made of several groups of samples; whether it is wrong.

    What counts must show in every group: one of them may look so by chance.
    """
    judges = (_judge_dropped, _judge_cut, _judge_repeated, _judge_mixed)
    return any(judge(split, groups, claims) for judge in judges)


def _judge_dropped(split: str, groups: list[Collated], claims: Claims) -> bool:
    """Rows that are samples, whole, and samples that are in no row."""
    missing = [_num_missing(group) for group in groups]
    if not all(missing):
        return False
    claims.add(
        "warn",
        "the collate drops samples",
        expected=f"{groups[0].size} samples in a {split} batch made of as many",
        actual=f"{groups[0].size - missing[0]} of them; the others are in no row",
        fix="Pad or sort what differs in size; choose samples in the dataset, where "
        "they are counted.",
    )
    return True


def _num_missing(group: Collated) -> int:
    """Samples that left no row, where every row is one of the samples."""
    for _, field, values in group.pairs():
        num_rows = field.shape[0]
        if not 0 < num_rows < group.size:
            continue
        found = [_hits(row, values) for row in field]
        if all(len(hits) == 1 for hits in found):
            return group.size - len({hits[0] for hits in found})
    return 0


def _judge_cut(split: str, groups: list[Collated], claims: Claims) -> bool:
    """Fields as long as the shortest sample, whichever that is."""
    shortest: set[int] = set()
    longest, path = 0, ""
    for group in groups:
        cut = next((p for p in group.pairs() if _is_cut(p[1], p[2])), None)
        if cut is None:
            return False
        path, lengths = cut[0], [len(value) for value in cut[2]]
        shortest.add(min(lengths))
        longest = max(longest, *lengths)
    if len(shortest) < 2:
        return False  # may be a length that was chosen
    claims.add(
        "warn",
        "the collate cuts every sample to the length of the shortest one",
        expected=f"'{path}' of a {split} batch as long as its longest sample, padded",
        actual=f"lengths {sorted(shortest)} in {len(groups)} groups of samples of up "
        f"to {longest}",
        fix="Pad with torch.nn.utils.rnn.pad_sequence, or cut to a fixed length.",
    )
    return True


def _is_cut(field: Tensor, values: list[Tensor]) -> bool:
    if any(value.ndim < 1 for value in values) or field.ndim < 2:
        return False
    lengths = [len(value) for value in values]
    size = min(lengths)
    is_short = field.shape[:2] == (len(values), size) and size < max(lengths)
    return is_short and all(
        row.shape == value[:size].shape
        and bool((row == value[:size]).all() or (row == value[-size:]).all())
        for row, value in zip(field, values, strict=True)
    )


def _judge_repeated(split: str, groups: list[Collated], claims: Claims) -> bool:
    """A field with one sample's value in every row, though the samples differ."""
    names = [{p for p, field, v in g.pairs() if _is_repeated(field, v)} for g in groups]
    common = set.intersection(*names)
    if not common:
        return False
    path = min(common)
    claims.add(
        "warn",
        "the collate repeats one sample's value in every row",
        expected=f"row i of '{path}' in a {split} batch from sample i",
        actual=f"one value in all rows, in each of {len(groups)} groups of samples "
        "that differ in it",
        fix="Read the field of each sample in the collate, not of the first or last.",
    )
    return True


def _is_repeated(field: Tensor, values: list[Tensor]) -> bool:
    if len(field) != len(values) or bool((field != field[:1]).any()):
        return False
    differ = any(not _is_equal(value, values[0]) for value in values)
    return differ and any(is_row(field[0], value) for value in values)


def _judge_mixed(split: str, groups: list[Collated], claims: Claims) -> bool:
    """A field that holds the values of another part of the samples."""
    found = [set(_mixed(group)) for group in groups]
    common = set.intersection(*found)
    if not common:
        return False
    path, other = min(common)
    claims.add(
        "warn",
        f"the collate puts '{other}' of the samples into '{path}'",
        expected=f"'{path}' of a {split} batch made of the samples' own part of it",
        actual=f"its rows are equal to '{other}' of each sample instead",
        fix="Correct the name that the collate reads.",
    )
    return True


def _mixed(group: Collated) -> Iterator[tuple[str, str]]:
    for path, field, own in group.pairs():
        if len(field) != len(own) or _holds(field, own):
            continue
        for name, values in group.columns.items():
            if values is not own and _holds(field, values) and _differ(values):
                yield path, name


def _holds(field: Tensor, values: list[Tensor]) -> bool:
    return all(is_row(row, value) for row, value in zip(field, values, strict=True))


def _differ(values: list[Tensor]) -> bool:
    """Whether enough of the values differ to tell parts apart."""
    return sum(not _is_equal(value, values[0]) for value in values) > len(values) // 2


def is_row(row: Tensor, value: Tensor) -> bool:
    """Whether a row is a value, possibly padded at the end or at the start."""
    if row.shape == value.shape or row.numel() == value.numel() == 1:
        return bool((row.reshape(-1) == value.reshape(-1)).all())
    is_padded = row.ndim == value.ndim > 0 and row.shape[1:] == value.shape[1:]
    if not is_padded or not 0 < value.shape[0] <= row.shape[0]:
        return False
    size = value.shape[0]
    return bool((row[:size] == value).all() or (row[-size:] == value).all())


def _hits(row: Tensor, values: list[Tensor]) -> list[int]:
    return [i for i, value in enumerate(values) if is_row(row, value)]


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
