"""A fresh process for each experiment: forked after the imports, before any work."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Ended", "in_child"]


@dataclass
class Ended:
    """How a child ended.

    Attributes:
        value: What its function returned.
        error: Type and text of what it raised.
        signal: The signal that killed it.
        output: The end of what it printed.
    """

    value: Any = None
    error: str = ""
    signal: int = 0
    output: str = ""


def in_child(function: Callable[[], Any], log: Path, limit_s: float = 60) -> Ended:
    """Run ``function`` in a process of its own; its prints go to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_child(function, log, writer)
    os.close(writer)
    data = _read(reader, time.monotonic() + limit_s)
    if data is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = pickle.loads(data) if data else Ended()  # noqa: S301 from our own child
    ended.output = log.read_text(errors="replace")[-4000:]
    if data is None:
        ended.error = f"TimeoutError: not done after {limit_s:.0f} s"
    elif os.WIFSIGNALED(status):
        ended.signal = os.WTERMSIG(status)
    return ended


def _read(reader: int, until: float) -> bytes | None:
    """Everything the child wrote; none if it takes too long."""
    data = b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select(
                [pipe], [], [], max(0, until - time.monotonic())
            )
            if not ready:
                return None
            part = pipe.read(1 << 16)
            if not part:
                return data
            data += part


def _be_child(function: Callable[[], Any], log: Path, writer: int) -> None:
    """The child's life; never returns."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        ended = Ended(value=function())
    except BaseException as error:
        traceback.print_exc()
        ended = Ended(error=f"{type(error).__name__}: {error}")
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(pickle.dumps(ended))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
