"""Part of R3: row ``i`` of each field of a batch comes from one sample."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nbutils.data.collate import collate
from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.data.end_token import judge_end_token
from nbutils.preflight.checks.data.kept import Collated, is_row, judge_kept
from nbutils.preflight.column import as_array
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.scan import leaves

__all__ = ["judge_rows"]

NUM_SAMPLES = 12
NUM_GROUPS = 3
MIN_SAMPLES = 3


def judge_rows(probe: Probe, claims: Claims) -> None:
    """Collate some samples, and look which sample each row of each field is."""
    for split in ("train", "val"):
        if not probe.data.has(split):
            continue
        loader, data = probe.data.loader(split), probe.data.samples(split)
        if data is None or not isinstance(loader, OrderedLoader):
            continue
        if loader.plan.collate in (collate, default_collate):
            continue
        groups: list[Collated] = []
        for samples in _groups(data, loader):
            given, combine = copy.deepcopy(samples), loader.plan.collate
            batch, error = attempt(partial(combine, given))
            if error is not None:
                break
            groups.append(Collated(_columns(samples), batch))
        if groups:
            _judge_batch(split, groups[0], claims)
        if len(groups) == NUM_GROUPS and judge_kept(split, groups, claims):
            return  # the same collate would be told twice
        if judge_end_token(split, groups, claims):
            return


def _groups(data: Any, loader: OrderedLoader) -> list[list[Any]]:
    """Some samples of each of the first batches, or of parts of a single one."""
    found = [
        loader.indices(number)[:NUM_SAMPLES]
        for number in range(min(NUM_GROUPS, len(loader)))
    ]
    if len(found) < NUM_GROUPS:
        whole = [index for group in found for index in group]
        size = len(whole) // NUM_GROUPS
        if size >= MIN_SAMPLES:
            found = [whole[i * size : (i + 1) * size] for i in range(NUM_GROUPS)]
    return [[data[i] for i in group] for group in found if len(group) >= MIN_SAMPLES]


def _judge_batch(split: str, group: Collated, claims: Claims) -> None:
    """Fields that are whole on their own, and do not belong together."""
    columns = group.columns
    fields = {p: t for p, t in group.fields.items() if t.shape[0] == group.size}
    anchors = {
        (path, name): order
        for path, tensor in fields.items()
        for name, values in columns.items()
        if (order := _order(tensor, values)) is not None
    }
    if not anchors:
        return
    (anchor, source), order = min(anchors.items(), key=lambda item: item[0][0])
    for name, values in columns.items():
        if name == source:
            continue
        made = [p for p, t in fields.items() if _is_rearranged(t, values)]
        if not made or any(_follows(fields[p], values, order) for p in made):
            continue
        row = _first_wrong(fields[made[0]], values, order)
        claims.add(
            "warn",
            f"the collate mixes up rows: '{anchor}' and '{made[0]}' of a {split} batch",
            expected="row i of each field from one sample",
            actual=f"row {row}: '{anchor}' is that of sample {order[row]} of the "
            f"batch, '{made[0]}' is that of another one",
            fix="Sort or shuffle samples in the collate as a whole, before their "
            "fields are taken apart.",
        )


def _columns(samples: list[Any]) -> dict[str, list[Tensor]]:
    """Values of each part of the samples, where all samples have it."""
    found: dict[str, list[Tensor]] = {}
    for sample in samples:
        for path, value in leaves(sample):
            array = as_array(value)
            if array is not None and array.layout == torch.strided:
                found.setdefault(path, []).append(array)
    return {path: v for path, v in found.items() if len(v) == len(samples)}


def _order(tensor: Tensor, values: list[Tensor]) -> list[int] | None:
    """Which sample each row is; none unless every row is exactly one of them."""
    found: list[int] = []
    for row in tensor:
        hits = [i for i, value in enumerate(values) if is_row(row, value)]
        if len(hits) != 1:
            return None
        found.append(hits[0])
    return found if len(set(found)) == len(values) else None


def _is_rearranged(tensor: Tensor, values: list[Tensor]) -> bool:
    """Whether a field holds the samples' values, each as often as they do."""
    if any(value.numel() != 1 for value in values) or tensor.numel() != len(values):
        return _order(tensor, values) is not None
    here = Counter(float(value) for value in tensor.reshape(-1).double())
    there = Counter(float(value.double()) for value in values)
    return here == there and len(here) > 1


def _follows(tensor: Tensor, values: list[Tensor], order: list[int]) -> bool:
    return all(is_row(tensor[r], values[i]) for r, i in enumerate(order))


def _first_wrong(tensor: Tensor, values: list[Tensor], order: list[int]) -> int:
    wrong = (r for r, i in enumerate(order) if not is_row(tensor[r], values[i]))
    return next(wrong, 0)
