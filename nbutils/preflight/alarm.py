"""The hard limit of a check: code that hangs is left, and named."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nbutils.preflight.blame import is_own, place_of

__all__ = ["Overdue", "interrupting"]

AGAIN_S = 0.1
ENTRIES = frozenset(
    ("__getitem__", "__getitems__", "__iter__", "__next__", "__call__", "forward")
)
DELICATE = ("<frozen importlib", "/torch/_dynamo/", "/torch/_inductor/", "/torch/fx/")
"""Imports and compilers keep state that half a call would leave broken."""

_PACKAGE = str(Path(__file__).parents[1])


class Overdue(BaseException):
    """A check was still running at its hard limit.

    No ``Exception``, so that it passes through code which survives anything.

    Args:
        place: ``file:line in function: source`` of the code that ran.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


@contextmanager
def interrupting(limit_s: float) -> Iterator[None]:
    """Raise :class:`Overdue` in the block after ``limit_s`` seconds.

    Only where code that was handed in is running: this package's own clean-up, and
    torch's dispatch of a single operation, are never cut short. Does nothing outside
    of the main thread, without POSIX timers, and where someone else uses the alarm.
    Handler and timer are as before when the block ends.
    """
    if not 0 < limit_s < float("inf") or not _is_free():
        yield
        return

    def ring(_number: int, frame: types.FrameType | None) -> None:
        place = "" if _is_dispatching() else _running(frame)
        if place:
            raise Overdue(place)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is ring:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


def _is_free() -> bool:
    """Whether the alarm can be set, and nobody else has set it."""
    if not hasattr(signal, "setitimer"):
        return False  # Windows
    is_main = threading.current_thread() is threading.main_thread()
    is_unused = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    return is_main and is_unused and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def _is_dispatching() -> bool:
    """Whether a ``TorchDispatchMode`` is on: an error inside it may end the process."""
    return torch._C._len_torch_dispatch_stack() > 0


def _running(frame: types.FrameType | None) -> str:
    """The innermost line of code that was handed in; empty if this package works.

    Looks no further out than this package: behind it stands who called preflight.
    """
    own = entry = ""
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        code = frame.f_code
        is_delicate = any(part in code.co_filename for part in DELICATE)
        if is_delicate or code.co_name == "__torch_dispatch__":
            return ""  # such a mode is off while it runs itself
        if not own and is_own(code.co_filename):
            own = place_of(code, frame.f_lineno)
        if not entry and code.co_name in ENTRIES:
            entry = place_of(code, frame.f_lineno)
        frame = frame.f_back
    return (own or entry) if frame is not None else ""
