"""An NVIDIA GPU beyond what torch tells: driver, other users, memory errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Gpu",
    "driver_version",
    "inspect_gpu",
    "newest_cuda_of",
    "parse_smi",
    "wheel_index_of",
]

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
SMI_TIMEOUT_S = 2.0
SMI_FIELDS = (
    "uuid",
    "driver_version",
    "memory.total",
    "memory.used",
    "persistence_mode",
    "ecc.mode.current",
    "ecc.errors.uncorrected.volatile.total",
)
# CUDA's own state in a process that uses the GPU, before any tensor: 0.3 to 0.6 GiB.
CONTEXT_BYTES = 640 * 2**20
# First driver of each major version of CUDA; any later one runs it, too. Source:
# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
FIRST_DRIVER_OF_CUDA = {13: 580, 12: 525, 11: 450}
WHEEL_INDEX = "https://download.pytorch.org/whl/"
WHEELS_OF_CUDA = {13: "cu130", 12: "cu126", 11: "cu118"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What the driver tells of the GPU that a run would take.

    Args:
        driver: Its version, such as ``580.65.06``; empty if not known.
        total_bytes: Memory of the GPU.
        taken_bytes: Memory that others have taken, or this process by other means
            than torch.
        others: Processes that the driver knows of, as ``pid 12 python (3.1 GiB)``.
        num_memory_errors: Uncorrected memory errors since the driver started; none
            where the GPU does not count.
        keeps_state: Whether the driver stays loaded without users; empty where not
            told.
    """

    driver: str = ""
    total_bytes: int = 0
    taken_bytes: int = 0
    others: tuple[str, ...] = field(default=())
    num_memory_errors: int | None = None
    keeps_state: str = ""


def inspect_gpu(index: int = 0) -> Gpu:
    """Ask torch and ``nvidia-smi`` about a CUDA device that torch can use."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    own = torch.cuda.memory_reserved(index) + CONTEXT_BYTES
    properties = torch.cuda.get_device_properties(index)
    uuid = _bare(str(getattr(properties, "uuid", "")))
    row = parse_smi(_smi("gpu", SMI_FIELDS), uuid)
    errors = row.get("ecc.errors.uncorrected.volatile.total", "")
    return Gpu(
        driver=row.get("driver_version") or driver_version(),
        total_bytes=total,
        taken_bytes=max(0, total - free - own),
        others=tuple(_others(uuid)),
        num_memory_errors=int(errors) if errors.isdecimal() else None,
        keeps_state=row.get("persistence_mode", ""),
    )


def driver_version(path: Path | None = None) -> str:
    """Version of the loaded NVIDIA driver; empty where there is none."""
    path = NVIDIA_DRIVER if path is None else path
    if not path.is_file():
        return ""
    found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", path.read_text(encoding="utf-8"))
    return found[1] if found else ""


def newest_cuda_of(driver: str) -> int | None:
    """The newest major version of CUDA that a driver runs; none: not known.

    Example:
        >>> newest_cuda_of("535.104.05")
        12
    """
    major = driver.partition(".")[0]
    if not major.isdecimal():
        return None
    fitting = (c for c, first in FIRST_DRIVER_OF_CUDA.items() if int(major) >= first)
    return max(fitting, default=None)


def wheel_index_of(driver: str) -> str:
    """Where pip finds a torch that a driver can run; empty: not known."""
    cuda = newest_cuda_of(driver)
    return "" if cuda is None else WHEEL_INDEX + WHEELS_OF_CUDA[cuda]


def parse_smi(text: str, uuid: str) -> dict[str, str]:
    """The row of a GPU in what ``nvidia-smi --format=csv`` prints.

    Args:
        text: A heading and a row for each GPU; values that are not there count as
            empty.
        uuid: The GPU, without ``GPU-``; where no row has it, the only row counts.
    """
    lines = [line.split(", ") for line in text.strip().splitlines() if ", " in line]
    if len(lines) < 2:
        return {}
    names = [name.partition(" [")[0].strip() for name in lines[0]]
    rows = [dict(zip(names, map(_value, line), strict=False)) for line in lines[1:]]
    mine = [row for row in rows if _bare(row.get("uuid", "")) == uuid]
    return mine[0] if mine else rows[0] if len(rows) == 1 else {}


def _bare(uuid: str) -> str:
    return uuid.removeprefix("GPU-")


def _value(text: str) -> str:
    text = text.strip()
    return "" if text.startswith("[") or text == "N/A" else text


def _others(uuid: str) -> Iterable[str]:
    """Processes with memory of the GPU, this one left out."""
    text = _smi("compute-apps", ("gpu_uuid", "pid", "process_name", "used_memory"))
    for line in text.strip().splitlines()[1:]:
        found, pid, *name, used = line.split(", ")
        if _bare(found) == uuid and pid != str(os.getpid()):
            yield f"pid {pid} {Path(', '.join(name)).name} ({used.strip()})"


def _smi(what: str, fields: Iterable[str]) -> str:
    """What ``nvidia-smi`` prints, with a heading; empty where it does not answer."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ""
    command = [smi, f"--query-{what}={','.join(fields)}", "--format=csv"]
    try:
        done = subprocess.run(  # noqa: S603 (the driver's own tool, fixed arguments)
            command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # a driver that is being replaced
        return ""
    return done.stdout if done.returncode == 0 else ""
