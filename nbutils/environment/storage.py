"""Where files can be written, how much room there is, and what outlives the session."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
    """

    path: Path
    free_bytes: int
    problem: str
    is_persistent: bool
    shm_bytes: int | None


def inspect_storage(path: Path, platform: Platform) -> Storage:
    """Room, permissions and persistence of a folder; a small file comes and goes."""
    path = path.resolve()
    shm = Path("/dev/shm")
    return Storage(
        path=path,
        free_bytes=free_bytes(path),
        problem=write_problem(path),
        is_persistent=_is_persistent(path, platform),
        shm_bytes=shutil.disk_usage(shm).total if shm.is_dir() else None,
    )


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


def _is_persistent(path: Path, platform: Platform) -> bool:
    """Whether a folder lies under the platform's persistent one."""
    kept = platform.persistent_dir
    if kept is None:
        return False
    return kept == Path(".") or path.is_relative_to(kept.resolve())
