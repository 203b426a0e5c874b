"""Part of R1: validation inputs are not training inputs that were augmented."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_near_copies"]

MIN_TRAIN = 100
MIN_VAL = 16
MIN_ELEMENTS = 8
MAX_ROWS = 1024
NEAR = 0.4
"""Distance of the nearest input as a share of the second nearest, for a copy."""
MIN_SHARE = 0.3
OWN = 5.0


def judge_near_copies(samples: Samples, claims: Claims) -> None:
    """Inputs of val each with one training input far nearer than any other.

    Held against training inputs among themselves: of families of a few parameters,
    and of samples that repeat, many have such a neighbour by nature.
    """
    declared = "validation is train" in samples.probe.task.declares
    if declared or samples.is_made_up:
        return
    if len(samples.inputs) != 1 or not samples.probe.data.has("val"):
        return
    train, val = (samples.column(s, samples.inputs[0]) for s in ("train", "val"))
    if not train or not val or train.table is None or val.table is None:
        return
    if len(train) < MIN_TRAIN or len(val) < MIN_VAL or train.shape != val.shape:
        return
    if not train.is_float or train.num_elements < MIN_ELEMENTS:
        return
    ours, theirs = train.table[:MAX_ROWS].float(), val.table[:MAX_ROWS].float()
    if not bool(torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
        return
    scale = ours.std(0)
    keep = scale > 1e-6 * ours.abs().amax()
    x, y = ours[:, keep] / scale[keep], theirs[:, keep] / scale[keep]
    if x.shape[1] < MIN_ELEMENTS:
        return
    among = torch.cdist(x, x)
    among.fill_diagonal_(float("inf"))
    near, own = _is_copy(torch.cdist(y, x)), _is_copy(among)
    share = float(near.float().mean())
    if share < MIN_SHARE or share < OWN * float(own.float().mean()) + 0.1:
        return
    if bool((torch.cdist(y, x).amin(1)[near] == 0).all()):
        return  # exact copies are told elsewhere
    row = int(near.nonzero()[0, 0])
    claims.add(
        "warn",
        "val inputs are near copies of training inputs",
        expected="val samples about as far from train as training samples are apart",
        actual=f"{share_text(int(near.sum()), len(near))} val inputs have one training "
        f"input far nearer than any other, among training inputs "
        f"{float(own.float().mean()):.0%} do; val[{val.indices[row]}] is one",
        fix="Split by sample before augmenting, so that no sample is in both; or "
        'declare "validation is train".',
    )


def _is_copy(distances: Tensor) -> Tensor:
    """Rows whose nearest is far nearer than their second nearest."""
    first, second = distances.topk(2, dim=1, largest=False).values.unbind(1)
    return first < NEAR * second
