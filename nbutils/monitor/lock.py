"""One run, one process: a folder that is being written is not opened twice."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem

__all__ = ["is_held", "run_lock"]

NAME = ".lock"
_held: set[tuple[int, Path]] = set()  # by this process: its own lock would not stop it


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run in ``folder`` for a block.

    The system gives the lock back when the process ends, however it ends. Where a file
    system or the platform knows no locks, there is none.

    Raises:
        EnvironmentProblem: Someone else, here or in another process, holds it.
    """
    key = (os.getpid(), folder.resolve())
    if key in _held:
        raise EnvironmentProblem(_text(folder, f"process {os.getpid()}, this one"))
    file = (folder / NAME).open("a+", encoding="utf-8")
    try:
        _acquire(file, folder)
        _held.add(key)
        yield
    finally:
        _held.discard(key)
        file.close()


def is_held(folder: Path) -> bool | None:
    """Whether a process holds the run in ``folder``; none where that cannot be told.

    Asks the system without taking the lock, so that a run may start meanwhile.
    """
    if (os.getpid(), folder.resolve()) in _held:
        return True  # closing a file of ours here would give our own lock back
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    layout = _FLOCK.get(sys.platform)
    if layout is None:
        return None
    form, fields, kind_at = layout
    question = struct.pack(form, *(fcntl.F_WRLCK if f == "kind" else 0 for f in fields))
    try:
        with (folder / NAME).open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except FileNotFoundError:
        return False
    except OSError:  # a network file system without locks
        return None
    return struct.unpack(form, answer)[kind_at] != fcntl.F_UNLCK


# ``struct flock`` of fcntl(2): its form, its fields, and where its kind stands.
_FLOCK: dict[str, tuple[str, tuple[str, ...], int]] = {
    "linux": ("hhqqi4x", ("kind", "whence", "start", "length", "pid"), 0),
    "darwin": ("qqihh", ("start", "length", "pid", "kind", "whence"), 3),
}


def _acquire(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        # Not flock: a forked loader worker would hold that one beyond its parent.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise EnvironmentProblem(_text(folder, file.read() or "another one")) from error
    except OSError:  # a network file system without locks
        return
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
    file.flush()


def _text(folder: Path, holder: str) -> str:
    return (
        f"the run in {folder} is under way: {holder} writes it. One at a time is "
        "expected. Wait for it, stop it with a file named STOP in that folder, or give "
        "this run another run_name or run_dir."
    )
