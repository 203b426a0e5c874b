"""Part of S3: numbers that make no sense for the optimizer that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer

__all__ = ["judge_knobs"]

TOO_SMALL_LR = 1e-8
ADAM_LR, ADAM_LR_ANYWHERE, SGD_LR = 0.1, 0.5, 10.0
DEEP_MATRICES, DEEP_VALUES = 2, 500
ADAMS = ("adam", "nadam", "radam", "adamax", "lamb", "lion")
OWN = ("optimizer", "lr", "weight_decay", "momentum", "betas", "lr_groups")
OWN += ("decay_groups", "decay_1d")
OF_SCHEDULE = ("schedule", "warmup_steps", "min_lr")


def judge_knobs(probe: Probe, claims: Claims) -> None:
    """Judge lr, decay, momentum and clipping; those of one's own optimizer as well."""
    config = probe.config
    groups = list(_groups(probe))
    for kind, group in groups:
        _judge_lr(probe, kind, group, claims)
        _judge_decay(kind, group, claims)
        _judge_moments(kind, group, claims)
    _judge_clipping(config.guard, claims)
    if config.loss.label_smoothing >= 0.5:
        claims.add(
            "warn",
            f"label_smoothing = {config.loss.label_smoothing:g}: the wrong classes "
            "weigh more than the right one",
            expected="0.05 to 0.2",
            actual=f"{config.loss.label_smoothing:g}",
            fix="Set label_smoothing=0.1.",
        )
    negative = {k: v for k, v in probe.task.loss_weights.items() if v < 0}
    if negative:
        named = ", ".join(f"{name} = {value:g}" for name, value in negative.items())
        claims.add(
            "warn",
            "a negative loss weight: the term is driven up",
            expected="weights of 0 and more",
            actual=named,
            fix="Use a positive weight; turn the sign in the loss, where it is seen.",
        )
    off = [name for name, value in _weights(probe).items() if value == 0]
    claims.show((f"term {name}", "weight 0: switched off") for name in off)
    _judge_unread(probe, groups, claims)


def _weights(probe: Probe) -> dict[str, float]:
    return {**probe.task.loss_weights, **probe.config.loss.loss_weights}


def _groups(probe: Probe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and settings of each parameter group, as the optimizer will have them."""
    optim = probe.config.optim
    if probe.task.make_optimizer is None:
        yield (
            optim.optimizer,
            {
                "lr": optim.lr,
                "weight_decay": optim.weight_decay,
                "momentum": optim.momentum,
                "betas": optim.betas,
            },
        )
        return
    if probe.facts["depth"] == "static" or probe.obstacle:
        return
    made, error = attempt(
        lambda: build_optimizer(probe.model, probe.config, probe.task)
    )
    if error is not None:
        return  # R6 tells
    kind = type(made).__name__.lower()
    seen: list[dict[str, Any]] = []
    for group in made.param_groups:
        kept = {
            key: group[key]
            for key in ("lr", "weight_decay", "momentum", "betas")
            if isinstance(group.get(key), (int, float, tuple))
        }
        if kept not in seen:
            seen.append(kept)
            yield kind, kept


def _is_adam(kind: str) -> bool:
    return kind.startswith(("paged_adam", *ADAMS))


def _judge_lr(probe: Probe, kind: str, group: dict[str, Any], claims: Claims) -> None:
    lr = group.get("lr")
    if lr is None:
        return
    if 0 < lr < TOO_SMALL_LR:
        claims.add(
            "warn",
            f"lr = {lr:g} is too small to move a weight in fp32",
            expected="1e-6 and more",
            actual=f"lr = {lr:g} with {kind}",
            fix="Raise lr; 1e-3 suits most models with adamw.",
        )
    limit = SGD_LR if kind == "sgd" else ADAM_LR_ANYWHERE
    if _is_adam(kind) and _is_deep(probe.task.model):
        limit = ADAM_LR
    if lr >= limit and (kind == "sgd" or _is_adam(kind)):
        usual = "1e-4 to 3e-3" if _is_adam(kind) else "1e-3 to 1"
        claims.add(
            "warn",
            f"lr = {lr:g} is far too large for {kind}",
            expected=f"{usual} in most cases",
            actual=f"lr = {lr:g}: "
            + (
                f"each weight moves by up to {lr:g} at every step"
                if _is_adam(kind)
                else "the step is ten times the gradient and more"
            ),
            fix="Lower lr: 1e-3 is a good start."
            if _is_adam(kind)
            else "Lower lr: 0.1 is a good start.",
        )


def _is_deep(model: nn.Module) -> bool:
    """More than a linear model, which takes large steps well."""
    trained = [p for p in model.parameters() if p.requires_grad and not is_lazy(p)]
    matrices = [p for p in trained if p.ndim >= 2]
    size = sum(p.numel() for p in trained)
    return len(matrices) >= DEEP_MATRICES and size >= DEEP_VALUES


def _judge_decay(kind: str, group: dict[str, Any], claims: Claims) -> None:
    decay, lr = group.get("weight_decay"), group.get("lr")
    if not decay or lr is None:
        return
    is_decoupled = "adamw" in kind or kind in ("lion", "lamb")
    shrinks = lr * decay if is_decoupled or kind == "sgd" else 0.0
    if decay > 1 or (decay >= 0.5 and not is_decoupled) or shrinks >= 0.1:
        told = f"; every weight shrinks by {shrinks:.2%} a step" if shrinks else ""
        claims.add(
            "warn",
            f"weight_decay = {decay:g} outweighs the gradient",
            expected="0 to 0.3",
            actual=f"weight_decay = {decay:g}, lr = {lr:g} with {kind}{told}",
            fix="Set weight_decay=0.01.",
        )


def _judge_moments(kind: str, group: dict[str, Any], claims: Claims) -> None:
    betas, momentum = group.get("betas"), group.get("momentum")
    first, second = betas if isinstance(betas, tuple) else (0.0, 1.0)
    if first > second and first >= 0.99 and _is_adam(kind) and kind != "lion":
        claims.add(
            "warn",
            f"betas = ({first:g}, {second:g}) look swapped",
            expected="the first below the second, such as (0.9, 0.999)",
            actual=f"the gradient is averaged over {_span(first)} steps, its square "
            f"over {_span(second)}",
            fix=f"Set betas=({second:g}, {first:g}).",
        )
    if kind == "sgd" and isinstance(momentum, float) and momentum >= 0.999:
        claims.add(
            "warn",
            f"momentum = {momentum:g} carries a gradient for {_span(momentum)} steps",
            expected="0 to 0.99",
            actual=f"momentum = {momentum:g}: the step is {_span(momentum)} times lr",
            fix="Set momentum=0.9.",
        )


def _span(decay: float) -> str:
    return f"{1 / max(1 - decay, 1e-12):,.0f}"


def _judge_clipping(guard: Any, claims: Claims) -> None:
    for name, limit in (("clip_norm", 1e-4), ("clip_value", 1e-6)):
        value = getattr(guard, name)
        if value is not None and value < limit:
            claims.add(
                "warn",
                f"{name} = {value:g} clips nearly all of every gradient away",
                expected="0.1 to 10, or None",
                actual=f"{name} = {value:g}",
                fix=f"Set {name}=1.0, or None.",
            )


def _judge_unread(
    probe: Probe, groups: list[tuple[str, dict[str, Any]]], claims: Claims
) -> None:
    """Settings given by hand whose place a function of the task has taken."""
    config, task = probe.config, probe.task
    unread: dict[str, str] = {}
    if task.make_optimizer is not None:
        built = [group for _, group in groups]
        leaves = config.leaves()
        for name in OWN:
            same = any(group.get(name) == leaves[name] for group in built)
            if not same and (built or probe.facts["depth"] == "static"):
                unread[name] = "make_optimizer"
    if task.make_schedule is not None:
        unread |= dict.fromkeys(OF_SCHEDULE, "make_schedule")
    for name, by in unread.items():
        if config.origin(name) == "argument":
            claims.add(
                "warn",
                f"{name} has no effect: {by} decides",
                expected="one place that decides",
                actual=f"{name} = {config.leaves()[name]!r} is given, and so is {by}",
                fix=f"Leave out {name}, or {by}.",
            )
    if task.make_optimizer is None:
        other = "momentum" if config.optim.optimizer != "sgd" else "betas"
        if config.origin(other) == "argument":
            claims.show([(other, f"has no effect with {config.optim.optimizer}")])
