"""Part of R1: both splits number their classes, and their tokens, alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples

__all__ = ["judge_numbering"]

TABLES = ("class_to_idx", "label_to_idx", "label2id", "classes")
MIN_VAL = 30
MAX_CLASSES = 50
MAX_READ = 1024
MIN_ROWS = 20
SURE = 5.5
"""Standard deviations above chance that a renaming must reach."""
MIN_TOKENS = 20
FOREIGN = 0.5


def judge_numbering(samples: Samples, claims: Claims) -> None:
    """Tables of the datasets, then what near inputs say of the labels."""
    if not samples.probe.data.has("val"):
        return
    if not _judge_tables(samples, claims):
        _judge_neighbours(samples, claims)
    _judge_tokens(samples, claims)


def _judge_tables(samples: Samples, claims: Claims) -> bool:
    """Whether two tables of classes contradict each other."""
    ours, theirs = (_tables(samples, split) for split in ("train", "val"))
    for name, table in ours.items():
        other = theirs.get(name)
        if other is None or other == table:
            continue
        pairs = dict(_pairs(table)), dict(_pairs(other))
        odd = [k for k in pairs[0] if k in pairs[1] and pairs[0][k] != pairs[1][k]]
        if odd:
            told = (f"{k!r} is {pairs[0][k]} and {pairs[1][k]}" for k in odd[:3])
            claims.add(
                "warn",
                "train and val number their classes differently",
                expected=f"one {name} for both splits",
                actual=f"in train and in val {', '.join(told)}",
                fix="Make the table once, from train, and hand it to both datasets.",
            )
            return True
    return False


def _tables(samples: Samples, split: str) -> dict[str, Any]:
    pool = samples.probe.data.pool(split)
    data = pool[0] if pool else None
    while isinstance(data, Subset):
        data = data.dataset
    found = {name: getattr(data, name, None) for name in TABLES}
    return {n: v for n, v in found.items() if isinstance(v, (dict, list, tuple)) and v}


def _pairs(table: Any) -> Iterator[tuple[Any, Any]]:
    """Names and numbers of a mapping, or of a list in its order."""
    if isinstance(table, dict):
        yield from table.items()
    elif len({str(name) for name in table}) == len(table):
        yield from ((str(name), number) for number, name in enumerate(table))


def _judge_neighbours(samples: Samples, claims: Claims) -> None:
    """Val's labels against those of the nearest training inputs."""
    train, val = samples.labels("train"), samples.labels("val")
    if train is None or val is None or len(samples.inputs) != 1 or len(val) < MIN_VAL:
        return
    ours, theirs = (samples.column(s, samples.inputs[0]) for s in ("train", "val"))
    if not ours or not theirs or ours.table is None or theirs.table is None:
        return
    if not ours.is_float or ours.table.shape[1] != theirs.table.shape[1]:
        return
    if train.min() < 0 or val.min() < 0 or int(train.max()) >= MAX_CLASSES:
        return
    told = _told(ours.table[:MAX_READ], train[:MAX_READ], theirs.table)
    size = int(torch.cat([train, val]).max()) + 1
    if size > MAX_CLASSES:
        return
    moved = _moved(told, val, size)
    if not moved:
        return
    rows = torch.isin(told, torch.tensor(list(moved)))
    wanted = torch.tensor([moved.get(int(c), int(c)) for c in told])
    as_is = float((told == val)[rows].float().mean())
    renamed = float((wanted == val)[rows].float().mean())
    chance = float((val[:, None] == wanted[rows]).float().mean())
    noise = (max(chance * (1 - chance), 1e-6) / int(rows.sum())) ** 0.5
    is_sure = renamed > chance + SURE * noise and as_is < chance
    if int(rows.sum()) < MIN_ROWS or not is_sure:
        return
    pairs = ", ".join(f"{c} is {name} in val" for c, name in list(moved.items())[:4])
    claims.add(
        "warn",
        "train and val number their classes differently",
        expected="labels of val that agree with those of near training samples",
        actual=f"{as_is:.0%} agree as they stand, {renamed:.0%} if renamed: {pairs}",
        fix="Make the table of classes once, from train, and use it for both splits.",
    )


def _moved(told: Tensor, val: Tensor, size: int) -> dict[int, int]:
    """Classes that most often go by another number in val, if they swap numbers."""
    counts = torch.zeros(size, size)
    counts.index_put_((told, val), torch.ones(len(val)), accumulate=True)
    seen = (counts.sum(1) > 0).nonzero().flatten().tolist()
    best = {name: int(counts[name].argmax()) for name in seen}
    moved = {name: number for name, number in best.items() if number != name}
    return moved if len(set(best.values())) == len(best) > 1 else {}


def _told(inputs: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """The label of the nearest training input of each of the others."""
    x, y = inputs.float(), others.float()
    scale = x.std(0).clamp(min=1e-6 * float(x.std()) + 1e-12)
    return labels[torch.cdist(y / scale, x / scale).argmin(1)]


def _judge_tokens(samples: Samples, claims: Claims) -> None:
    """Ids of val that train, read at length, never shows."""
    for path in samples.inputs:
        ours, theirs = samples.column("train", path), samples.column("val", path)
        if not ours or not theirs or not ours.is_integer or not theirs.is_integer:
            continue
        if ours.num_elements < 4 or not ours.kept or not theirs.kept:
            continue
        train, val = torch.cat(ours.kept), torch.cat(theirs.kept)
        known = torch.unique(train)
        foreign = float((~torch.isin(val, known)).float().mean())
        if len(train) >= MIN_TOKENS * len(known) and foreign > FOREIGN:
            claims.add(
                "warn",
                "val speaks in other ids than train",
                expected="one vocabulary for both splits",
                actual=f"{foreign:.0%} of the ids in '{path}' of val are in none of "
                f"{len(ours):,} training samples ({len(known)} ids in "
                f"{len(train):,} places)",
                fix="Build the vocabulary once, from train, and encode both with it.",
            )
