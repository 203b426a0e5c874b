"""One run, one process: a folder that is being written is not opened twice."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem

__all__ = ["run_lock"]

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
