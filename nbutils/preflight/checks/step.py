"""R6: real optimizer steps move every trainable parameter, and only those."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from nbutils.data.loader import OrderedLoader
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.plan import make_plan
from nbutils.train.schedule import build_schedule

__all__ = ["CHECK"]

NUM_STEPS = 3
MAX_SECONDS = 10.0
NUM_NAMED = 6
GROWTH = 10.0
MAX_SIMULATED = 20_000


@dataclass
class Motion:
    """What the steps did to the parameters, by name."""

    with_gradient: set[str] = field(default_factory=set)
    with_signal: set[str] = field(default_factory=set)
    not_finite: list[str] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def run(probe: Probe, claims: Claims) -> None:
    """Take a few steps as the run would, and look at each parameter."""
    model = probe.model
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(model, probe.config, probe.task)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    motion = _take_steps(probe, optimizer, trainable)
    probe.facts["step_seconds"] = motion.seconds
    probe.facts["optimizer_bytes"] = _state_bytes(optimizer)
    _judge_ownership(probe, trainable, owned, claims)
    if motion.not_finite:
        _note_not_finite(motion, claims)
        return
    _judge_motion(probe, trainable, owned, motion, claims)
    _judge_growth(motion, claims)
    _judge_schedule(probe, optimizer, claims)
    losses = " → ".join(f"{loss:.4g}" for loss in motion.losses)
    claims.show([("loss, step by step", losses)])


def _judge_growth(motion: Motion, claims: Claims) -> None:
    first, last = motion.losses[0], motion.losses[-1]
    if last > GROWTH * abs(first) + 1:
        claims.add(
            "warn",
            "the loss grows from the first steps on",
            expected="a loss that falls, or stays",
            actual=f"{first:.4g}, after {len(motion.losses) - 1} steps {last:.4g}",
            fix="Lower lr, or raise warmup_steps.",
        )


def _judge_schedule(probe: Probe, optimizer: Optimizer, claims: Claims) -> None:
    """Follow the learning rate over all planned updates."""
    plan = make_plan(probe.config, probe.data.loader("train").num_batches)
    rates: list[float] = []

    def follow() -> None:
        schedule = build_schedule(optimizer, probe.config, plan.steps, probe.task)
        for _ in range(min(plan.steps or 1, MAX_SIMULATED)):
            rates.append(schedule.lr())
            schedule.advance()

    _, error = attempt(follow)
    if error is not None:
        claims.add(
            "fail",
            "the schedule does not last as long as the run",
            expected=f"a learning rate for each of {plan.steps or 'all'} updates",
            actual=f"{quote(error)}\nafter {len(rates)} updates",
            fix="Build it for planned_steps, the second argument of make_schedule; "
            "set max_steps where the data has no length.",
        )
        return
    text = f"{rates[0]:.3g} at first, {max(rates):.3g} at most, {rates[-1]:.3g} at last"
    claims.show([(f"learning rate over {len(rates):,} updates", text)])


def _take_steps(
    probe: Probe, optimizer: Optimizer, trainable: dict[str, nn.Parameter]
) -> Motion:
    motion = Motion()
    before = {n: p.detach().clone() for n, p in trainable.items()}
    deadline = time.perf_counter() + MAX_SECONDS
    for number in range(NUM_STEPS):
        batch = probe.data.batch("train", None, _number(probe, number))
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = probe.loss(batch, training=True)
        loss.backward()
        _note_gradients(trainable, motion)
        optimizer.step()
        if probe.device.type == "cuda":
            torch.cuda.synchronize(probe.device)
        elif probe.device.type == "mps":
            torch.mps.synchronize()
        motion.seconds.append(time.perf_counter() - start)
        motion.losses.append(float(loss.detach()))
        if motion.not_finite or time.perf_counter() > deadline:
            break
    for name, parameter in trainable.items():
        if not torch.equal(parameter.detach(), before[name]):
            motion.moved.add(name)
    return motion


def _number(probe: Probe, number: int) -> int:
    """A batch of full size for each step, the first one again if there are no more."""
    loader = probe.data.loader("train")
    if not isinstance(loader, OrderedLoader) or number >= len(loader):
        return 0
    return number if len(loader.indices(number)) == len(loader.indices(0)) else 0


def _note_gradients(trainable: dict[str, nn.Parameter], motion: Motion) -> None:
    for name, parameter in trainable.items():
        grad = parameter.grad
        if grad is None:
            continue
        motion.with_gradient.add(name)
        values = grad.coalesce().values() if grad.is_sparse else grad
        if not bool(torch.isfinite(values).all()):
            motion.not_finite.append(name)
        elif bool((values != 0).any()):
            motion.with_signal.add(name)


def _state_bytes(optimizer: Optimizer) -> int:
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in (state.values() if isinstance(state, dict) else ())
        if isinstance(value, torch.Tensor)
    )


def _judge_ownership(
    probe: Probe, trainable: dict[str, nn.Parameter], owned: set[int], claims: Claims
) -> None:
    missing = [n for n, p in trainable.items() if id(p) not in owned]
    if not missing:
        claims.add("pass", "the optimizer owns every trainable parameter")
        return
    if "frozen on purpose" in probe.task.declares and len(missing) < len(trainable):
        claims.add("pass", f"{len(missing)} parameters rest on purpose, as declared")
        return
    owns_none = len(missing) == len(trainable)
    claims.add(
        "fail" if owns_none else "warn",
        "the optimizer owns none of the model's parameters"
        if owns_none
        else f"the optimizer leaves out {len(missing)} trainable parameters",
        expected=f"all {len(trainable)} trainable parameters",
        actual=f"left out: {_named(missing)}",
        fix="Build it from the model that make_optimizer is given; set "
        "requires_grad=False on what should rest, or declare "
        '"frozen on purpose".',
    )


def _note_not_finite(motion: Motion, claims: Claims) -> None:
    claims.add(
        "fail",
        "the gradient is not finite",
        expected="finite gradients",
        actual=f"NaN or Inf in {_named(motion.not_finite)}, at step "
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
    silent = [n for n in mine if n not in motion.with_signal]
    lazy_moving = [n for n in unmoved if n in motion.with_signal]
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
        actual=f"{len(mine)} parameters have {kind}: {_named(mine)}",
        fix="Look for .detach(), no_grad(), argmax or a constant loss between the "
        "model and the loss.",
    )


def _note_some(
    probe: Probe, silent: list[str], motion: Motion, stuck: list[str], claims: Claims
) -> None:
    if silent and "frozen on purpose" not in probe.task.declares:
        none = [n for n in silent if n not in motion.with_gradient]
        zero = [n for n in silent if n in motion.with_gradient]
        told = [f"no gradient: {_named(none)}"] if none else []
        told += [f"gradient of 0: {_named(zero)}"] if zero else []
        claims.add(
            "warn",
            f"{len(silent)} parameters get no gradient",
            expected="a gradient for every trainable parameter",
            actual="\n".join(told),
            fix="Remove or freeze them (requires_grad=False), connect them to the "
            'loss, or declare "frozen on purpose".',
        )
    if stuck:
        claims.add(
            "warn",
            f"{len(stuck)} parameters have a gradient but do not move",
            expected="weights that change at each step",
            actual=f"equal after {len(motion.seconds)} steps: {_named(stuck)}",
            fix="Raise lr, or keep the weights in fp32: small updates round away.",
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


CHECK = Check(
    id="R6",
    title="A real step moves every trainable parameter",
    why="A parameter that nobody updates keeps its random start for the whole run.",
    run=run,
    needs=("R5",),
)
