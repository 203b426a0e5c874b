"""Where files can be written, how much room there is, and what outlives the session."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nbutils.environment.disk import (
    DiskTrial,
    filesystem_of,
    future_file,
    known_trial,
    try_disk,
)
from nbutils.environment.platform import Platform

__all__ = ["Storage", "free_bytes", "inspect_storage", "write_problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What is known of a folder that runs would be written to.

    Args:
        path: The folder, absolute.
        free_bytes: Room on its disk.
        problem: Why nothing can be written there; empty if it can.
        is_persistent: Whether its files outlive the session.
        shm_bytes: Size of ``/dev/shm``, which worker processes pass batches through;
            none where the system has none.
        shm_free_bytes: How much of that is free.
        filesystem: Kind of file system, such as ``ext4``, ``overlay`` or ``nfs4``.
        write_bytes_per_s: Speed of writing, sync included; none: not measured.
        clock_skew_s: The disk's time less this machine's.
        future_file: A file from a time to come, if there is one here.
    """

    path: Path
    free_bytes: int
    problem: str
    is_persistent: bool
    shm_bytes: int | None
    shm_free_bytes: int | None = None
    filesystem: str = ""
    write_bytes_per_s: float | None = None
    clock_skew_s: float = 0.0
    future_file: str = ""


def inspect_storage(
    path: Path, platform: Platform, *, is_tried: bool = True
) -> Storage:
    """Room, permissions, speed and persistence of a folder; files come and go.

    Args:
        path: Where runs would be written; need not exist.
        platform: Where this process runs.
        is_tried: Measure the speed, if that was not done before in this process.
    """
    path = path.resolve()
    folder = _nearest_existing(path)
    shm = Path("/dev/shm")
    shared = shutil.disk_usage(shm) if shm.is_dir() else None
    filesystem = filesystem_of(folder)
    trial, problem = _trial(path, is_tried=is_tried)
    return Storage(
        path=path,
        free_bytes=free_bytes(path),
        problem=problem,
        is_persistent=_is_persistent(path, filesystem, platform),
        shm_bytes=None if shared is None else shared.total,
        shm_free_bytes=None if shared is None else shared.free,
        filesystem=filesystem,
        write_bytes_per_s=None if trial is None else trial.write_bytes_per_s,
        clock_skew_s=0.0 if trial is None else trial.clock_skew_s,
        future_file=future_file([folder, folder / "runs"]),
    )


def _trial(path: Path, *, is_tried: bool) -> tuple[DiskTrial | None, str]:
    """How the disk took a file, or why it did not."""
    if problem := write_problem(path):
        return None, problem
    folder = _nearest_existing(path)
    if not is_tried:
        return known_trial(folder), ""
    try:
        return try_disk(folder), ""
    except OSError as error:  # a quota, say, that lets small files pass
        return None, f"{folder}: {error.strerror or error}"


def free_bytes(path: Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_nearest_existing(path)).free


def write_problem(path: Path) -> str:
    """Why a file cannot be created and renamed in a folder; empty when it can.

    A folder that does not exist yet is judged by its nearest existing parent. The
    trial does what a checkpoint does: write, sync, rename.
    """
    folder = _nearest_existing(path)
    if not folder.is_dir():
        return f"{folder} is a file, not a folder"
    try:
        with tempfile.TemporaryDirectory(prefix=".nbutils-", dir=folder) as trial:
            draft = Path(trial, "draft")
            with draft.open("wb") as file:
                file.write(b"nbutils")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(Path(trial, "final"))
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""


def _nearest_existing(path: Path) -> Path:
    """The path itself, or its closest parent that exists."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _is_persistent(path: Path, filesystem: str, platform: Platform) -> bool:
    """Whether a folder lies under the platform's persistent one."""
    kept = platform.persistent_dir
    if kept is None:
        return False
    if platform.name == "runpod" and filesystem == "overlay":
        return False  # the container's own disk: no volume is attached to this pod
    return kept == Path(".") or path.is_relative_to(kept.resolve())
