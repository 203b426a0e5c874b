"""Steps on fake tensors make a memory plan, for this device and for cards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nbutils.errors import ConfigError
from nbutils.preflight.fake.cards import Change, smaller_batch
from nbutils.preflight.fake.formats import Format
from nbutils.preflight.fake.plan import MemoryPlan, optimizer_bytes
from nbutils.preflight.fake.room import model_bytes
from nbutils.preflight.fake.simulate import Scene, Stopped, Usage, walk
from nbutils.preflight.fake.twin import Fakes, Unfakeable
from nbutils.train.activations import describe_checkpointing, set_checkpointing

__all__ = ["Subject", "Survey"]

SMALL_BYTES = 256 * 2**20
"""Weights below this may let operations without a fake form run on zeros."""
SLOW_S = 4.0
"""A step on fakes that takes longer is not repeated at a second batch size."""
CALIBRATED = "calibrated against resident memory on a CPU"
UNCALIBRATED = "by the rules of CUDA; not calibrated on a GPU"
Other = Callable[[], tuple[Any, int] | None]


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Args:
        task: The task.
        config: The effective configuration.
        model: Its model, or a copy whose parameters all have shapes.
        batch: A batch, real or on the meta device.
        batch_size: Samples in it.
        other: Makes the same at another size; none where that cannot be.
        format: The number format of the run on its own device.
        limit_s: Seconds that all walks together may take.
    """

    task: Any
    config: Any
    model: nn.Module
    batch: Any
    batch_size: int
    other: Other
    format: Format
    limit_s: float = 45.0


class Survey:
    """A walk through a step on fakes, and what follows from it.

    Args:
        subject: What is looked at.
        usage: What a real step took, where there is one; else a step on fakes is made.

    Raises:
        Unfakeable: There is no fake twin.
        Stopped: The step raised.
    """

    def __init__(self, subject: Subject, usage: Usage | None = None) -> None:
        self.subject = subject
        self._deadline = time.perf_counter() + subject.limit_s
        self.usage = usage or self._walk(subject.format)

    @cached_property
    def plan(self) -> MemoryPlan:
        """The plan for the run's own device."""
        options = self.subject.config.model
        return self._plan(self.usage, is_recomputed=options.gradient_checkpointing)

    @cached_property
    def cards(self) -> tuple[MemoryPlan, str]:
        """The plan by the rules of CUDA, and a remark where they could not be used."""
        subject = self.subject
        if subject.format.rules == "cuda":
            return self.plan, ""
        asked = subject.config.precision.precision
        found = self._on_a_card("bf16" if asked == "auto" else asked)
        if isinstance(found, MemoryPlan):
            return found, ""
        return self.plan, f"its rules could not be followed: {found}"

    def changes(self) -> list[Change]:
        """Settings that would save memory on a card, each with its effect."""
        subject, plan = self.subject, self.cards[0]
        found: list[Change] = []
        is_adam = subject.config.optim.optimizer in ("adam", "adamw")
        if is_adam and subject.task.make_optimizer is None:
            name = f"{subject.config.optim.optimizer}8bit"
            state = optimizer_bytes(name, self._trainable())
            found.append(
                Change(
                    f'optimizer="{name}"',
                    lambda p: replace(p, optimizer=state, optimizer_name=name),
                )
            )
        found += self._recomputing()
        if plan.precision == "fp32" and isinstance(
            half := self._on_a_card("bf16"), MemoryPlan
        ):
            found.append(Change('precision="bf16"', _towards(plan, half)))
        if subject.batch_size > 1:
            text = "batch_size={batch_size} with accumulation={accumulation}"
            found.append(Change(text, smaller_batch))
        return found

    def _recomputing(self) -> list[Change]:
        subject = self.subject
        options = subject.config.model
        if options.gradient_checkpointing:
            return []
        switched = subject.config.replace(gradient_checkpointing=True)
        try:
            describe_checkpointing(subject.model, switched.model)
            usage = self._walk(subject.format, config=switched)
        except (ConfigError, Stopped, Unfakeable):
            return []
        less = self._plan(usage, is_recomputed=True, config=switched)
        return [Change("gradient_checkpointing=True", _towards(self.plan, less))]

    def _on_a_card(self, kind: str) -> MemoryPlan | str:
        """The plan by the rules of CUDA, from a forward pass; or why there is none."""
        rules = Format(kind, "cuda", "cpu", self.subject.format.loss_fp32)
        try:
            usage = self._walk(rules, with_backward=False)
        except (Stopped, Unfakeable) as stop:
            return str(stop)
        plan, more = self.plan, usage.saved - self.usage.saved
        per_sample = max(0.0, plan.step_per_sample + more / plan.batch_size)
        return replace(
            plan,
            activations=usage.saved,
            step=max(0, plan.step + more),
            step_per_sample=per_sample,
            step_fixed=max(0.0, plan.step + more - per_sample * plan.batch_size),
            precision=kind,
            device="cuda",
            basis=UNCALIBRATED,
        )

    def _walk(
        self,
        rules: Format,
        *,
        with_backward: bool = True,
        config: Any = None,
        batch: Any = None,
    ) -> Usage:
        subject = self.subject
        config = config or subject.config
        scene, fakes = _scene(subject, rules, config, self._deadline)
        fake = fakes.batch(subject.batch if batch is None else batch)
        return walk(scene, fake, with_backward=with_backward)

    def _plan(
        self, usage: Usage, *, is_recomputed: bool, config: Any = None
    ) -> MemoryPlan:
        subject = self.subject
        trainable = self._trainable()
        grads = sum(p.numel() * p.element_size() for p in trainable)
        step = usage.peak + usage.batch
        per_sample = self._slope(usage, config)
        name, state = self._optimizer(trainable)
        has_ema = subject.config.optim.ema_decay is not None
        is_cpu = subject.format.device_type == "cpu"
        extra = [subject.task.loss] if isinstance(subject.task.loss, nn.Module) else []
        modules = nn.ModuleList([subject.model, *extra])
        return MemoryPlan(
            num_parameters=sum(p.numel() for p in modules.parameters()),
            num_trainable=sum(p.numel() for p in trainable),
            weights=model_bytes(modules),
            gradients=grads,
            optimizer=state,
            optimizer_name=name,
            ema=grads if has_ema else 0,
            activations=usage.saved,
            step=step,
            step_fixed=max(0.0, step - per_sample * subject.batch_size),
            step_per_sample=per_sample,
            batch_size=subject.batch_size,
            precision=subject.format.kind,
            device=subject.format.device_type,
            checkpointing=is_recomputed,
            basis=CALIBRATED if is_cpu else UNCALIBRATED,
        )

    def _slope(self, usage: Usage, config: Any) -> float:
        """Bytes per sample, from a second batch where that is cheap."""
        size = self.subject.batch_size
        guess = (usage.saved + usage.batch) / size
        other = None if usage.seconds > SLOW_S else self.subject.other()
        if other is None or other[1] == size:
            return guess
        try:
            second = self._walk(self.subject.format, config=config, batch=other[0])
        except (Stopped, Unfakeable):
            return guess
        rise = usage.peak + usage.batch - second.peak - second.batch
        slope = rise / (size - other[1])
        # A small batch may be dwarfed by the gradients, which no batch size moves.
        kept = (usage.saved + usage.batch - second.saved - second.batch) / (
            size - other[1]
        )
        return max(slope, kept, 0.0)

    def _trainable(self) -> list[nn.Parameter]:
        loss = self.subject.task.loss
        parts = [self.subject.model, *([loss] if isinstance(loss, nn.Module) else [])]
        found = {id(p): p for part in parts for p in part.parameters()}
        return [p for p in found.values() if p.requires_grad]

    def _optimizer(self, trainable: list[nn.Parameter]) -> tuple[str, int]:
        task, optim = self.subject.task, self.subject.config.optim
        if task.make_optimizer is None:
            state = optimizer_bytes(optim.optimizer, trainable, momentum=optim.momentum)
            return optim.optimizer, state
        return _own_optimizer(self.subject, trainable)


def _scene(
    subject: Subject, rules: Format, config: Any, deadline: float
) -> tuple[Scene, Fakes]:
    device = torch.device("cpu")
    if rules.device_type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    is_small = model_bytes(subject.model) < SMALL_BYTES
    fakes = Fakes(device, may_compute=is_small and rules.device_type == "cpu")
    task = subject.task
    own = [task.loss] if isinstance(task.loss, nn.Module) else []
    model, *loss = fakes.modules(subject.model, *own)
    if config.model.gradient_checkpointing:
        set_checkpointing(model, config.model)
    scene = Scene(
        task=task,
        model=model.train(),
        loss=loss[0].train() if loss else task.loss,
        weights=config.loss.loss_weights,
        format=rules,
        context=fakes.active,
        passes=min(2, config.train.accumulation),
        deadline=deadline,
    )
    return scene, fakes


def _towards(base: MemoryPlan, less: MemoryPlan) -> Callable[[MemoryPlan], MemoryPlan]:
    """What turned ``base`` into ``less``, as shares to apply to another plan."""
    kept = _share(less.activations, base.activations)
    slope = _share(less.step_per_sample, base.step_per_sample)
    fixed = less.step_fixed - base.step_fixed
    is_recomputed = less.checkpointing

    def apply(plan: MemoryPlan) -> MemoryPlan:
        per_sample = plan.step_per_sample * slope
        rest = max(0.0, plan.step_fixed + fixed)
        return replace(
            plan,
            activations=round(plan.activations * kept),
            step_per_sample=per_sample,
            step_fixed=rest,
            step=round(rest + per_sample * plan.batch_size),
            checkpointing=plan.checkpointing or is_recomputed,
            precision=less.precision
            if base.precision != less.precision
            else plan.precision,
        )

    return apply


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 1.0


def _own_optimizer(subject: Subject, trainable: list[nn.Parameter]) -> tuple[str, int]:
    """The state that the task's optimizer makes in one step on a fake twin.

    Where that cannot be told, two moments are assumed.
    """
    guess = optimizer_bytes("adamw", trainable)
    fakes = Fakes(torch.device("cpu"))
    model = fakes.modules(subject.model)[0]
    try:
        with fakes.active():
            optimizer = subject.task.make_optimizer(model)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            optimizer.step()
        state = sum(
            value.numel() * value.element_size()
            for entry in optimizer.state.values()
            for value in (entry.values() if isinstance(entry, dict) else ())
            if isinstance(value, torch.Tensor)
        )
    except Exception:  # any class may be used; not all can step on fakes
        return "the task's own, taken as two moments", guess
    return type(optimizer).__name__, state
