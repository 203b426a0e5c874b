"""R6: real optimizer steps move every trainable parameter, and only those."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.judged import judge_part
from nbutils.preflight.checks.model.reaction import judge_reaction
from nbutils.preflight.checks.model.saturation import (
    Units,
    judge_dropout,
    judge_units,
    look_at_units,
)
from nbutils.preflight.checks.update.damped import (
    judge_damped,
    judge_hooks,
    judge_rounding,
)
from nbutils.preflight.checks.update.hidden_state import Memory, judge_memory
from nbutils.preflight.checks.update.learning_rate import judge_learning_rate
from nbutils.preflight.checks.update.ownership import Reach, judge_ownership, named
from nbutils.preflight.checks.update.resting import at_rest
from nbutils.preflight.checks.update.schedule_curve import (
    follow_schedule,
    judge_schedule,
)
from nbutils.preflight.checks.update.symmetry import fading, judge_fading, judge_twins
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer

__all__ = ["CHECK"]

NUM_STEPS = 3
MAX_SECONDS = 10.0
FP16_SCALE = 65536.0
HALF = (torch.bfloat16, torch.float16)
NUM_REDRAWS = 24
MAX_REDRAW_S = 1.5


@dataclass
class Motion:
    """What the steps did to the parameters, by name."""

    reach: Reach
    memory: Memory
    with_gradient: set[str] = field(default_factory=set)
    with_signal: set[str] = field(default_factory=set)
    not_finite: list[str] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    refusal: Exception | None = None
    stuck: dict[str, tuple[int, int]] = field(default_factory=dict)


def run(probe: Probe, claims: Claims) -> None:
    """Take a few steps as the run would, and look at each parameter."""
    model = probe.model
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    units = look_at_units(probe)
    probe.rewind()
    optimizer = build_optimizer(model, probe.config, probe.task)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    motion = Motion(Reach.of(probe), Memory(probe))
    _take_steps(probe, optimizer, trainable, motion)
    if motion.refusal is not None:
        _note_refusal(motion, claims)
        return
    judge_damped(optimizer, len(motion.seconds), claims)
    judge_rounding(motion.stuck, claims)
    judge_hooks(trainable.values(), claims)
    probe.facts["step_seconds"] = motion.seconds
    probe.facts["optimizer_bytes"] = _state_bytes(optimizer)
    judge_ownership(probe, owned, motion.reach, claims)
    if motion.not_finite:
        _note_not_finite(motion, claims)
        return
    _judge_motion(probe, trainable, owned, motion, claims)
    if claims.worst != "fail":
        _judge_state(probe, units, motion, claims)
    _judge_rates(probe, motion, claims)
    losses = " → ".join(f"{loss:.4g}" for loss in motion.losses)
    claims.show([("loss, step by step", losses)])


def _judge_state(
    probe: Probe, units: dict[str, Units], motion: Motion, claims: Claims
) -> None:
    """What the model has become after the steps; it is as it was found in the end."""
    parts: dict[str, Callable[[], None]] = {
        "units": lambda: judge_units(units, look_at_units(probe), claims),
        "symmetry": lambda: judge_twins(probe, motion.moved, claims),
        "fading gradients": lambda: judge_fading(motion.ratios, claims),
        "dropout": lambda: judge_dropout(probe, claims),
        "reaction to inputs": lambda: judge_reaction(probe, claims),
        "hidden state": lambda: judge_memory(probe, motion.memory, claims),
    }
    for name, judge in parts.items():
        if probe.seconds_left < 0:
            claims.add("skip", f"{name}: not judged, time is over")
            continue
        judge_part(name, judge, claims)


def _judge_rates(probe: Probe, motion: Motion, claims: Claims) -> None:
    """The whole curve of the learning rate, and what its peak does to the loss."""
    probe.rewind()
    curve = follow_schedule(probe)
    judge_schedule(probe, curve, claims)
    if claims.worst != "fail":
        step_s = min(motion.seconds)
        judge_part(
            "learning rate",
            lambda: judge_learning_rate(probe, curve, step_s, claims),
            claims,
        )


def _take_steps(
    probe: Probe,
    optimizer: Optimizer,
    trainable: dict[str, nn.Parameter],
    motion: Motion,
) -> None:
    before = {n: p.detach().clone() for n, p in trainable.items()}
    deadline = time.perf_counter() + MAX_SECONDS
    scale = 1.0 if probe.precision.scale is None else FP16_SCALE
    for number in range(NUM_STEPS):
        batch = probe.data.batch("train", None, _number(probe, number))
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = probe.loss(batch, training=True)
        motion.reach.note(loss)
        _, error = attempt((loss if scale == 1 else loss * scale).backward)
        if error is not None:
            motion.refusal = error
            return
        while scale > 1 and not _is_finite(trainable):  # as a loss scale settles
            scale /= 4
            optimizer.zero_grad(set_to_none=True)
            (probe.loss(batch, training=True) * scale).backward()
        _note_gradients(trainable, motion, scale)
        optimizer.step()
        if probe.device.type == "cuda":
            torch.cuda.synchronize(probe.device)
        elif probe.device.type == "mps":
            torch.mps.synchronize()
        motion.seconds.append(time.perf_counter() - start)
        motion.losses.append(float(loss.detach()))
        motion.memory.note()
        if motion.not_finite or time.perf_counter() > deadline:
            break
    for name, parameter in trainable.items():
        if not torch.equal(parameter.detach(), before[name]):
            motion.moved.add(name)
        if parameter.dtype in HALF and parameter.grad is not None:
            pushed = parameter.grad != 0
            stays = (parameter.detach() == before[name]) & pushed
            motion.stuck[name] = int(stays.sum()), int(pushed.sum())


def _note_refusal(motion: Motion, claims: Claims) -> None:
    """The backward pass raised; most often a graph outlived its update."""
    number, text = len(motion.seconds) + 1, str(motion.refusal).split("\n")[0]
    is_kept = "second time" in text
    what = ": a tensor with its graph is kept from one update to the next"
    claims.add(
        "fail",
        f"the backward pass fails in update {number}"
        + (f": {what}" if is_kept else ""),
        expected="a backward pass in each update",
        actual=f"{type(motion.refusal).__name__}: {text[:300]}",
        fix="Look for a hidden state, a cache or a running loss that lives on the "
        "model or the loss: store value.detach(), or compute it anew in forward."
        if is_kept
        else "Look at in-place changes of tensors that the gradient needs.",
    )


def _is_finite(trainable: dict[str, nn.Parameter]) -> bool:
    grads = [p.grad for p in trainable.values() if p.grad is not None]
    grads = [g.coalesce().values() if g.is_sparse else g for g in grads]
    return all(bool(torch.isfinite(grad).all()) for grad in grads)


def _number(probe: Probe, number: int) -> int:
    """A batch of full size for each step, the first one again if there are no more."""
    loader = probe.data.loader("train")
    if not isinstance(loader, OrderedLoader) or number >= len(loader):
        return 0
    return number if len(loader.indices(number)) == len(loader.indices(0)) else 0


def _note_gradients(
    trainable: dict[str, nn.Parameter], motion: Motion, scale: float
) -> None:
    for name, parameter in trainable.items():
        grad = parameter.grad
        if grad is None:
            continue
        if scale != 1:
            grad.div_(scale)
        motion.with_gradient.add(name)
        values = grad.coalesce().values() if grad.is_sparse else grad
        if not bool(torch.isfinite(values).all()):
            motion.not_finite.append(name)
        elif bool((values != 0).any()):
            motion.with_signal.add(name)
    motion.ratios = fading(trainable)


def _state_bytes(optimizer: Optimizer) -> int:
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in (state.values() if isinstance(state, dict) else ())
        if isinstance(value, torch.Tensor)
    )


def _note_not_finite(motion: Motion, claims: Claims) -> None:
    claims.add(
        "fail",
        "the gradient is not finite",
        expected="finite gradients",
        actual=f"NaN or Inf in {named(motion.not_finite)}, at step "
        f"{len(motion.seconds)}, with loss {motion.losses[-1]:.4g}",
        fix="Look for sqrt, log, norm or division at 0 in the loss; add an epsilon "
        "inside them; lower lr if the loss grew.",
    )


def _judge_motion(
    probe: Probe,
    trainable: dict[str, nn.Parameter],
    owned: set[int],
    motion: Motion,
    claims: Claims,
) -> None:
    """Every owned parameter gets a gradient and moves."""
    mine = [n for n, p in trainable.items() if id(p) in owned]
    if mine and not motion.with_signal.intersection(trainable):
        _note_no_gradient(mine, motion, claims)
        return
    unmoved = [n for n in mine if n not in motion.moved]
    if mine and len(unmoved) == len(mine):
        claims.add(
            "fail",
            "no parameter moved",
            expected="weights that change at each step",
            actual=f"{len(mine)} parameters equal after {len(motion.seconds)} steps",
            fix="Look at lr, at the optimizer's own settings and at its step().",
        )
        return
    stepped = set(motion.with_signal)
    silent = [n for n in mine if n not in motion.with_signal]
    if silent and _redraw(probe, {n: trainable[n] for n in silent}, motion):
        silent = [n for n in silent if n not in motion.with_signal]
    lazy_moving = [n for n in unmoved if n in stepped and not _cancels(n, motion)]
    _note_some(probe, silent, motion, lazy_moving, claims)
    claims.add(
        "pass",
        f"{len(motion.moved)} of {len(mine)} parameter tensors moved",
        expected="every trainable parameter gets a gradient and moves",
        actual=f"{len(motion.with_signal)} got a gradient, {len(motion.moved)} moved",
    )


def _note_no_gradient(mine: list[str], motion: Motion, claims: Claims) -> None:
    kind = "a gradient of 0" if motion.with_gradient else "no gradient"
    claims.add(
        "fail",
        "no parameter gets a gradient",
        expected="a gradient for every trainable parameter",
        actual=f"{len(mine)} parameters have {kind}: {named(mine)}",
        fix="Look for .detach(), no_grad(), argmax or a constant loss between the "
        "model and the loss.",
    )


def _note_some(
    probe: Probe, silent: list[str], motion: Motion, stuck: list[str], claims: Claims
) -> None:
    resting = at_rest(probe, silent) if silent else set()
    if resting:
        claims.show([("not chosen by these batches", named(sorted(resting)))])
    silent = [n for n in silent if n not in resting]
    if silent and "frozen on purpose" not in probe.task.declares:
        none = [n for n in silent if n not in motion.with_gradient]
        zero = [n for n in silent if n in motion.with_gradient]
        if not none and all(_cancels(name, motion) for name in zero):
            claims.show([("biases that cancel out", named(zero))])
            zero, silent = [], []
        told = [f"no gradient: {named(none)}"] if none else []
        told += [f"gradient of 0: {named(zero)}"] if zero else []
        if told:
            _note_silent(len(silent), told, claims)
    if stuck:
        claims.add(
            "warn",
            f"{len(stuck)} parameters have a gradient but do not move",
            expected="weights that change at each step",
            actual=f"equal after {len(motion.seconds)} steps: {named(stuck)}",
            fix="Raise lr, or keep the weights in fp32: small updates round away.",
        )


def _redraw(probe: Probe, silent: dict[str, nn.Parameter], motion: Motion) -> bool:
    """Look again under other draws: random depth leaves blocks out at some steps."""
    first, _ = attempt(lambda: _drawn(probe, probe.seed))
    again, _ = attempt(lambda: _drawn(probe, probe.seed + 1))
    if first is None or first == again:
        return False  # nothing is drawn
    deadline = time.perf_counter() + MAX_REDRAW_S
    for number in range(NUM_REDRAWS):
        missing = {n: p for n, p in silent.items() if n not in motion.with_signal}
        if not missing or time.perf_counter() > deadline:
            break
        loss, error = attempt(lambda n=number: _loss_of(probe, probe.seed + 1 + n))
        if error is not None:
            break
        probe.model.zero_grad(set_to_none=True)
        loss.backward()
        _note_gradients(missing, motion, 1.0)
    return True


def _loss_of(probe: Probe, seed: int) -> torch.Tensor:
    seed_everything(seed)
    return probe.loss(probe.data.batch("train"), training=True)


def _drawn(probe: Probe, seed: int) -> float:
    return float(_loss_of(probe, seed).detach())


def _cancels(name: str, motion: Motion) -> bool:
    """A bias beside a weight that learns: differences of outputs do not feel it."""
    weight = name.removesuffix("bias") + "weight"
    return name.endswith("bias") and weight in motion.with_signal


def _note_silent(count: int, told: list[str], claims: Claims) -> None:
    claims.add(
        "warn",
        f"{count} parameters get no gradient",
        expected="a gradient for every trainable parameter",
        actual="\n".join(told),
        fix="Remove or freeze them (requires_grad=False), connect them to the "
        'loss, or declare "frozen on purpose".',
    )


CHECK = Check(
    id="R6",
    title="A real step moves every trainable parameter",
    why="A parameter that nobody updates keeps its random start for the whole run.",
    run=run,
    needs=("R5",),
)
