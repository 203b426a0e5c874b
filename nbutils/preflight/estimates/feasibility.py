"""Whether a model can be trained on this machine, from its outline alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from nbutils.environment.device import capabilities, resolve_device
from nbutils.environment.limits import available_memory_bytes
from nbutils.errors import ContractError
from nbutils.preflight.fake.batches import batch_unread, resized
from nbutils.preflight.fake.cards import USABLE, fitting
from nbutils.preflight.fake.formats import Format
from nbutils.preflight.fake.plan import MemoryPlan, size_text
from nbutils.preflight.fake.simulate import Stopped
from nbutils.preflight.fake.survey import Subject, Survey
from nbutils.preflight.fake.twin import Unfakeable
from nbutils.train.precision import choose_precision

__all__ = ["Feasibility", "check_model"]

LIMIT_S = 10.0
MAX_ADVICE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """What was found.

    Args:
        plan: Memory of a step, part by part.
        inputs: Form of what the model is given, from the contract.
        outputs: Form of each output.
        device: The run's device.
        device_name: Product name.
        room_bytes: Memory of the device that tensors can use.
        free_bytes: Of it, what is free now.
        largest_batch: The largest batch that fits; 0 if none does.
        advice: What to change, where the plan does not fit; the best first.
        changes: The first advice as settings.
        cards: Rented cards that hold the run.
        precision: The number format, and why it is that one.
    """

    plan: MemoryPlan
    inputs: dict[str, str]
    outputs: dict[str, str]
    device: str
    device_name: str
    room_bytes: int
    free_bytes: int
    largest_batch: int
    advice: tuple[str, ...]
    changes: dict[str, Any]
    cards: tuple[str, ...]
    precision: tuple[str, str]

    @property
    def fits(self) -> bool:
        """Whether the plan is below the device's memory."""
        return self.plan.total <= self.room_bytes


def check_model(task: Any, config: Any) -> Feasibility:
    """Walk one step on tensors without values, and compare it with the device.

    Args:
        task: A task or its outline; its contract tells the form of a batch.
        config: Batch size, precision, device and optimizer.

    Raises:
        ContractError: The form of a batch is not known, or the step stops.
        EnvironmentProblem: There is no such device.
    """
    device, _ = resolve_device(config.train.device)
    kind, reason = choose_precision(config.precision.precision, device)
    survey = _survey(task, config, kind, device)
    room, free = _memory(device)
    plan = survey.plan
    fits = plan.total <= room
    advice, changes = ((), {}) if fits else _advise(survey, room, config)
    return Feasibility(
        plan=plan,
        inputs=_inputs(task),
        outputs=dict(survey.usage.outputs),
        device=str(device),
        device_name=capabilities(device).name,
        room_bytes=room,
        free_bytes=free,
        largest_batch=plan.largest_batch(room),
        advice=tuple(advice),
        changes=changes,
        cards=tuple(map(str, fitting(plan))),
        precision=(kind, reason),
    )


def _survey(task: Any, config: Any, kind: str, device: torch.device) -> Survey:
    size = config.data.batch_size
    batch, reason = batch_unread(task, size)
    if batch is None:
        raise ContractError(
            f"the model's input is not known: {reason}. Give the task a contract, or "
            "run nb.preflight(task, config), which reads a batch."
        )
    where = "cuda" if device.type == "cuda" else "cpu"
    rules = Format(kind, where, where, config.precision.loss_fp32)

    def other() -> tuple[Any, int] | None:
        new = size // 2 if size >= 4 else 2 * size
        changed = resized(batch, size, new)
        return None if changed is None else (changed, new)

    subject = Subject(task, config, task.model, batch, size, other, rules, LIMIT_S)
    try:
        return Survey(subject)
    except (Stopped, Unfakeable) as stop:
        place = getattr(stop, "place", None)
        raise ContractError(
            f"a step on tensors without values stops: {stop}. "
            f"{place.text if place else ''} "
            "Change the sizes that are named, or run nb.preflight on the real model."
        ) from stop


def _inputs(task: Any) -> dict[str, str]:
    """Forms of what the model gets: of a tuple batch its first part, unless told."""
    specs = {path: str(spec) for path, spec in task.contract.specs.items()}
    if task.forward_function is None and all(p[:1].isdigit() for p in specs):
        return {p: text for p, text in specs.items() if p.split(".")[0] == "0"}
    return specs


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that tensors can use on a device, and bytes free now."""
    total = capabilities(device).memory_bytes
    if device.type == "cuda":
        return int(USABLE * total), int(torch.cuda.mem_get_info(device)[0])
    return total, available_memory_bytes()


def _advise(survey: Survey, room: int, config: Any) -> tuple[list[str], dict[str, Any]]:
    """What makes the run fit: a smaller batch, then settings that save memory."""
    plan = survey.plan
    advice: list[str] = []
    changes: dict[str, Any] = {}
    if largest := plan.largest_batch(room):
        size = 2 ** (largest.bit_length() - 1)
        passes = math.ceil(plan.batch_size * config.train.accumulation / size)
        changes = {"batch_size": size, "accumulation": passes}
        needed = size_text(plan.at(size).total)
        advice.append(
            f"batch_size={size} with accumulation={passes}: {needed}, and the same "
            "update of the weights"
        )
    for change in survey.changes():
        after = change.apply(plan)
        if after.total < plan.total and "{" not in change.text:
            verdict = "fits" if after.total <= room else "not enough alone"
            advice.append(f"{change.text}: {size_text(after.total)}, {verdict}")
    if not largest:
        advice.append("a smaller model, or a smaller input")
    return advice[:MAX_ADVICE], changes
