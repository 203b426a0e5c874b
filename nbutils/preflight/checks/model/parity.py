"""R15: the path that evaluates gives what the path that trains was taught."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbutils.data.batch import tensors
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.plan import make_plan

__all__ = ["CHECK"]

NUM_STEPS = 8
MAX_STEPS_S = 1.0
SLOW_S = 2.0
CLOSE = 1e-3
FACTOR = 1.25
NEW_BATCH = 0.9
FILLED = 0.5
SQUASHED = {
    "softmax": lambda x: (x.softmax(-1), x.softmax(min(1, x.ndim - 1))),
    "log_softmax": lambda x: (x.log_softmax(-1), x.log_softmax(min(1, x.ndim - 1))),
    "sigmoid": lambda x: (torch.sigmoid(x),),
}


def run(probe: Probe, claims: Claims) -> None:
    """One batch through both paths, before and after a few steps."""
    _judge_statistics(probe, claims)
    before = _losses(probe)
    if before is None:
        claims.add("skip", "the loss cannot be computed in eval mode")
        return
    _judge_finite(*before, claims)
    if min(probe.facts.get("step_seconds", [0.0])) > SLOW_S:
        claims.add("skip", f"outputs are not compared: a step takes over {SLOW_S} s")
    else:
        _judge_paths(probe, claims)
    claims.show([("loss in train and eval mode", _text(*before))])
    after, error = attempt(lambda: _after_steps(probe))
    probe.rewind()
    if error is None and after is not None:
        claims.show([("the same after a few steps", _text(*after))])
    claims.add(
        "pass",
        "both paths agree",
        expected="outputs of eval that the loss was trained on",
        actual=f"loss: {_text(*before)}",
    )


def _text(train: float, evaluated: float) -> str:
    return f"{train:.4g} in train mode, {evaluated:.4g} in eval mode"


def _losses(probe: Probe) -> tuple[float, float] | None:
    """Loss of the first batch in train and in eval mode, as the model stands."""
    batch = probe.data.batch("train")
    train, error = attempt(lambda: float(probe.loss(batch, training=True).detach()))
    evaluated, other = attempt(
        lambda: float(probe.loss(batch, training=False).detach())
    )
    probe.rewind()
    return None if error is not None or other is not None else (train, evaluated)


def _after_steps(probe: Probe) -> tuple[float, float] | None:
    seconds = probe.facts.get("step_seconds") or [math.inf]
    count = min(NUM_STEPS, int(min(MAX_STEPS_S, probe.seconds_left) / min(seconds)))
    if count < 2:
        return None
    optimizer = build_optimizer(probe.model, probe.config, probe.task)
    batch = probe.data.batch("train")
    train = math.nan
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss = probe.loss(batch, training=True)
        loss.backward()
        optimizer.step()
        train = float(loss.detach())
    return train, float(probe.loss(batch, training=False).detach())


def _judge_finite(train: float, evaluated: float, claims: Claims) -> None:
    if math.isfinite(train) and math.isnan(evaluated):
        claims.add(
            "fail",
            "the loss is NaN in eval mode alone",
            expected="a finite loss in both modes",
            actual=_text(train, evaluated),
            fix="Look at what the model does when self.training is False, and at the "
            "running statistics of its norms.",
        )


def _judge_statistics(probe: Probe, claims: Claims) -> None:
    """Running statistics that the run will not fill, or will fill with one batch."""
    plan = make_plan(probe.config, probe.data.loader("train").num_batches)
    steps = (plan.steps or 0) * probe.config.train.accumulation
    never: list[str] = []
    last: list[str] = []
    for name, module in probe.model.named_modules():
        if not isinstance(module, _BatchNorm) or module.running_mean is None:
            continue
        if module.momentum is None or not module.training or module.running_var is None:
            continue
        if module.momentum >= NEW_BATCH:
            last.append(f"'{name}' momentum={module.momentum:g}")
        is_new = not module.running_mean.any() and bool((module.running_var == 1).all())
        filled = 1 - (1 - module.momentum) ** steps if steps else 1.0
        is_slow = module.momentum == 0 or (module.momentum < 0.01 and filled < FILLED)
        if is_new and is_slow:
            share = "never" if not module.momentum else f"to {filled:.0%} in {steps:,}"
            never.append(f"'{name}' momentum={module.momentum:g}: filled {share} steps")
    _note_norms(never, last, claims)


def _note_norms(never: list[str], last: list[str], claims: Claims) -> None:
    if never:
        claims.add(
            "warn",
            "running statistics of BatchNorm stay at their start",
            expected="statistics of the data in eval mode",
            actual=_few(never),
            fix="Use BatchNorm's default momentum of 0.1.",
        )
    if last:
        claims.add(
            "warn",
            "BatchNorm evaluates with the statistics of its last batch",
            expected="a momentum of about 0.1: the weight of the new batch",
            actual=_few(last),
            fix="In other frameworks momentum is the weight of the old value: use "
            "1 - momentum here.",
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _judge_paths(probe: Probe, claims: Claims) -> None:
    """Train and eval outputs with all that is known to differ switched off.

    Dropout rests in both, BatchNorm uses the batch in both. What then still differs is
    the model's own doing; only a change of scale or a squashing is told.
    """
    train, error = attempt(lambda: _outputs(probe, training=True, seed=1))
    again, other = attempt(lambda: _outputs(probe, training=True, seed=2))
    evaluated, third = attempt(lambda: _outputs(probe, training=False, seed=1))
    probe.rewind()
    if error or other or third or train is None or evaluated is None or again is None:
        return
    if train.shape != evaluated.shape or not _agree(train, again):
        return  # another form by design, or noise in the model
    if _agree(train, evaluated):
        claims.add("pass", "train and eval mode give the same outputs, dropout apart")
        return
    name = next(
        (n for n, f in SQUASHED.items() if any(_agree(y, evaluated) for y in f(train))),
        "",
    )
    if name:
        _note_path(f"eval outputs are the {name} of train outputs", claims)
        return
    factor = float((train * evaluated).sum() / train.square().sum())
    is_scaled = _agree(factor * train, evaluated) and factor > 0
    if is_scaled and not 1 / FACTOR < factor < FACTOR:
        _note_path(f"eval outputs are {factor:.3g} times train outputs", claims)
        return
    if _is_scaled_by_row(train, evaluated):
        _note_path(
            "eval outputs are rescaled, each sample by a factor of its own", claims
        )
        return
    _judge_constant(probe, train, evaluated, claims)


def _is_scaled_by_row(train: Tensor, evaluated: Tensor) -> bool:
    """Whether each sample keeps its direction and changes its length, notably so."""
    if train.ndim < 2 or len(train) < 4 or train[0].numel() < 4:
        return False
    a, b = train.flatten(1), evaluated.flatten(1)
    factors = (a * b).sum(1) / a.square().sum(1).clamp(min=1e-12)
    notable = (factors > FACTOR) | ((factors < 1 / FACTOR) & (factors > 0))
    return bool(notable.float().mean() > 0.9) and _agree(factors[:, None] * a, b)


def _note_path(actual: str, claims: Claims) -> None:
    claims.add(
        "warn",
        "the model gives the loss something else in eval mode",
        expected="outputs of one meaning in both modes, so that losses compare",
        actual=actual + ", and the loss is the same",
        fix="Give the loss the same thing in both modes; convert for prediction in a "
        "method of its own.",
    )


def _judge_constant(
    probe: Probe, train: Tensor, evaluated: Tensor, claims: Claims
) -> None:
    """Outputs of eval that are alike at the start, and still so after a few steps."""
    if len(train) < 4 or train.ndim < 1:
        return
    spread = float((train - train.mean(0)).abs().max())
    left = _spread(evaluated)
    is_alike = spread > 1e-3 * float(train.abs().max()) and left <= 1e-7 * spread
    if is_alike and _stays_alike(probe):
        claims.add(
            "warn",
            "in eval mode every sample gets the same output",
            expected="outputs that depend on the input",
            actual=f"outputs differ by up to {spread:.3g} in train mode and by "
            f"{left:.3g} in eval mode",
            fix="Look at what the model does when self.training is False.",
        )


def _outputs(probe: Probe, *, training: bool, seed: int) -> Tensor | None:
    """The model's first floats, ``(B, ...)``, with dropout and norms set alike."""
    probe.rewind()
    batch = probe.fresh(probe.data.batch("train"))
    model = probe.model
    seed_everything(seed)
    with torch.no_grad(), _alike(model, training=training):
        outputs: Any = probe.task.forward(model, batch)
    found = [t for _, t in tensors(outputs) if t.is_floating_point() and t.ndim]
    return found[0].detach().double() if found else None


def _spread(outputs: Tensor) -> float:
    return float((outputs - outputs.mean(0)).abs().max())


def _stays_alike(probe: Probe) -> bool:
    """Whether steps change nothing: branches that start at 0 open with the first."""
    probe.rewind()
    _, error = attempt(lambda: _after_steps(probe))
    if error is not None:
        return False
    batch = probe.fresh(probe.data.batch("train"))
    with torch.no_grad(), _alike(probe.model, training=False):
        outputs: Any = probe.task.forward(probe.model, batch)
    found = [t for _, t in tensors(outputs) if t.is_floating_point() and t.ndim]
    return bool(found) and _spread(found[0].double()) <= 1e-7


@contextmanager
def _alike(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The model in one mode, but for layers that are known to differ between them."""
    flags = {module: module.training for module in model.modules()}
    model.train(training)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
        elif "drop" in type(module).__name__.lower():
            module.eval()
        elif isinstance(getattr(module, "dropout", None), float):
            module.eval()  # recurrent and attention layers with dropout inside
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def _agree(a: Tensor, b: Tensor) -> bool:
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    return float((a - b).abs().max()) <= CLOSE * max(scale, 1e-12)


CHECK = Check(
    id="R15",
    title="Evaluation takes the path that was trained",
    why="A model that does something else in eval mode is judged on what it never "
    "learnt.",
    run=run,
    needs=("R6",),
)
