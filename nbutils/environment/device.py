"""Which device a run computes on, why, and what that device can do."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.environment.limits import memory_limit_bytes, usable_cores
from nbutils.errors import EnvironmentProblem

if TYPE_CHECKING:
    import torch

__all__ = ["Capabilities", "capabilities", "cuda_trouble", "resolve_device"]

CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a device offers.

    Args:
        name: Product name, or the processor's name.
        memory_bytes: Its total memory; for a CPU, main memory.
        bf16: Computes in bfloat16 in hardware.
        fp16: Computes in float16 in hardware.
        compile: The compiler that ``torch.compile`` needs is at hand.
        num_cores: CPU cores that this process may use.
        num_threads: Threads that torch uses for one operation on the CPU.
    """

    name: str
    memory_bytes: int
    bf16: bool
    fp16: bool
    compile: bool
    num_cores: int
    num_threads: int


def resolve_device(name: str) -> tuple[torch.device, str]:
    """The device that a setting names, and why it is that one.

    Args:
        name: ``auto`` (cuda, then mps, then cpu), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        EnvironmentProblem: torch does not know the device or cannot reach it.

    Example:
        >>> resolve_device("cpu")
        (device(type='cpu'), "device='cpu' was asked for")
    """
    import torch

    if name == "auto":
        return _best_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"device is {name!r}; expected auto, cpu, cuda, cuda:<index> or mps. "
            "Set device='auto' to take the best one."
        ) from error
    if problem := _unavailable(device):
        raise EnvironmentProblem(
            f"device is {name!r}, but {problem} Use device='auto' to take what there "
            "is."
        )
    return device, f"device={name!r} was asked for"


def capabilities(device: torch.device) -> Capabilities:
    """Name, memory and number formats of a device."""
    import torch

    bf16, fp16 = _formats(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = str(properties.name), int(properties.total_memory)
    else:
        name = _cpu_name() if device.type == "cpu" else device.type
        memory = memory_limit_bytes()
    return Capabilities(
        name=name,
        memory_bytes=memory,
        bf16=bf16,
        fp16=fp16,
        compile=_can_compile(device),
        num_cores=usable_cores(),
        num_threads=torch.get_num_threads(),
    )


def cuda_trouble() -> str:
    """Why torch cannot reach the NVIDIA GPU of this machine; empty when all is well.

    A machine without an NVIDIA driver has no trouble.
    """
    import torch

    is_available, warning = _cuda_available()
    if is_available or not NVIDIA_DRIVER.exists():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return warning or f"torch (CUDA {torch.version.cuda}) found no usable device"


def _best_device() -> tuple[torch.device, str]:
    """The fastest device at hand."""
    import torch

    if _cuda_available()[0]:
        return torch.device("cuda"), "auto: a CUDA device is available"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "auto: Apple's GPU is available"
    return torch.device("cpu"), "auto: no GPU is available to torch"


def _unavailable(device: torch.device) -> str:
    """Why a device cannot be used, as a sentence; empty if it can."""
    import torch

    if device.type == "cuda":
        is_available, warning = _cuda_available()
        if not is_available:
            why = cuda_trouble() or warning or "no NVIDIA driver was found"
            return f"torch reaches no CUDA device: {why}."
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            return f"there are {count} CUDA devices, counted from cuda:0."
        return ""
    if device.type == "mps":
        is_available = torch.backends.mps.is_available()
        return "" if is_available else "there is no Apple GPU that torch can use."
    return "" if device.type == "cpu" else "only cpu, cuda and mps are supported."


def _cuda_available() -> tuple[bool, str]:
    """Whether CUDA works, and the warning torch gave while it tried."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    text = str(caught[-1].message).splitlines()[0] if caught else ""
    return is_available, text.rstrip(".")


def _formats(device: torch.device) -> tuple[bool, bool]:
    """Hardware bfloat16 and float16 of a device."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False), True
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0), True
    flags = _cpu_field("flags").split() + _cpu_field("Features").split()
    bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(flags)
    # Without hardware fp16 a CPU computes it many times slower than fp32.
    return bool(bf16), bool({"avx512_fp16", "amx_fp16", "asimdhp"} & set(flags))


def _can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds the compiler it needs for a device."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    return _cpu_field("model name") or "CPU"


def _cpu_field(key: str) -> str:
    """First value of a field of ``/proc/cpuinfo``; empty where there is none."""
    if not CPU_INFO.exists():
        return ""
    with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
