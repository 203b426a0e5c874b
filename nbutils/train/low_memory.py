"""8-bit optimizers of bitsandbytes, or what is used where they cannot be."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import nn

__all__ = ["EIGHT_BIT", "Choice", "choose_optimizer", "eight_bit_class"]

EIGHT_BIT = {
    "adam8bit": "Adam8bit",
    "adamw8bit": "AdamW8bit",
    "paged_adamw8bit": "PagedAdamW8bit",
}
PLAIN = {"adam8bit": "adam", "adamw8bit": "adamw", "paged_adamw8bit": "adamw"}
OLDEST = (0, 50)
PIP_LINE = "pip install 'bitsandbytes>=0.50'"
DEVICES = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Choice:
    """An update rule, why it is this one, and whether another was asked for."""

    name: str
    reason: str
    is_other: bool = False


def choose_optimizer(requested: str, parameters: Sequence[nn.Parameter]) -> Choice:
    """The update rule that will be used.

    Args:
        requested: The config's ``optimizer``.
        parameters: What it is to move, on their device.
    """
    if requested not in EIGHT_BIT:
        return Choice(requested, "requested")
    asked = f"optimizer {requested!r} was requested"
    obstacle = _obstacle(parameters)
    if obstacle is not None:
        plain = PLAIN[requested]
        return Choice(plain, f"{asked}; {plain!r} is used: {obstacle}", is_other=True)
    is_paged = requested.startswith("paged_")
    if is_paged and any(p.device.type == "cpu" for p in parameters):
        text = f"{asked}; 'adamw8bit' is used: pages need a CUDA device"
        return Choice("adamw8bit", text, is_other=True)
    return Choice(requested, "requested")


def eight_bit_class(name: str) -> Any:
    """The class of bitsandbytes behind a name that :func:`choose_optimizer` gave."""
    return getattr(importlib.import_module("bitsandbytes.optim"), EIGHT_BIT[name])


def _obstacle(parameters: Sequence[nn.Parameter]) -> str | None:
    """Why no 8-bit optimizer can move ``parameters``; none if one can."""
    kinds = sorted({p.device.type for p in parameters} - set(DEVICES))
    if kinds:
        return f"bitsandbytes runs on CPU and CUDA only, not on {', '.join(kinds)}"
    dtypes = sorted({str(p.dtype) for p in parameters if p.dtype not in DTYPES})
    if dtypes:
        names = ", ".join(dtype.removeprefix("torch.") for dtype in dtypes)
        return f"bitsandbytes cannot move parameters of dtype {names}"
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        return f"bitsandbytes is not installed. To have it: {PIP_LINE}"
    if _numbers(version) < OLDEST:
        return f"bitsandbytes {version} is older than 0.50. To renew it: {PIP_LINE}"
    try:
        importlib.import_module("bitsandbytes.optim")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"bitsandbytes cannot be imported ({reason[0]}). Try: {PIP_LINE}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor of a version text, ``(0, 50)`` of ``0.50.2``."""
    found = re.findall(r"\d+", version)
    return tuple(int(number) for number in found[:2])
