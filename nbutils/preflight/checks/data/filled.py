"""Part of R1: missing values that were filled with 0 are no targets."""

from __future__ import annotations

import torch

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_filled"]

MIN_ROWS = 40
LOW, HIGH = 0.02, 0.5
DISTINCT = 0.9
GAP = 0.5


def judge_filled(samples: Samples, claims: Claims) -> None:
    """Exact zeros in a continuous target, with a gap around them.

    Claims, rain and waiting times have many zeros, too, but values near zero as well.
    """
    for path in samples.targets:
        column = samples.column("train", path)
        if column is None or column.table is None or not column.is_float:
            continue
        values = column.table.double().reshape(-1)
        if column.num_elements != 1 or len(values) < MIN_ROWS:
            continue
        zero = values == 0
        share = float(zero.double().mean())
        rest = values[~zero]
        if not LOW <= share <= HIGH or len(rest) < MIN_ROWS // 2:
            continue
        is_continuous = len(torch.unique(rest)) > DISTINCT * len(rest)
        if not is_continuous or float(rest.abs().min()) < GAP * float(rest.std()):
            continue
        claims.add(
            "warn",
            "targets are exactly 0 where others never come near it: missing values "
            "filled with 0?",
            expected="targets that were measured",
            actual=f"'{path}' of train is 0 in {share_text(int(zero.sum()), len(zero))}"
            f"; the others are {float(rest.abs().min()):.4g} or more in size",
            fix="Leave out rows whose target is missing, in place of fillna(0).",
        )
        return
