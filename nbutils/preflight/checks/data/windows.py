"""Part of R1: windows of a series that validate do not overlap those that train."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.data.sources import columns_of
from nbutils.preflight.check import Claims
from nbutils.preflight.column import digests_of
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_windows"]

MIN_LENGTH = 5
MIN_TRAIN = 64
MIN_VAL = 8
MIN_SHARE = 0.3
DISTINCT = 0.5
MAX_BYTES = 2**27


def judge_windows(samples: Samples, claims: Claims) -> None:
    """Whether most windows of val are windows of train, moved on by one.

    A split in time shares those at its border, and no others.
    """
    if not samples.probe.data.has("val") or len(samples.inputs) != 1:
        return
    if "validation is train" in samples.probe.task.declares:
        return
    path = samples.inputs[0]
    ours, theirs = _windows(samples, "train", path), _windows(samples, "val", path)
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return
    if len(ours) < MIN_TRAIN or len(theirs) < MIN_VAL or ours.dtype != theirs.dtype:
        return
    if not samples.is_varied([path]) or not _is_measured(ours):
        return
    heads, tails = digests_of(ours[:, :-1]), digests_of(ours[:, 1:])
    starts, ends = set(heads), set(tails)
    moved = [
        row
        for row, (head, tail) in enumerate(
            zip(digests_of(theirs[:, :-1]), digests_of(theirs[:, 1:]), strict=True)
        )
        if tail in starts or head in ends
    ]
    if len(moved) < MIN_SHARE * len(theirs):
        return
    claims.add(
        "warn",
        "validation windows overlap training windows",
        expected="a split in time, with all windows of val after those of train",
        actual=f"{share_text(len(moved), len(theirs))} val windows are training "
        f"windows moved by one step, the first one is row {moved[0]}",
        fix="Cut the series first, then make windows of each piece; a random split "
        'of overlapping windows shows the answers. Or declare "validation is train".',
    )


def _is_measured(windows: Tensor) -> bool:
    """Floats that seldom repeat; ids and counts of a few values coincide by chance."""
    if not windows.is_floating_point():
        return False
    first = windows[:, 0].reshape(-1)
    return len(first.unique()) > DISTINCT * len(first)


def _windows(samples: Samples, split: str, path: str) -> Tensor | None:
    """All windows ``(N, T, ...)`` of a split, where all are at hand."""
    column, table = samples.column(split, path), samples.table(split)
    if column is None or table is None or column.shape is None:
        return None
    is_series = 1 <= len(column.shape) <= 2 and column.shape[0] >= MIN_LENGTH
    if not is_series:
        return None
    if table.is_whole and column.table is not None:
        return column.table.reshape(-1, *column.shape)
    pool = samples.probe.data.pool(split)
    found = columns_of(pool[0]) if pool and pool[1] is None else None
    if found is None:
        return None
    columns, rows = found
    named = columns if isinstance(columns, dict) else dict(_numbered(columns))
    if path not in named or named[path].numel() * 8 > MAX_BYTES:
        return None
    return named[path] if rows is None else named[path][torch.as_tensor(rows)]


def _numbered(columns: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
    return [(str(number), column) for number, column in enumerate(columns)]
