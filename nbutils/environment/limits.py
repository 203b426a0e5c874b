"""How many cores and how much memory this process may really use.

A rented container reports the host's cores and memory; its own share stands in the
control-group files.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

__all__ = ["available_memory_bytes", "memory_limit_bytes", "usable_cores"]

CGROUP = Path("/sys/fs/cgroup")
MAX_CORES_V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may keep busy: affinity mask and quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        num_cores = len(os.sched_getaffinity(0))
    else:
        num_cores = os.cpu_count() or 1
    quota = _core_quota(cgroup)
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def memory_limit_bytes(cgroup: Path = CGROUP) -> int:
    """Main memory of the machine or of the container, whichever is less."""
    total = int(psutil.virtual_memory().total)
    limits = [
        _integer(cgroup / name)
        for name in ("memory.max", "memory/memory.limit_in_bytes")
    ]
    return min([total, *(limit for limit in limits if limit)])


def available_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Main memory that can still be taken without swapping or being killed."""
    free = int(psutil.virtual_memory().available)
    used = _integer(cgroup / "memory.current")
    limit = _integer(cgroup / "memory.max")
    if used is None or limit is None:
        return free
    return max(0, min(free, limit - used + _reclaimable(cgroup)))


def _core_quota(cgroup: Path) -> float | None:
    """Cores granted by the control group; none where there is no quota."""
    path = cgroup / "cpu.max"
    if path.exists():
        quota, period = path.read_text(encoding="ascii").split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = (_integer(cgroup / name) for name in MAX_CORES_V1)
    if quota_us is None or not period_us or quota_us < 0:
        return None
    return quota_us / period_us


def _reclaimable(cgroup: Path) -> int:
    """Bytes of file cache that the kernel gives back under pressure."""
    path = cgroup / "memory.stat"
    if not path.exists():
        return 0
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return sum(int(value) for key, value in pairs if key == "inactive_file")


def _integer(path: Path) -> int | None:
    """The number in a control-group file; none when absent or ``max``."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="ascii").strip()
    return None if text == "max" else int(text)
