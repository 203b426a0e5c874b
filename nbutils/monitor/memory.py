"""Memory of the process and of the device, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = [
    "device_memory_bytes",
    "host_rss_bytes",
    "reset_peak_memory",
    "swapped_bytes",
]


def host_rss_bytes() -> int:
    """Resident memory of this process; about 25 us."""
    import psutil

    return psutil.Process().memory_info().rss


def swapped_bytes() -> int:
    """Memory of this process that lies on the disk; 0 where the system keeps no count.

    Linux alone tells it of a process without asking for the owner's rights.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmSwap:"):
            return 1024 * int(line.split()[1])
    return 0


def device_memory_bytes(device: torch.device) -> dict[str, int]:
    """``allocated``, ``peak`` and ``total`` of an accelerator; empty on the CPU."""
    import torch

    if device.type == "cuda" and torch.cuda.is_available():
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "peak": torch.cuda.max_memory_allocated(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }
    if device.type == "mps" and torch.backends.mps.is_available():
        return {"allocated": torch.mps.current_allocated_memory()}
    return {}


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak; nothing to do where there is no counter."""
    import torch

    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)
