"""How fast a disk takes a checkpoint, and whether its clock is this machine's."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

__all__ = ["DiskTrial", "filesystem_of", "future_file", "known_trial", "try_disk"]

MIB = 2**20
MAX_TRIAL_BYTES = 64 * MIB
SMALL_TRIAL_BYTES = 4 * MIB
MAX_TRIAL_S = 0.3
ROOM_FOR_TRIAL_BYTES = 1024 * MIB
# Clocks of a laptop and of a file server differ by less when they are kept right.
FUTURE_S = 120.0
MAX_ENTRIES = 200

_known: dict[int, DiskTrial] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTrial:
    """What writing a file has shown.

    Args:
        write_bytes_per_s: Best speed of a few writes, the sync to the disk included.
        clock_skew_s: The time that the file got, less the time of this machine.
    """

    write_bytes_per_s: float
    clock_skew_s: float


def try_disk(folder: Path) -> DiskTrial:
    """Write and remove a file of at most 64 MiB, for about 0.3 s.

    A disk is tried once in a process; its result is kept.

    Args:
        folder: An existing folder that takes files.

    Raises:
        OSError: It does not take them.
    """
    device = folder.stat().st_dev
    if device not in _known:
        _known[device] = _tried(folder)
    return _known[device]


def known_trial(folder: Path) -> DiskTrial | None:
    """What a trial of this disk has shown before in this process; none: not tried."""
    return _known.get(folder.stat().st_dev)


def filesystem_of(path: Path) -> str:
    """The kind of file system that holds an existing path; empty if not known.

    ``overlay`` is a container's own layer, ``tmpfs`` is memory, ``nfs4`` and
    ``fuse.*`` lie elsewhere.
    """
    import psutil

    path = path.resolve()
    found = [
        (len(Path(part.mountpoint).parts), part.fstype)
        for part in psutil.disk_partitions(all=True)
        if path.is_relative_to(part.mountpoint)
    ]
    return max(found, default=(0, ""))[1]


def future_file(folders: Iterable[Path], now_s: float | None = None) -> str:
    """A file that was written later than now, by its own account; empty: none.

    Args:
        folders: Where to look; the first 200 entries of each count.
        now_s: The time to compare with; the clock's by default.
    """
    latest_s = (time.time() if now_s is None else now_s) + FUTURE_S
    entries = chain([Path(__file__)], *(_entries(folder) for folder in folders))
    return next((str(path) for path in entries if _time_of(path) > latest_s), "")


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)[:MAX_ENTRIES]]
    except OSError:  # absent, or not ours to read: nothing to learn from it
        return []


def _time_of(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def _tried(folder: Path) -> DiskTrial:
    chunk = os.urandom(MIB)  # some file systems compress what they can
    has_room = shutil.disk_usage(folder).free > ROOM_FOR_TRIAL_BYTES
    most = MAX_TRIAL_BYTES if has_room else SMALL_TRIAL_BYTES
    written, num_chunks, best, start_s = 0, 1, 0.0, time.perf_counter()
    with tempfile.TemporaryFile(prefix=".nbutils-", dir=folder, buffering=0) as file:
        while written < most and time.perf_counter() - start_s < MAX_TRIAL_S:
            size, round_s = 0, time.perf_counter()
            for _ in range(num_chunks):
                size += file.write(chunk)
            os.fsync(file.fileno())
            # The best of a few: a neighbour who writes, too, is not the disk.
            best = max(best, size / (time.perf_counter() - round_s))
            written += size
            num_chunks = min(2 * num_chunks, (most - written) // MIB)
        file.write(b"now")
        skew_s = os.fstat(file.fileno()).st_mtime - time.time()
    return DiskTrial(write_bytes_per_s=best, clock_skew_s=skew_s)
