"""Part of R1: a sample that is read twice stays as it was, and keeps its label."""

from __future__ import annotations

import torch

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples
from nbutils.preflight.scan import leaves

__all__ = ["judge_rereading", "judge_written"]

MIN_READ = 8
NUM_READ = 24
NEAR = 0.3
"""How near two readings of one input are, as a share of the distance to others."""


def judge_written(samples: Samples, claims: Claims) -> None:
    """A reader that writes into what it gave before changes the data each time."""
    for split in ("train", "val"):
        samples.changing(split)
        for path, index in samples.written[split].items():
            claims.add(
                "warn",
                "reading a sample changes it in place: each epoch sees other data",
                expected=f"{split}[{index}] twice, and the first one stays as it is",
                actual=f"'{path}' of {split}[{index}] was written into by the second "
                "reading",
                fix="Work on a copy in __getitem__: row = row / 10 in place of "
                "row /= 10 or row.div_(10).",
            )
            return


def judge_rereading(samples: Samples, claims: Claims) -> None:
    """Labels drawn at random on each reading, for inputs that stay."""
    label = samples.label
    table = samples.table("train")
    pool = samples.probe.data.pool("train")
    if pool is None or label is None or table is None or table.num_read < MIN_READ:
        return
    changed = samples.changing("train")
    if changed:
        told = ", ".join(map(repr, sorted(changed)))
        claims.show([("parts of a training sample that change when read again", told)])
    if label not in changed or not samples.inputs:
        return
    stays = not changed.intersection(samples.inputs)
    if not stays and not _stays_near(samples, pool[0]):
        return  # made up anew, label and all
    claims.add(
        "warn",
        "labels change when a sample is read again",
        expected="one label for each sample",
        actual=f"'{label}' of train differs between two readings of one index, "
        + ("the input does not" if stays else "the input hardly does"),
        fix="Look for a random label in the dataset: labels belong to the sample, "
        "drawn once and stored.",
    )


def _stays_near(samples: Samples, data: object) -> bool:
    """Whether inputs read again stay near themselves, as augmented ones do."""
    column = samples.column("train", samples.inputs[0])
    if column is None or column.table is None or not column.is_float:
        return False
    count = min(NUM_READ, len(column))
    first = column.table[:count].double()
    again = []
    for index in column.indices[:count]:
        value = dict(leaves(data[index])).get(samples.inputs[0])  # type: ignore[index]
        again.append(torch.as_tensor(value).detach().reshape(-1).double().cpu())
    if any(len(row) != first.shape[1] for row in again):
        return False
    own = (torch.stack(again) - first).norm(dim=1).median()
    others = (first - first.roll(1, 0)).norm(dim=1).median()
    return bool(own < NEAR * others)
