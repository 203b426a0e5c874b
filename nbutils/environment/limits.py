"""How many cores, how much memory and how many files this process may really use.

A rented container reports the host's cores and memory; its own share stands in the
control-group files, in any of the groups that this process is in.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = [
    "Swap",
    "available_memory_bytes",
    "host_cores",
    "memory_limit_bytes",
    "open_file_limit",
    "swap",
    "usable_cores",
]

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# Controller (empty: version 2), then the files for limit and use, and the cache's key.
MEMORY_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    (
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
NO_LIMIT = 2**60  # version 1 writes almost 2**63 where there is none
MAX_CORES_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Memory that was moved to disk.

    Args:
        total_bytes: Room for it; 0 where there is none.
        used_bytes: How much of it is in use, by all processes.
    """

    total_bytes: int = 0
    used_bytes: int = 0


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may keep busy: affinity mask and quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        num_cores = len(os.sched_getaffinity(0))
    else:
        num_cores = host_cores()
    return max(1, min([num_cores, *(int(quota) for quota in _core_quotas(cgroup))]))


def host_cores() -> int:
    """Cores of the whole machine, granted to this process or not."""
    return os.cpu_count() or 1


def memory_limit_bytes(cgroup: Path = CGROUP) -> int:
    """Main memory of the machine or of the container, whichever is less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min([total, *(limit for limit, _ in _memory(cgroup))])


def available_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Main memory that can still be taken without swapping or being killed."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(left for _, left in _memory(cgroup))]))


def swap() -> Swap:
    """Room for swapped memory, and how much of it is taken."""
    import psutil

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # containers hide how much was moved, not that
        found = psutil.swap_memory()
    return Swap(total_bytes=int(found.total), used_bytes=int(found.used))


def open_file_limit() -> int | None:
    """How many files this process may hold open; none where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _core_quotas(cgroup: Path) -> Iterator[float]:
    """Cores granted by each control group around this process that has a quota."""
    for folder in _groups(cgroup, ""):
        path = folder / "cpu.max"
        if path.is_file():
            quota, period = path.read_text(encoding="ascii").split()[:2]
            if quota != "max":
                yield int(quota) / int(period)
    for folder in _groups(cgroup, "cpu"):
        quota_us, period_us = (_integer(folder / name) for name in MAX_CORES_V1)
        if quota_us is not None and quota_us > 0 and period_us:
            yield quota_us / period_us


def _memory(cgroup: Path) -> Iterator[tuple[int, int]]:
    """Limit and bytes left of each control group around this process."""
    for controller, limit_name, used_name, cache_name in MEMORY_FILES:
        for folder in _groups(cgroup, controller):
            limit = _integer(folder / limit_name)
            if limit is None or limit > NO_LIMIT:
                continue
            used = _integer(folder / used_name)
            cache = _reclaimable(folder, cache_name)
            yield limit, limit if used is None else limit - used + cache


@lru_cache(maxsize=16)
def _groups(cgroup: Path, controller: str) -> tuple[Path, ...]:
    """Folders of this process's group and of those around it, outermost first.

    Args:
        cgroup: Where control groups are mounted.
        controller: Of version 1, such as ``memory``; empty: version 2.
    """
    root = cgroup / controller
    found = [root]
    for line in _own_groups():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            for part in Path(path.lstrip("/")).parts:
                found.append(found[-1] / part)
    # Inside a container the path is the host's and leads nowhere: the root counts.
    return tuple(folder for folder in found if folder.is_dir())


def _own_groups() -> list[str]:
    if not OWN_GROUPS.is_file():
        return []
    return OWN_GROUPS.read_text(encoding="utf-8").splitlines()


def _reclaimable(folder: Path, name: str) -> int:
    """Bytes of file cache that the kernel gives back under pressure."""
    path = folder / "memory.stat"
    if not path.is_file():
        return 0
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return sum(int(value) for key, value in pairs if key == name)


def _integer(path: Path) -> int | None:
    """The number in a control-group file; none when absent or ``max``."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="ascii").strip()
    return None if text == "max" else int(text)
