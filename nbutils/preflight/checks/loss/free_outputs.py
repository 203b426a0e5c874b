"""Part of R5: minimised over the outputs alone, the loss leads to the targets."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.baselines import judge_baselines
from nbutils.preflight.checks.loss.confident import judge_confident
from nbutils.preflight.checks.loss.direction import judge_direction
from nbutils.preflight.checks.loss.padding import judge_padding
from nbutils.preflight.checks.loss.positions import judge_positions
from nbutils.preflight.checks.loss.shift import judge_shift
from nbutils.preflight.checks.loss.targets import (
    Pair,
    Use,
    class_pairs,
    column_pairs,
    float_pairs,
    uses,
)
from nbutils.preflight.free_outputs import MAX_NUMBERS, FreeOutputs, Values
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_free_outputs"]

MAX_EVALUATION_S = 0.1
AGREES = 0.5
COLLAPSED = 0.1
SURE = 0.95
SUBJECT = "what the loss asks of the outputs"


def judge_free_outputs(probe: Probe, free: FreeOutputs, claims: Claims) -> None:
    """Judge the loss as a function of the outputs, with no network before it."""
    if not free.paths or free.num_numbers > MAX_NUMBERS:
        why = "none is a tensor with a gradient" if not free.paths else "too many"
        claims.show([(SUBJECT, f"not tried: of {free.num_numbers} outputs, {why}")])
        return
    start = time.perf_counter()
    value, error = attempt(lambda: free.value(free.start))
    seconds = time.perf_counter() - start
    if error is not None or seconds > MAX_EVALUATION_S or not math.isfinite(value):
        why = f"{error}" if error else f"one evaluation takes {seconds:.2g} s"
        claims.show([(SUBJECT, f"not tried: {why}")])
        return
    if not math.isclose(value, free.value(free.start), rel_tol=1e-6, abs_tol=1e-9):
        claims.show([(SUBJECT, "not tried: the loss changes from call to call")])
        return
    values = _usable(free)
    if values is not None:
        _judge_uses(probe, free, values, claims)


def _usable(free: FreeOutputs) -> Values | None:
    """Scattered outputs that the loss takes, else those of the model, else none."""
    for values in (free.scattered(), free.start):
        value, error = attempt(lambda values=values: free.value(values))
        if error is None and math.isfinite(value):
            return values
    return None


def _judge_uses(
    probe: Probe, free: FreeOutputs, values: Values, claims: Claims
) -> None:
    found = uses(free, values)
    free.uses = dict(found)
    grads, error = attempt(lambda: free.gradients(values))
    if error is not None:
        return
    alive = [grad is not None and bool((grad != 0).any()) for grad in grads]
    _show_uses(free, found, alive, claims)
    classes = [pair for pair in class_pairs(free) if alive[pair.number]]
    floats = [pair for pair in float_pairs(free) if alive[pair.number]]
    if _judge_unused(probe, free, values, [*classes, *floats], found, claims):
        return
    columns = [pair for pair in column_pairs(free) if alive[pair.number]]
    _judge_floats(free, floats, columns, claims)
    is_own = bool(classes) and _keeps_apart(free, values)
    if is_own and any(judge_confident(free, pair, claims) for pair in classes):
        return
    judge_positions(free, values, claims)
    judge_padding(free, values, probe.model, claims)
    if "rows" not in found.values() or probe.seconds_left < 1:
        return
    best, error = attempt(lambda: free.descend(values))
    if error is not None:
        return
    for pair in classes:
        if found.get(pair.path) == "rows":
            _judge_classes(free, values, best, pair, claims)
    judge_baselines(free, values, best[1], claims)
    judge_shift(probe, free, values, best[0], claims)


def _judge_floats(
    free: FreeOutputs, floats: list[Pair], columns: list[Pair], claims: Claims
) -> None:
    """Outputs beside floats of their form, then single columns of outputs."""
    for pair in floats:
        use = free.uses.get(pair.path, "rows")  # else it is one of the outputs
        is_outer = use == "values" and pair.differs and _varies(pair.target)
        if is_outer and _collapses(free, pair) and _stays(free, pair.path, "values"):
            _note_outer(free, pair, claims)
        elif use == "rows":
            judge_direction(free, pair, claims)
    for pair in columns:
        is_used = free.uses.get(pair.path) == "rows"
        if is_used and judge_direction(free, pair, claims):
            return


def _show_uses(
    free: FreeOutputs, found: dict[str, Use], alive: list[bool], claims: Claims
) -> None:
    told = {"rows": "row by row", "values": "as a whole", "none": "not at all"}
    text = "; ".join(f"{p}: {told[u]}" for p, u in found.items() if u in told)
    if text:
        claims.show([("the loss looks at the batch's", text)])
    idle = [p for p, is_alive in zip(free.paths, alive, strict=True) if not is_alive]
    if idle and any(alive):
        claims.show([("outputs that the loss does not look at", ", ".join(idle))])


def _judge_unused(
    probe: Probe,
    free: FreeOutputs,
    values: Values,
    pairs: list[Pair],
    found: dict[str, Use],
    claims: Claims,
) -> bool:
    """Whether the loss is the same for any targets although there are some."""
    if not found or any(use != "none" for use in found.values()):
        return False
    redrawn, error = attempt(lambda: free.value(values, seed=probe.seed + 1))
    is_random = error is None and not math.isclose(
        redrawn, free.value(values), rel_tol=1e-5
    )
    if is_random and _is_unreachable(probe, free, values):
        claims.add(
            "warn",
            "the loss compares the outputs with random numbers",
            expected="targets that are read from the batch",
            actual="no tensor of the batch changes the loss, a new draw of random "
            "numbers does, and the best outputs for one draw are of no use for "
            "the next",
            fix="Take the targets from the batch, as in loss(outputs, batch[1]); drop "
            "torch.rand, randn and randint from the loss.",
        )
        return True
    wanted = [pair for pair in pairs if _is_label(probe, free, pair)]
    if not wanted or not _keeps_apart(free, values):
        return False
    if not _stays(free, wanted[0].path, "none"):
        return False
    path = wanted[0].path
    claims.add(
        "warn",
        "the loss does not look at the targets",
        expected=f"another loss when '{path}' of the batch is shuffled",
        actual=f"the loss stays {free.value(values):.6g} whichever '{path}' belongs "
        "to which sample; it depends on nothing in the batch",
        fix=f"Compare the outputs with batch['{path}'] or batch[{path}]; if no label "
        "is meant to be used, leave it out of the batch.",
    )
    return True


def _collapses(free: FreeOutputs, pair: Pair) -> bool:
    """Whether the best outputs are alike although the targets are not.

    They are under a comparison of all with all; those that match two sets are not.
    """
    begun = free.scattered(3)
    best, error = attempt(lambda: free.descend(begun)[0][pair.number])
    if error is not None:
        return False
    spread, before = best.std(0).abs().mean(), begun[pair.number].std(0).abs().mean()
    wanted = pair.target.std(0).abs().mean()
    return bool(spread < COLLAPSED * torch.maximum(before, wanted))


def _stays(free: FreeOutputs, path: str, use: Use) -> bool:
    """Whether the use is the same around the best outputs.

    Far from them, a large loss hides what depends on single rows in its rounding.
    """
    best, error = attempt(lambda: free.descend(free.start)[0])
    if error is not None:
        return False
    found, error = attempt(lambda: uses(free, free.scattered(2, best)))
    return error is None and found.get(path) == use


def _keeps_apart(free: FreeOutputs, values: Values) -> bool:
    """Whether a row's gradient is its own affair, as contrastive losses' is not."""
    others = free.scattered(1)
    mixed = [torch.cat([o[:1], v[1:]]) for o, v in zip(others, values, strict=True)]
    pair, error = attempt(lambda: (free.gradients(values), free.gradients(mixed)))
    return error is None and all(
        (a is None and b is None)
        or (
            a is not None
            and b is not None
            and torch.allclose(a[1:], b[1:], rtol=1e-3, atol=1e-8)
        )
        for a, b in zip(*pair, strict=True)
    )


def _is_unreachable(probe: Probe, free: FreeOutputs, values: Values) -> bool:
    """Whether what is best under one draw of random numbers is of no use later."""
    best, lowest = free.descend(values)
    shared, constant = free.descend(values, shared=True)
    others = range(probe.seed + 1, probe.seed + 9)
    later = [free.value(best, seed=seed) for seed in others]
    usual = [free.value(shared, seed=seed) for seed in others]
    gained = constant - lowest
    return gained > 0 and sum(later) >= sum(usual) - 0.1 * gained * len(later)


def _is_label(probe: Probe, free: FreeOutputs, pair: Pair) -> bool:
    """Whether a tensor nobody looks at is what the output is to predict."""
    output = free.start[pair.number]
    if not _varies(pair.target) or _reaches_model(probe, free, pair.path):
        return False
    if pair.axis is None:
        others = [t for p, t in tensors(free.batch) if p != pair.path]
        return all(_numbers(t) != _numbers(pair.target) for t in others)
    scan = probe.data.scan("train")
    extent = None if scan is None else scan.extents.get(pair.path)
    high = extent.high if extent is not None else int(pair.target.max())
    return int(pair.target.min()) >= 0 and high + 1 == output.shape[pair.axis]


def _reaches_model(probe: Probe, free: FreeOutputs, path: str) -> bool:
    """Whether the outputs change with this tensor: the model takes it for an input."""
    from nbutils.preflight.free_outputs import rolled

    def run(batch: Any) -> list[Tensor]:
        probe.rewind()
        with torch.no_grad():
            outputs = probe.forward(probe.fresh(batch), training=False)
        return [tensor for _, tensor in tensors(outputs)]

    pair, error = attempt(lambda: (run(free.batch), run(rolled(free.batch, path))))
    if error is not None:
        return True
    one, other = pair
    return len(one) != len(other) or any(
        a.shape != b.shape or not torch.allclose(a, b, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def _numbers(tensor: Tensor) -> int:
    return tensor[0].numel() if tensor.ndim else 0


def _varies(target: Tensor) -> bool:
    return bool((target != target[:1]).any())


def _note_outer(free: FreeOutputs, pair: Pair, claims: Claims) -> None:
    """Outputs ``(B, 1)`` less targets ``(B,)`` give a table of ``(B, B)``."""
    shape = tuple(free.start[pair.number].shape)
    target = dict(tensors(free.batch))[pair.path]
    if torch.broadcast_shapes(shape, target.shape) in (shape, target.shape):
        return
    claims.add(
        "fail",
        "every output is compared with every target",
        expected="each output compared with its own target",
        actual=f"outputs {shape} and '{pair.path}' {tuple(target.shape)} are broadcast "
        f"to {tuple(torch.broadcast_shapes(shape, target.shape))}: the loss is the "
        "same whichever target belongs to which sample",
        fix="Use outputs.squeeze(-1), or targets.unsqueeze(-1), before the loss.",
    )


def _judge_classes(
    free: FreeOutputs,
    values: Values,
    found: tuple[Values, float],
    pair: Pair,
    claims: Claims,
) -> None:
    """Following the loss, the class of the target must become the likeliest."""
    axis = pair.axis or 0
    best, lowest = found
    output, begun = best[pair.number], values[pair.number]
    moved = (output != begun).any(axis)
    kept = (pair.target >= 0) & (pair.target < output.shape[axis]) & moved
    target = pair.target[kept]
    if target.numel() < 4 or bool((target == target[0]).all()):
        return
    likeliest, least = output.argmax(axis), output.argmin(axis)
    agrees = float((likeliest[kept] == target).float().mean())
    opposes = float((least[kept] == target).float().mean())
    told = f"{agrees:.0%} of {target.numel()}"
    claims.show([(f"outputs that minimise the loss name '{pair.path}'", told)])
    if agrees >= AGREES:
        claims.add("pass", "the loss leads to the targets")
        return
    if opposes >= SURE and _is_endless(free, best, lowest):
        claims.add(
            "warn",
            "the loss makes the class of the target the least likely one: its sign",
            expected="outputs whose largest entry is the target's class",
            actual=f"following the loss down to {lowest:.4g}, without an end, the "
            f"target is the least likely class of {opposes:.0%} of the samples",
            fix="Turn the sign: minimise the negative log-likelihood.",
        )
        return
    _judge_neighbours(likeliest, pair, kept, claims)


def _is_endless(free: FreeOutputs, best: Values, lowest: float) -> bool:
    farther, error = attempt(lambda: free.value([4 * value for value in best]))
    return error is None and farther < min(lowest, 0.0) - 0.5 * abs(lowest)


def _judge_neighbours(
    likeliest: Tensor, pair: Pair, kept: Tensor, claims: Claims
) -> None:
    """Whether each output is compared with the target of another row."""
    if pair.target.ndim != 1 or not bool(kept.all()):
        return
    turned = {f"row i + {s}": pair.target.roll(-s) for s in (1, -1)}
    turned["the row at the other end"] = pair.target.flip(0)
    for name, other in turned.items():
        if float((likeliest == other).float().mean()) < SURE:
            continue
        if _is_mapping(pair.target, likeliest):
            continue  # the classes are renamed, or sorted so that both explain it
        claims.add(
            "warn",
            "the loss compares each output with another sample's target",
            expected="output i compared with target i",
            actual=f"the outputs that minimise the loss name the class of {name}",
            fix="Look for roll, flip, sort or shuffle between the batch and the loss.",
        )
        return


def _is_mapping(one: Tensor, other: Tensor) -> bool:
    """Whether equal entries of ``one`` always stand beside equal ones of ``other``."""
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist()))
