"""R10: the model can learn one small batch, and learns it from its inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nbutils.data.batch import batch_size, tensors
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.judged import judge_part
from nbutils.preflight.checks.update.learning_controls import show_controls
from nbutils.preflight.checks.update.learnt import Levels, find_levels, judge_learnt
from nbutils.preflight.checks.update.reachable import judge_reachable
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.precision import Precision
from nbutils.train.step import forward_loss

__all__ = ["CHECK"]

NUM_SAMPLES = 16
NUM_STEPS = 80
MIN_STEPS = 25
MAX_STEP_S = 0.3
BUDGET_S = 3.0
RATES = {"Adam, lr 0.01": 1e-2, "Adam, lr 0.001": 1e-3}
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
SUBJECT = "learning one batch"
CONFIGURED = "as configured"


@dataclass
class Lesson:
    """One try at a batch.

    Attributes:
        name: The optimizer and its rate.
        losses: Before each step, and after the last.
        before: Outputs of the first pass, by path.
        after: Outputs of the last pass.
        is_ascent: Whether the optimizer was told to maximize.
    """

    name: str
    losses: list[float] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    is_ascent: bool = False

    @property
    def end(self) -> float:
        """The mean of the last three losses; infinite if one is not finite."""
        last = self.losses[-3:]
        is_finite = bool(last) and all(map(math.isfinite, last))
        return sum(last) / len(last) if is_finite else math.inf

    @property
    def text(self) -> str:
        """``1.39 → 0.21 in 40 steps``."""
        return f"{self.losses[0]:.4g} → {self.end:.4g} in {len(self.losses) - 1} steps"


def run(probe: Probe, claims: Claims) -> None:
    """Train on a few samples, first as the run will, then as Adam usually can."""
    batch, error = attempt(lambda: _small(probe))
    if error is not None:
        claims.add("skip", f"{SUBJECT}: {error}")
        return
    step_s, error = attempt(lambda: _seconds(probe, batch))
    budget_s = min(BUDGET_S, probe.seconds_left / 2)
    if error is not None or step_s > MAX_STEP_S or budget_s / 3 < MIN_STEPS * step_s:
        reason = f"{error}" if error is not None else f"a step takes {step_s:.2g} s"
        claims.add("skip", f"{SUBJECT}: {reason}")
        return
    levels, error = attempt(lambda: find_levels(probe, batch))
    if error is not None:
        levels = None
    num_steps = min(NUM_STEPS, int(budget_s / 3 / step_s))
    lessons = list(_lessons(probe, batch, levels, num_steps))
    probe.rewind()
    claims.show((f"{SUBJECT}, {lesson.name}", lesson.text) for lesson in lessons)
    if not lessons:
        claims.add("skip", f"{SUBJECT}: no optimizer could step on it")
        return
    judge_learnt(lessons, levels, claims)
    own = lessons[0]
    if own.is_ascent and own.losses[-1] > own.losses[0]:
        _note_ascent(own, claims)
        return
    if own.name == CONFIGURED:
        moved = {p: (t, own.after[p]) for p, t in own.before.items() if p in own.after}
        count = len(own.losses) - 1
        judge_part(
            "reach of the targets",
            lambda: judge_reachable(probe, batch, moved, count, claims),
            claims,
        )
    if levels is not None and claims.worst == "pass":
        teach = _again(probe, lessons[-1])
        show_controls(probe, batch, levels, teach, claims)


def _note_ascent(own: Lesson, claims: Claims) -> None:
    claims.add(
        "warn",
        "the optimizer climbs the loss: maximize=True",
        expected="a loss that falls",
        actual=own.text,
        fix="Take maximize=True out of the optimizer, or turn the sign of the loss if "
        "it is a reward.",
    )


def _again(probe: Probe, lesson: Lesson) -> Callable[[Any], str]:
    """As many steps in the same way on another batch; gives what came of it."""

    def teach(batch: Any) -> str:
        other = Lesson(lesson.name)
        _learn(probe, batch, other, None, len(lesson.losses) - 1)
        return other.text

    return teach


def _small(probe: Probe) -> Any:
    """A batch of a few samples, the first of the epoch."""
    if probe.data.configured_size <= NUM_SAMPLES:
        return probe.data.batch("train")
    batch, error = attempt(lambda: probe.data.batch("train", NUM_SAMPLES))
    return probe.data.batch("train") if error is not None else batch


def _seconds(probe: Probe, batch: Any) -> float:
    """Of forward and backward; on a CPU those of this process alone."""
    is_cpu = probe.device.type == "cpu"
    clock = time.process_time if is_cpu else time.perf_counter
    taken: list[float] = []
    for _ in range(3):
        start = clock()
        _, loss = _pass(probe, batch)
        loss.backward()
        float(loss.detach())  # waits for an accelerator
        taken.append(clock() - start)
        probe.rewind()
    return min(taken)


def _pass(probe: Probe, batch: Any) -> tuple[Any, Tensor]:
    """Outputs and loss in fp32, in train mode without dropout."""
    with _without_dropout(probe.model):
        weights = probe.config.loss.loss_weights
        precision = Precision("fp32", probe.device)
        moved = probe.fresh(batch)
        outputs, _, loss = forward_loss(
            probe.task, probe.model, moved, precision, weights
        )
    return outputs, loss


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    model.train()
    quiet = [m for m in model.modules() if isinstance(m, DROPOUTS)]
    for module in quiet:
        module.eval()
    try:
        yield
    finally:
        for module in quiet:
            module.train()


def _lessons(
    probe: Probe, batch: Any, levels: Levels | None, num_steps: int
) -> Iterator[Lesson]:
    """The run's own optimizer, then Adam at other rates until one has learnt it."""
    for name in (CONFIGURED, *RATES):
        lesson = Lesson(name)
        _, error = attempt(
            lambda lesson=lesson: _learn(probe, batch, lesson, levels, num_steps)
        )
        if error is not None:
            continue
        yield lesson
        if _has_learnt(lesson, levels):
            return


def _optimizer(probe: Probe, name: str) -> Optimizer:
    if name not in RATES:
        return build_optimizer(probe.model, probe.config, probe.task)
    loss = probe.task.loss
    extra = loss.parameters() if isinstance(loss, nn.Module) else ()
    parameters = [p for p in (*probe.model.parameters(), *extra) if p.requires_grad]
    return torch.optim.Adam(parameters, lr=RATES[name], foreach=False)


def _learn(
    probe: Probe,
    batch: Any,
    lesson: Lesson,
    levels: Levels | None,
    num_steps: int,
) -> None:
    """Step on one batch until it is learnt, or the steps or the time are over."""
    probe.rewind()
    optimizer = _optimizer(probe, lesson.name)
    lesson.is_ascent = any(g.get("maximize") for g in optimizer.param_groups)
    for _ in range(num_steps):
        optimizer.zero_grad(set_to_none=True)
        outputs, loss = _pass(probe, batch)
        value = float(loss.detach())
        lesson.losses.append(value)
        lesson.before = lesson.before or _kept(outputs, batch)
        is_over = not math.isfinite(value) or probe.seconds_left < 1
        if is_over or _has_learnt(lesson, levels):
            break
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs, loss = _pass(probe, batch)
    lesson.losses.append(float(loss))
    lesson.after = _kept(outputs, batch)


def _has_learnt(lesson: Lesson, levels: Levels | None) -> bool:
    """Whether the loss has clearly fallen, below any constant answer if that is known.

    A single low value may be luck where the loss draws random numbers.
    """
    start, last = lesson.losses[0], lesson.losses[-3:]
    if levels is not None:
        return all(value <= levels.goal for value in last)
    return len(lesson.losses) > 3 and max(last) < start - 0.3 * abs(start)


def _kept(outputs: Any, batch: Any) -> dict[str, Tensor]:
    """Outputs with a row for each sample, without their graph."""
    size = batch_size(batch)
    found = ((p, t.detach()) for p, t in tensors(outputs))
    return {
        path: tensor.clone()
        for path, tensor in found
        if tensor.ndim and tensor.shape[0] == size and tensor.is_floating_point()
    }


CHECK = Check(
    id="R10",
    title="The model can learn one batch",
    why="A model that cannot fit 16 samples will not fit a data set; it looks healthy "
    "and stays at a constant answer.",
    run=run,
    needs=("R5", "R6"),
)
