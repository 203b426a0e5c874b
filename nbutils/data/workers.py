"""Worker processes of a loader: what killed one, and where that is told."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbutils.errors import EnvironmentProblem

__all__ = ["explain_death", "quiet_start", "shut_down"]

GRACE_S = 1.0
_MEMORY = (
    "usually the system, for want of memory: use fewer num_workers, keep less in the "
    "dataset, or give the machine more memory"
)
_CAUSES = {
    "SIGKILL": _MEMORY,
    "SIGBUS": "usually for want of shared memory: use fewer num_workers, or a larger "
    "/dev/shm (docker run --shm-size=8g)",
    "SIGSEGV": "a crash in native code that the dataset calls: set num_workers=0 to "
    "see where",
}


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start workers without the signal handler that torch adds with the first ones.

    That handler raises the death of a worker in whatever the main thread is doing, an
    optimizer step or a save included. Without it, the death is told by the loader, at
    the next batch, where nothing is half done.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or sys.platform == "win32":
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, before)


@contextmanager
def explain_death(iterator: Any, split: str) -> Iterator[None]:
    """Say why a worker died, and what to do about it.

    Raises:
        EnvironmentProblem: torch found that a worker of ``iterator`` is gone.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        first = (str(error).splitlines() or [""])[0]
        if first.startswith("Caught ") or not _is_death(iterator, error, first):
            raise
        raise EnvironmentProblem(
            f"a worker process that reads '{split}' died: {_how(iterator, first)}. The "
            "run stands where it was before this batch; run again to resume."
        ) from error


def _is_death(iterator: Any, error: Exception, told: str) -> bool:
    """In torch's words, or a batch that its maker did not live to hand over."""
    if told.startswith("DataLoader worker (pid"):
        return True
    if not isinstance(error, (ConnectionError, EOFError, FileNotFoundError)):
        return False
    return any(worker.exitcode for worker in _workers_after(iterator, GRACE_S))


def _workers_after(iterator: Any, seconds: float) -> list[Any]:
    """The workers, once one of them is seen to have ended, or time is up."""
    workers = list(getattr(iterator, "_workers", ()))
    until = time.monotonic() + seconds
    while all(w.is_alive() for w in workers) and workers and time.monotonic() < until:
        time.sleep(0.01)
    return workers


def shut_down(iterator: Any) -> None:
    """End the workers of ``iterator`` now; a traceback may keep it alive for long."""
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()


def _how(iterator: Any, told: str) -> str:
    """What ended the worker, by its exit code; torch's words where there is none."""
    codes = [w.exitcode for w in _workers_after(iterator, GRACE_S) if w.exitcode]
    if not codes:
        return f"{told.rstrip('. ')} ({_MEMORY})"
    if codes[0] > 0:
        return f"it exited with code {codes[0]}; set num_workers=0 to see where"
    try:
        name = signal.Signals(-codes[0]).name
    except ValueError:
        return f"signal {-codes[0]} ended it; set num_workers=0 to see where"
    cause = _CAUSES.get(name, "set num_workers=0 to see where")
    return f"{name} ended it, {cause}"
