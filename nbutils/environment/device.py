"""Which device a run computes on, why, and what that device can do."""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.environment.limits import memory_limit_bytes, usable_cores
from nbutils.errors import EnvironmentProblem

if TYPE_CHECKING:
    import torch

__all__ = [
    "Capabilities",
    "attention_kernels",
    "capabilities",
    "cuda_trouble",
    "eight_bit_trouble",
    "resolve_device",
    "worker_start",
]

# Name of a kernel in torch -> what it is called here; the fastest first.
ATTENTION = {
    "CUDNN_ATTENTION": "cudnn",
    "FLASH_ATTENTION": "flash",
    "EFFICIENT_ATTENTION": "memory-efficient",
    "MATH": "math",
}

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
        emulated: Formats that autocast takes, but that cost time instead of saving
            it.
        attention: Kernels of ``scaled_dot_product_attention`` that ran here.
        architecture: Of a CUDA device, such as ``sm_90``.
    """

    name: str
    memory_bytes: int
    bf16: bool
    fp16: bool
    compile: bool
    num_cores: int
    num_threads: int
    emulated: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    architecture: str = ""


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
        emulated=_emulated(device, bf16=bf16, fp16=fp16),
        architecture=_architecture(device),
    )


def attention_kernels(device: torch.device) -> tuple[str, ...]:
    """Kernels of ``scaled_dot_product_attention`` that run on a device: each is tried.

    In half precision on a GPU, as in a run with AMP; ``math`` runs everywhere.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device.type not in ("cpu", "cuda"):
        return ("the device's own",)  # which cannot be chosen, so not tried one by one
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    query = torch.zeros(1, 1, 16, 32, dtype=dtype, device=device)
    return tuple(
        name
        for kind, name in ATTENTION.items()
        if hasattr(SDPBackend, kind)
        and _runs(query, sdpa_kernel(getattr(SDPBackend, kind)))
    )


def eight_bit_trouble(device_type: str, bitsandbytes_version: str | None) -> str:
    """Why 8-bit optimizers do not run on a device; empty when they do.

    Optimizers on the CPU came with bitsandbytes 0.50.0: of 0.45.5, 0.47.0, 0.48.2,
    0.49.1 and 0.49.2 none could step there.

    Example:
        >>> eight_bit_trouble("cpu", "0.49.2")
        'bitsandbytes 0.49.2 has none for the CPU; 0.50.0 and later do'
    """
    if bitsandbytes_version is None:
        return "bitsandbytes is not installed"
    if device_type == "mps":
        return "bitsandbytes has none for Apple's GPU"
    version = tuple(int(part) for part in bitsandbytes_version.split(".")[:2])
    if device_type == "cpu" and version < (0, 50):
        return (
            f"bitsandbytes {bitsandbytes_version} has none for the CPU; "
            "0.50.0 and later do"
        )
    return ""


def worker_start() -> str:
    """How loader workers start: ``fork``, ``forkserver`` or ``spawn``.

    Only ``fork`` finds a Dataset or a collate function that a cell defines.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or multiprocessing.get_all_start_methods()[0]


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


def _emulated(device: torch.device, *, bf16: bool, fp16: bool) -> tuple[str, ...]:
    """Formats that autocast accepts on a device which has no hardware for them."""
    import torch

    found: list[str] = []
    if device.type == "cuda":
        with torch.cuda.device(device):
            works = torch.cuda.is_bf16_supported(including_emulation=True)
    else:
        works = device.type == "cpu"
    if works and not bf16:
        found.append("bf16")
    if device.type == "cpu" and not fp16:
        found.append("fp16")
    return tuple(found)


def _architecture(device: torch.device) -> str:
    import torch

    if device.type != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _runs(query: torch.Tensor, kernel: AbstractContextManager[Any]) -> bool:
    """Whether attention runs with one kernel only."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reasons why a kernel does not fit
        try:
            with kernel:
                torch.nn.functional.scaled_dot_product_attention(query, query, query)
        except RuntimeError:
            return False
    return True


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
