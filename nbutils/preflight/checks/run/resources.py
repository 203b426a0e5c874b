"""R14: what the run will cost: parameters, memory, time and disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from nbutils.errors import ConfigError
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.run.micro_batches import judge_micro_batches
from nbutils.preflight.checks.run.pace import judge_pace
from nbutils.preflight.checks.run.workers import judge_workers
from nbutils.preflight.fake.plan import size_text
from nbutils.preflight.probe import Probe
from nbutils.train.activations import describe_checkpointing
from nbutils.train.low_memory import EIGHT_BIT

__all__ = ["CHECK"]

STATE_PER_PARAMETER = {"sgd": 1, "adamw": 2, "adam": 2}
STATE_PER_PARAMETER |= dict.fromkeys(EIGHT_BIT, 0.52)
"""Bytes of the optimizer's state per byte of an fp32 weight; 8-bit as measured."""
NUM_EXTRA_CHECKPOINTS = 2
"""The best one, and the one being written while the last ones still stand."""


def run(probe: Probe, claims: Claims) -> None:
    """Count, then time a few steps if the step check passed."""
    _count(probe, claims)
    _judge_switch(probe, claims)
    if not any(p.is_meta for p in probe.task.model.parameters()):
        _judge_disk(probe, claims)  # a model without weights is trained elsewhere
    if probe.facts.get("depth") == "static":
        return
    if "R6" in probe.stopped or "step_seconds" not in probe.facts:
        claims.add("skip", "step time: not measured, since R6 did not pass")
        return
    judge_pace(probe, claims)
    probe.rewind()
    judge_micro_batches(probe, claims)
    judge_workers(probe, claims)


def _count(probe: Probe, claims: Claims) -> None:
    parameters = list(probe.task.model.parameters())
    known = [p for p in parameters if not is_lazy(p)]
    trainable = sum(p.numel() for p in known if p.requires_grad)
    total = sum(p.numel() for p in known)
    lazy = len(parameters) - len(known)
    created = f", and {lazy} tensors that the first forward creates" if lazy else ""
    if not trainable and not lazy:
        claims.add(
            "fail",
            "the model has no trainable parameter",
            expected="at least one parameter with requires_grad=True",
            actual=f"{total:,} parameters, none trainable",
            fix="Set requires_grad=True on what should learn.",
        )
    text = f"{total:,} parameters, {trainable:,} trainable{created}"
    claims.add("pass", text, actual=text)
    claims.show([("memory for state", _memory_text(probe, known))])


def _judge_switch(probe: Probe, claims: Claims) -> None:
    """Gradient checkpointing needs a switch in the model, or blocks to recompute."""
    model, options = probe.task.model, probe.config.model
    if not options.gradient_checkpointing:
        return
    try:
        text = describe_checkpointing(model, options)
    except ConfigError as error:
        claims.add(
            "fail",
            "gradient checkpointing finds nothing to recompute",
            expected="a switch of the model, or blocks by name or by repetition",
            actual=" ".join(error.problems),
            fix="Name the blocks in checkpoint_blocks, or set gradient_checkpointing "
            "to false.",
        )
    else:
        claims.add("pass", "gradient checkpointing", actual=text)


def _memory_text(probe: Probe, parameters: list[torch.nn.Parameter]) -> str:
    weights = _bytes(parameters)
    grads = _bytes([p for p in parameters if p.requires_grad])
    return (
        f"weights {size_text(weights)}, gradients {size_text(grads)}, "
        f"optimizer {size_text(_optimizer_bytes(probe))}"
    )


def _optimizer_bytes(probe: Probe) -> int:
    """Measured in the step check, else estimated from the configured optimizer."""
    measured = probe.facts.get("optimizer_bytes")
    if measured is not None:
        return int(measured)
    known = [p for p in probe.task.model.parameters() if not is_lazy(p)]
    factor = STATE_PER_PARAMETER.get(probe.config.optim.optimizer, 1)
    return int(factor * _bytes([p for p in known if p.requires_grad]))


def _bytes(tensors: list[torch.nn.Parameter] | list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _judge_disk(probe: Probe, claims: Claims) -> None:
    """Free space against the checkpoints that will stand side by side."""
    settings = probe.config.checkpoint
    model = probe.task.model
    state = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)]
    ema = 2 if probe.config.optim.ema_decay is not None else 1
    one = ema * _bytes(state) + _optimizer_bytes(probe)
    probe.facts["checkpoint_bytes"] = one
    count = settings.keep_last + NUM_EXTRA_CHECKPOINTS
    wanted = Path(settings.runs_dir).expanduser().absolute()
    place = next(p for p in (wanted, *wanted.parents) if p.exists())
    free = shutil.disk_usage(place).free
    expected = f"{size_text(one * count)} for {count} checkpoints of {size_text(one)}"
    actual = f"{size_text(free)} free at {place}"
    if one * count > free:
        claims.add(
            "fail",
            "the checkpoints do not fit on the disk",
            expected=expected,
            actual=actual,
            fix=f"Free space, lower keep_last (now {settings.keep_last}), or set "
            "runs_dir to a larger disk.",
        )
    else:
        claims.add("pass", "checkpoints fit", expected=expected, actual=actual)
    _judge_writable(probe, place, wanted, claims)


def _judge_writable(probe: Probe, place: Path, wanted: Path, claims: Claims) -> None:
    if place.is_dir() and os.access(place, os.W_OK):
        return
    is_chosen = "runs_dir" in probe.config.changes()
    reason = "is not a folder" if not place.is_dir() else "cannot be written"
    claims.add(
        "fail" if is_chosen else "warn",
        "the run directory cannot be created",
        expected=f"a writable folder for {wanted}",
        actual=f"{place} {reason}",
        fix="Set runs_dir to a folder that you may write to.",
    )


CHECK = Check(
    id="R14",
    title="Time, memory and disk suffice",
    why="A full disk or a run longer than its rent loses the work.",
    run=run,
    depth="static",
    limit_s=25.0,
)
