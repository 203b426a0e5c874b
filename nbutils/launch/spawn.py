"""Processes in a session of their own: no signal for us reaches them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fetch_dead", "spawn"]

_NOT_FOR_A_CHILD = ("JPY_", "NBUTILS_HEADLESS")
_OWN = {"NBUTILS_HEADLESS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this one started; asked now and then, so that no dead one stays."""


def spawn(arguments: Sequence[str], log_path: Path) -> int:
    """Start this interpreter anew; gives the number of the process.

    It has no terminal and no input, and goes on when this process, its notebook server
    or its terminal ends. It is started, never forked: a kernel may have touched CUDA.

    Args:
        arguments: Of the interpreter.
        log_path: Gets what the process writes, after what is there.
    """
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(_NOT_FOR_A_CHILD)
    }
    with log_path.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 (this interpreter, the user's own code)
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environ | _OWN,
            start_new_session=True,
        )
    _children[child.pid] = child
    return child.pid


def fetch_dead() -> None:
    """Take note of children that ended, or they would stay as zombies."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]
