"""Part of R1: labels belong to the inputs beside them, not to their neighbours'."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nbutils.data.sources import columns_of
from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples

__all__ = ["judge_lag"]

LAGS = (-2, -1, 0, 1, 2)
MIN_ROWS = 64
MAX_ROWS = 512
SURE = 6.0
"""Standard deviations above chance that a shift must reach."""
CHANCE = 2.5
"""Standard deviations below which the labels as they stand tell nothing."""


def judge_lag(samples: Samples, claims: Claims) -> None:
    """Agreement of near inputs' labels, as they stand and shifted by one or two."""
    if samples.label is None or len(samples.inputs) != 1:
        return
    if samples.inputs[0] == samples.label:
        return
    found = _rows(samples)
    if found is None:
        return
    inputs, labels = found
    counts = torch.unique(labels, return_counts=True)[1]
    is_class = 2 <= len(counts) <= len(labels) / 8
    if not is_class or len(labels) < MIN_ROWS or _is_series(inputs):
        return
    scores = _scores(inputs, labels)
    best = max(LAGS, key=lambda lag: scores[lag])
    told = ", ".join(f"{lag:+d}: {scores[lag]:.1f}" for lag in LAGS)
    if best == 0 or scores[best] < SURE or scores[0] > CHANCE:
        return
    claims.add(
        "warn",
        f"labels look shifted by {abs(best)} against the inputs",
        expected="near inputs that share their labels as the samples stand",
        actual=f"near inputs share labels no more often than chance; with labels "
        f"{abs(best)} row{'s' if abs(best) > 1 else ''} "
        f"{'later' if best > 0 else 'earlier'} they do (standard deviations above "
        f"chance, by shift: {told})",
        fix="Look at how inputs and labels are joined: a header row, a dropped first "
        "row, or two lists sorted differently.",
    )


def _rows(samples: Samples) -> tuple[Tensor, Tensor] | None:
    """Neighbouring samples in their order: flat inputs ``(N, F)`` and labels."""
    table, label = samples.table("train"), samples.label
    column = samples.column("train", samples.inputs[0])
    labels = samples.labels("train")
    if table is None or column is None or labels is None or not column.is_float:
        return None
    if table.is_whole and column.table is not None:
        order = column.by_index[:MAX_ROWS]
        return column.table[order].float(), labels[order]
    pool = samples.probe.data.pool("train")
    found = columns_of(pool[0]) if pool and pool[1] is None else None
    if found is None or found[1] is not None or isinstance(found[0], dict):
        return None
    try:
        x, y = (found[0][int(path)] for path in (samples.inputs[0], str(label)))
    except (ValueError, IndexError):
        return None
    if x[0].numel() > 4096 or y.ndim != 1 or y.is_floating_point():
        return None
    return x[:MAX_ROWS].reshape(len(x[:MAX_ROWS]), -1).float(), y[:MAX_ROWS].long()


def _is_series(inputs: Tensor) -> bool:
    """Whether neighbouring rows look alike, as windows of one series do."""
    x = inputs - inputs.mean(0)
    if x.shape[1] > 2 and bool((inputs[1:9, :-1] == inputs[:8, 1:]).all()):
        return True
    near = (x[1:] - x[:-1]).norm(dim=1).mean()
    far = (x - x.roll(len(x) // 2, 0)).norm(dim=1).mean()
    return bool(near < 0.9 * far) or not bool(torch.isfinite(far)) or float(far) == 0


def _scores(inputs: Tensor, labels: Tensor) -> dict[int, float]:
    """For each shift, how far above chance the nearest inputs share their labels."""
    x = inputs - inputs.mean(0)
    x = x / x.std(0).clamp(min=1e-6 * float(x.std()) + 1e-12)
    distances = torch.cdist(x, x)
    place = torch.arange(len(x))
    close = (place[:, None] - place[None]).abs() <= max(LAGS)
    nearest = distances.masked_fill(close, math.inf).argmin(1)
    share = torch.unique(labels, return_counts=True)[1] / len(labels)
    chance = float(share.square().sum())
    edge = max(LAGS)
    inner = (place >= edge) & (place < len(x) - edge)
    inner &= (nearest >= edge) & (nearest < len(x) - edge)
    rows, pairs = place[inner], nearest[inner]
    noise = math.sqrt(max(chance * (1 - chance), 1e-9) / max(len(rows), 1))
    return {
        lag: (float((labels[rows + lag] == labels[pairs + lag]).float().mean()) - chance)
        / noise
        for lag in LAGS
    }
