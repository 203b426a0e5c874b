"""Part of R5: class weights help rare classes, and no real class is ignored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe
from nbutils.preflight.watch import LossCall

__all__ = ["judge_classes"]

IMBALANCE = 2.0
FOLLOWS = 0.9
MANY = 0.05
KINDS = ("cross-entropy", "negative log-likelihood")
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def judge_classes(probe: Probe, call: LossCall, claims: Claims) -> None:
    """Weights against the counts of the batch, and the class that is left out."""
    if call.kind not in KINDS or call.targets.is_floating_point():
        return
    _judge_weights(call, claims)
    _judge_ignored(probe, call, claims)


def _judge_weights(call: LossCall, claims: Claims) -> None:
    weight = call.given.get("weight")
    if not isinstance(weight, Tensor) or weight.ndim != 1 or len(weight) < 2:
        return
    kept = call.targets[(call.targets >= 0) & (call.targets < len(weight))]
    counts = torch.bincount(kept.flatten().cpu(), minlength=len(weight)).double()
    seen = counts > 0
    if int(seen.sum()) < 2:
        return
    weights, counts = weight.detach().cpu().double()[seen], counts[seen]
    uneven = float(counts.max() / counts.min()), float(weights.max() / weights.min())
    if min(uneven) < IMBALANCE or _correlation(weights.log(), counts.log()) < FOLLOWS:
        return
    often, rare = int(counts.argmax()), int(counts.argmin())
    names = seen.nonzero().flatten().tolist()
    claims.add(
        "warn",
        "class weights are inverted: frequent classes weigh more than rare ones",
        expected="weights that fall with the count of a class, such as 1 / count",
        actual=f"class {names[often]} has {counts[often]:.0f} targets in a batch and "
        f"weight {weights[often]:.3g}; class {names[rare]} has {counts[rare]:.0f} and "
        f"{weights[rare]:.3g}",
        fix="Use weight = counts.sum() / (num_classes * counts).",
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else 0.0


def _judge_ignored(probe: Probe, call: LossCall, claims: Claims) -> None:
    """An ignored index with an output of its own; padding of tokens has one, too."""
    ignored = call.given.get("ignore_index", -100)
    axis = 1 if call.outputs.ndim > 1 else 0
    is_class = 0 <= ignored < call.outputs.shape[axis]
    share = call.num_ignored / max(call.targets.numel(), 1)
    if not is_class or share < MANY or _has_tokens(probe):
        return
    claims.add(
        "warn",
        f"ignore_index={ignored} is a class of the head: it is never learned",
        expected="an index that no class has, such as -100 or 255",
        actual=f"{share:.0%} of the targets are {ignored} and left out of the loss, "
        f"while the head has {call.outputs.shape[axis]} outputs from 0 on",
        fix="Leave ignore_index out, or give the void pixels a number of their own.",
    )


def _has_tokens(probe: Probe) -> bool:
    return any(isinstance(module, EMBEDDINGS) for module in probe.model.modules())
