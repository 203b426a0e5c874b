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
LITTLE = 0.15
"""The same as a share of what the shift reaches."""


def judge_lag(samples: Samples, claims: Claims) -> None:
    """What inputs tell of targets, as these stand and shifted by one or two.

    Classes are compared with those of near inputs, numbers with a linear fit.
    """
    path = samples.label or next(iter(samples.targets), None)
    if path is None or len(samples.inputs) != 1 or samples.inputs[0] == path:
        return
    found = _rows(samples, path)
    if found is None or len(found[1]) < MIN_ROWS or _is_series(found[0]):
        return
    inputs, targets = found
    num_values = len(torch.unique(targets))
    if targets.is_floating_point():
        scores, sure, chance, unit = _fits(inputs, targets), 0.5, 0.1, "share explained"
    elif 2 <= num_values <= len(targets) / 8:
        scores = _scores(inputs, targets.long())
        sure, chance, unit = SURE, CHANCE, "standard deviations above chance"
    else:
        return
    best = max(LAGS, key=lambda lag: scores[lag])
    if (
        best == 0
        or scores[best] < sure
        or scores[0] > max(chance, LITTLE * scores[best])
    ):
        return
    _note(best, unit, ", ".join(f"{lag:+d}: {scores[lag]:.2g}" for lag in LAGS), claims)


def _note(best: int, unit: str, told: str, claims: Claims) -> None:
    rows = "1 row" if abs(best) == 1 else f"{abs(best)} rows"
    claims.add(
        "warn",
        f"labels look shifted by {abs(best)} against the inputs",
        expected="inputs that tell of the label beside them",
        actual="an input tells nothing of the label beside it, but much of the one "
        f"{rows} {'later' if best > 0 else 'earlier'} ({unit}, by shift: {told})",
        fix="Look at how inputs and labels are joined: a header row, a dropped first "
        "row, or two lists sorted differently.",
    )


def _rows(samples: Samples, path: str) -> tuple[Tensor, Tensor] | None:
    """Neighbouring samples in their order: flat inputs ``(N, F)``, targets ``(N,)``."""
    table = samples.table("train")
    column = samples.column("train", samples.inputs[0])
    target = samples.column("train", path)
    if table is None or column is None or target is None or not column.is_float:
        return None
    if target.num_elements != 1 or target.table is None:
        return None
    if table.is_whole and column.table is not None:
        order = column.by_index[:MAX_ROWS]
        return column.table[order].float(), target.table[order, 0]
    pool = samples.probe.data.pool("train")
    found = columns_of(pool[0]) if pool and pool[1] is None else None
    if found is None or found[1] is not None or isinstance(found[0], dict):
        return None
    try:
        x, y = (found[0][int(path)] for path in (samples.inputs[0], path))
    except (ValueError, IndexError):
        return None
    if x[0].numel() > 4096:
        return None
    count = min(len(x), MAX_ROWS)
    return x[:count].reshape(count, -1).float(), y[:count].reshape(-1)


def _is_series(inputs: Tensor) -> bool:
    """Whether neighbouring rows look alike, as windows of one series do."""
    x = inputs - inputs.mean(0)
    if x.shape[1] > 1 and bool((inputs[1:9, :-1] == inputs[:8, 1:]).all()):
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
    found: dict[int, float] = {}
    for lag in LAGS:
        agree = labels[rows + lag] == labels[pairs + lag]
        found[lag] = (float(agree.float().mean()) - chance) / noise
    return found


def _fits(inputs: Tensor, targets: Tensor) -> dict[int, float]:
    """For each shift, how much a line through every other row explains of the rest."""
    edge, num = max(LAGS), len(inputs)
    if inputs.shape[1] > num / 8:
        return dict.fromkeys(LAGS, 0.0)
    place = torch.arange(edge, num - edge)
    ones = torch.ones(num, 1, dtype=torch.float64)
    x, y = torch.cat([inputs.double(), ones], dim=1), targets.double()
    odd, even = place[1::2], place[::2]
    found: dict[int, float] = {}
    for lag in LAGS:
        fit = torch.linalg.lstsq(x[even], y[even + lag][:, None]).solution[:, 0]
        left = (y[odd + lag] - x[odd] @ fit).square().sum()
        whole = (y[odd + lag] - y[odd + lag].mean()).square().sum()
        found[lag] = float(1 - left / whole.clamp(min=1e-12))
    return found
