"""Part of R1: no input column numbers the rows of a file that was sorted by label."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples

__all__ = ["judge_row_numbers"]

MIN_ROWS = 40
MAX_COLUMNS = 256
DENSE = 0.5
"""Share of the places between the smallest and the largest number that is taken."""
FEW = 0.1
"""Changes of the label along the numbers, as a share of those by chance."""


def judge_row_numbers(samples: Samples, claims: Claims) -> None:
    """Evenly spaced, all different, and the label hardly changes along them."""
    label = samples.label
    answers = samples.column("train", label) if label else None
    if answers is None or answers.table is None or answers.is_float:
        return
    if answers.num_elements != 1 or len(answers) < MIN_ROWS:
        return
    classes = answers.table.reshape(-1)
    for path in samples.inputs:
        column = samples.column("train", path)
        if column is None or column.table is None or not column.is_float:
            continue
        table = column.table
        if len(table) != len(classes) or table.shape[1] > MAX_COLUMNS:
            continue
        for number in range(table.shape[1]):
            if _numbers(table[:, number]) and _follows(table[:, number], classes):
                _tell(path, number, label or "", claims)
                return


def _numbers(values: Tensor) -> bool:
    """Whether they are numbers from a dense count, up to scale and offset."""
    ordered = values.double().sort().values
    steps = ordered.diff()
    step = float(steps.min())
    if step <= 0:
        return False
    places = steps / step
    is_even = bool(((places - places.round()).abs() < 0.02 * places.round()).all())
    return is_even and len(values) > DENSE * (1 + float(places.sum()))


def _follows(values: Tensor, classes: Tensor) -> bool:
    ordered = classes[values.argsort()]
    changes = float((ordered[1:] != ordered[:-1]).double().mean())
    shares = torch.unique(classes, return_counts=True)[1].double() / len(classes)
    return changes < FEW * float(1 - shares.square().sum())


def _tell(path: str, number: int, label: str, claims: Claims) -> None:
    claims.add(
        "warn",
        f"column {number} of '{path}' is a row number that tells the label: a leak",
        expected="columns that are known of a new sample",
        actual=f"its values are evenly spaced and all different, and '{label}' hardly "
        "changes along them: the rows were sorted by it",
        fix="Drop the column; after reset_index() or read_csv() it is often the index.",
    )
