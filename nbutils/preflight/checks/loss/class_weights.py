"""Part of R5: class weights help rare classes, and no real class is ignored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe
from nbutils.preflight.watch import LossCall

__all__ = ["judge_classes"]

IMBALANCE = 2.0
FOLLOWS = 0.9
MANY = 0.05
MANY_WORDS = 4
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
    if not is_class or share < MANY:
        return
    num_words = max(_table_sizes(probe), default=0)
    if num_words and not (
        num_words >= 2 * call.outputs.shape[axis]  # a head for tags, not for words
        and _ignores_words(probe, call.targets, ignored)
    ):
        return
    claims.add(
        "warn",
        f"ignore_index={ignored} is a class of the head: it is never learned",
        expected="an index that no class has, such as -100 or 255",
        actual=f"{share:.0%} of the targets are {ignored} and left out of the loss, "
        f"while the head has {call.outputs.shape[axis]} outputs from 0 on",
        fix="Leave ignore_index out, or give the void pixels a number of their own.",
    )


def _table_sizes(probe: Probe) -> list[int]:
    """Rows of each embedding of the model."""
    found = [m for m in probe.model.modules() if isinstance(m, EMBEDDINGS)]
    return [module.num_embeddings for module in found]


def _ignores_words(probe: Probe, targets: Tensor, ignored: int) -> bool:
    """Whether ignored labels stand between others, and over words of many kinds."""
    whole = [
        tensor
        for _, tensor in tensors(probe.data.batch("train"))
        if tensor.ndim == 2 and not tensor.is_floating_point()
    ]
    flat = targets.reshape(-1).cpu()
    labels = [t for t in whole if torch.equal(t.reshape(-1), flat)]
    if not labels:
        return False
    left_out = labels[0] == ignored
    follows = (~left_out).flip(1).cumsum(1).flip(1) > 0  # a label comes after it
    if float((left_out & follows).sum()) < 0.5 * float(left_out.sum()):
        return False
    words = [t for t in whole if t is not labels[0] and t.shape == labels[0].shape]
    return any(len(t[left_out].unique()) >= MANY_WORDS for t in words)
