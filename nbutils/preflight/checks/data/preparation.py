"""Part of R1: validation data are prepared like the training data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.column import Column
from nbutils.preflight.samples import Samples

__all__ = ["judge_preparation"]

MIN_TRAIN = 24
MIN_VAL = 8
NUM_BLOCKS = 4
RATIO = math.log(3.0)
SHIFT = 1.0
OWN = 3.0
"""Times the widest spread of train's own blocks that val must lie outside."""
OWN_SERIES = 12.0
"""The same for a series, which may wander further after train than within it."""
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class _Moments:
    mean: Tensor
    std: Tensor


def judge_preparation(samples: Samples, claims: Claims) -> None:
    """Offset and scale of val against those of train, and of train's own parts."""
    for path in dict.fromkeys([*samples.inputs, *samples.targets]):
        train, val = samples.column("train", path), samples.column("val", path)
        if train is None or val is None or not (train.is_float and val.is_float):
            continue
        if train.shape != val.shape or not train.means or not val.means:
            continue
        if len(train) >= MIN_TRAIN and len(val) >= MIN_VAL:
            _judge_path(path, train, val, path in samples.inputs, claims)


def _judge_path(
    path: str, train: Column, val: Column, is_input: bool, claims: Claims
) -> None:
    ours, theirs = _moments(train, train.by_index), _moments(val, val.by_index)
    if ours is None or theirs is None or len(ours.mean) != len(theirs.mean):
        return
    shift, ratio = _distance(ours, theirs)
    own_shift, own_ratio = _own_spread(train, ours, len(val))
    varied = ours.std > 1e-6 * ours.mean.abs().clamp(min=TINY)
    times = OWN_SERIES if _is_series(train) else OWN
    is_off = (shift > SHIFT) & (shift > times * own_shift)
    is_scaled = (ratio > RATIO) & (ratio > times * own_ratio + 0.2)
    found = (is_off | is_scaled) & varied & (theirs.std > 1e-9 * ours.std)
    if int(found.sum()) < max(1.0, 0.5 * int(varied.sum())):
        claims.show([(f"scale of '{path}', train and val", _text(ours, theirs, 0))])
        return
    worst = int((ratio + shift).masked_fill(~found, -1).argmax())
    kind = "inputs" if is_input else "targets"
    part = f", part {worst}" if len(found) > 1 else ""
    claims.add(
        "warn",
        f"validation {kind} are scaled differently than training {kind}",
        expected="the same preparation for both splits",
        actual=f"'{path}'{part}: {_text(ours, theirs, worst)}",
        fix="Use one transform for the scaling, with the mean and std of train, in "
        "both splits.",
    )


def _distance(ours: _Moments, theirs: _Moments) -> tuple[Tensor, Tensor]:
    """Offset in standard deviations, and the logarithm of the ratio of scales."""
    std = ours.std.clamp(min=TINY)
    shift = (theirs.mean - ours.mean).abs() / std
    return shift, (theirs.std.clamp(min=TINY) / std).log().abs()


def _own_spread(train: Column, ours: _Moments, size: int) -> tuple[Tensor, Tensor]:
    """The widest distances of train's own parts, in order, from the whole of it.

    Parts of a series that drifts lie far apart; its end, which validates, may too.
    """
    order = train.by_index
    size = max(min(size, len(order) // NUM_BLOCKS), 1)
    blocks = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    parts = [part for block in blocks if (part := _moments(train, block))]
    shifts, ratios = zip(*(_distance(ours, part) for part in parts), strict=True)
    return torch.stack(shifts).amax(0), torch.stack(ratios).amax(0)


def _is_series(column: Column) -> bool:
    """Whether neighbouring samples are alike: windows of something that wanders."""
    means = torch.stack([column.means[row].mean() for row in column.by_index])
    level = means - means.mean()
    whole = float(level.square().sum())
    return whole > 0 and float((level[1:] * level[:-1]).sum()) / whole > 0.6


def _moments(column: Column, rows: list[int]) -> _Moments | None:
    """Mean and standard deviation over some samples, per feature or channel."""
    if column.table is not None and len(column.shape or ()) <= 1:
        values = column.table[rows].double()
        mean, square = values.mean(0), values.square().mean(0)
    else:
        if len({len(mean) for mean in column.means}) != 1:
            return None
        mean = torch.stack([column.means[row] for row in rows]).double().mean(0)
        square = torch.stack([column.squares[row] for row in rows]).double().mean(0)
    if not bool(torch.isfinite(square).all()):
        return None
    return _Moments(mean, (square - mean.square()).clamp(min=0).sqrt())


def _text(ours: _Moments, theirs: _Moments, part: int) -> str:
    told = [
        f"{name} mean {float(m.mean[part]):.3g}, std {float(m.std[part]):.3g}"
        for name, m in (("train", ours), ("val", theirs))
    ]
    return "; ".join(told)
