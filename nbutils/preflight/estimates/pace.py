"""How long a step takes: measured on this machine, or bounded by counted operations."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nbutils.data.batch import parts, to_device
from nbutils.data.containers import is_container, rebuild
from nbutils.environment.device import resolve_device
from nbutils.environment.limits import available_memory_bytes
from nbutils.errors import ContractError, EnvironmentProblem
from nbutils.preflight.checks.run.pace import duration_text, wait_for
from nbutils.preflight.fake.batches import batch_unread
from nbutils.preflight.fake.plan import optimizer_bytes, size_text
from nbutils.train.optim import build_optimizer
from nbutils.train.precision import Precision, to_fp32

__all__ = ["Pace", "bound_pace", "measure_pace"]

COUNTED_BATCH = 2
TRAINING_FACTOR = 3
"""A backward pass takes twice the operations of a forward pass (Kaplan et al. 2020,
"Scaling Laws for Neural Language Models", section 2.1)."""
TRIAL_S = 0.12
SIDE = {"cpu": 512, "cuda": 4096, "mps": 2048}
MAX_STEPS = 20
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of a batch and of a sample.

    Args:
        step_s: Forward, backward and update of one batch.
        read_s: One process's time for one sample; none if unknown.
        is_measured: Whether ``step_s`` was measured; else it is a lower bound.
        basis: How the numbers came about.
        flops_per_sample: Counted operations of a forward pass; none if not counted.
    """

    step_s: float
    read_s: float | None
    is_measured: bool
    basis: str
    flops_per_sample: float | None = None

    def batch_s(self, batch_size: int, num_workers: int) -> float:
        """Seconds of one batch, with the reading that the loop has to wait for."""
        reading = (self.read_s or 0.0) * batch_size
        if not num_workers:
            return self.step_s + reading
        return max(self.step_s, reading / num_workers)

    def evaluation_s(self, num_samples: int, batch_size: int, workers: int) -> float:
        """Seconds of a pass that only goes forward, taken as a third of training."""
        reading = (self.read_s or 0.0) * num_samples / max(1, workers)
        return self.step_s / TRAINING_FACTOR * num_samples / batch_size + reading


def bound_pace(task: Any, config: Any, read_s: float | None = None) -> Pace:
    """The time that a step takes at least: its operations at a matrix product's rate.

    Args:
        task: An outline on the meta device.
        config: Batch size, precision and device.
        read_s: Seconds to read one sample, where that is known.

    Raises:
        ContractError: The form of a batch is not known.
        EnvironmentProblem: There is no such device.
    """
    device, _ = resolve_device(config.train.device)
    precision = Precision.of(config, device)
    flops = _flops_per_sample(task)
    factor = TRAINING_FACTOR + bool(config.model.gradient_checkpointing)
    rate = _matmul_rate(device, precision.kind)
    size = config.data.batch_size
    step_s = factor * flops * size / rate
    basis = (
        f"not measured: {factor * flops * size / 1e9:,.1f} GFLOP a step, at the "
        f"{rate / 1e9:,.0f} GFLOP/s that a matrix product reaches on {device} here; a "
        "real step takes longer"
    )
    return Pace(
        step_s=step_s,
        read_s=read_s,
        is_measured=False,
        basis=basis + _reading_basis(read_s),
        flops_per_sample=flops,
    )


def measure_pace(
    task: Any, config: Any, read_s: float | None = None, limit_s: float = 6.0
) -> Pace:
    """Seconds of a real step on made-up samples, the median of a few.

    Args:
        task: An outline with weights, on the CPU.
        config: Batch size, precision, device and optimizer.
        read_s: Seconds to read one sample, where that is known.
        limit_s: No further step begins after so many seconds.

    Raises:
        ContractError: The form of a batch is not known.
        EnvironmentProblem: There is no such device, or too little memory for a step.
    """
    device, _ = resolve_device(config.train.device)
    _check_room(task, config, device)
    seconds = _steps(task, config, device, limit_s)
    step_s = statistics.median(seconds)
    kind = Precision.of(config, device).kind
    noun = "step" if len(seconds) == 1 else "steps"
    basis = (
        f"measured: {duration_text(step_s)} a batch of {config.data.batch_size} on "
        f"{device} in {kind} ({len(seconds)} {noun} on made-up samples)"
    )
    return Pace(
        step_s=step_s,
        read_s=read_s,
        is_measured=True,
        basis=basis + _reading_basis(read_s),
    )


def _reading_basis(read_s: float | None) -> str:
    if read_s is None:
        return "; reading of data not included"
    return f"; reading measured: {duration_text(read_s)} a sample"


def _batch(task: Any, size: int) -> Any:
    batch, reason = batch_unread(task, size)
    if batch is None:
        raise ContractError(
            f"the model's input is not known: {reason}. Give the task a contract."
        )
    return batch


def _flops_per_sample(task: Any) -> float:
    """Operations of a forward pass, counted without computing it."""
    batch = _batch(task, COUNTED_BATCH)
    was_training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            task.forward(task.model, batch)
    finally:
        task.model.train(was_training)
    return counter.get_total_flops() / COUNTED_BATCH


@lru_cache(maxsize=16)
def _matmul_rate(device: torch.device, kind: str) -> float:
    """Operations per second of a large matrix product, the best of a few."""
    side = SIDE.get(device.type, 512)
    dtype = DTYPES.get(kind, torch.float32)
    left = torch.ones(side, side, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + TRIAL_S
    torch.mm(left, left)
    wait_for(device)
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(left, left)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _check_room(task: Any, config: Any, device: torch.device) -> None:
    """Refuse a step that would not fit; activations are known to the memory plan."""
    trained = [p for p in task.model.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in task.model.parameters())
    optim = config.optim
    state = optimizer_bytes(optim.optimizer, trained, momentum=optim.momentum)
    need = 2 * weights + state
    free = available_memory_bytes()
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
    if need > free:
        raise EnvironmentProblem(
            f"a step takes at least {size_text(need)}, and {size_text(free)} are free "
            f"on {device}. Choose a smaller model, or measure on the machine that "
            "will train."
        )


def _steps(task: Any, config: Any, device: torch.device, limit_s: float) -> list[float]:
    """Seconds of each step after the first, which also warms up."""
    model = task.model.to(device).train()
    precision = Precision.of(config, device)
    optimizer = build_optimizer(model, config, task)
    batch = to_device(_made_up(_batch(task, config.data.batch_size)), device)
    found: list[float] = []
    until = time.perf_counter() + limit_s
    while len(found) <= MAX_STEPS:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            outputs = task.forward(model, batch)
        judged = to_fp32(outputs) if precision.loss_fp32 else outputs
        with precision.loss_context():
            total = task.total(task.loss_terms(judged, batch), {})
        precision.backward(total)
        optimizer.step()
        wait_for(device)
        found.append(time.perf_counter() - start)
        if time.perf_counter() > until and len(found) > 1:
            break
        if len(found) == 1 and found[0] > limit_s:
            break
    return found[1:] or found


def _made_up(batch: Any) -> Any:
    """A batch of this form: noise, and zeros for whole numbers."""
    if isinstance(batch, Tensor):
        is_number = batch.is_floating_point() or batch.is_complex()
        make = torch.randn if is_number else torch.zeros
        return make(batch.shape, dtype=batch.dtype)
    if is_container(batch):
        return rebuild(batch, [_made_up(value) for _, value in parts(batch)])
    return batch
