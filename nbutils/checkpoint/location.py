"""Which run directory a run gets, and whether what lies there is the same run."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

from nbutils.config.sources import REHEARSAL
from nbutils.monitor.rundir import RunDirectory

__all__ = ["choose_run_dir", "given_run_dir", "identity_of"]


def identity_of(task: Any, config: Any) -> dict[str, str]:
    """What makes two runs the same: their configuration and their task."""
    return {"config_hash": config.hash, "task_fingerprint": task.fingerprint()}


def choose_run_dir(config: Any, task: Any) -> Path:
    """A folder under ``runs_dir``.

    A named run, or one of a recipe, gets the same folder each time, so that running
    its cell again continues it; if another run has that name, a number is added.
    Anything else gets a new folder.
    """
    identity, task_name = identity_of(task, config), task.name
    is_stable = bool(task.config and config.recipe)  # it can be recognised again
    root = Path(os.environ.get(REHEARSAL) or config.checkpoint.runs_dir)
    name = config.tracking.run_name
    if name is None and is_stable:
        recipe = config.recipe or task_name
        name = f"{recipe}-{identity['config_hash'][:8]}"
    if name is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return root / f"{task_name.lower()}-{stamp}-{secrets.token_hex(2)}"
    number = 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        record = RunDirectory(path).read_json("run.json")
        if record is None or all(record.get(k) == v for k, v in identity.items()):
            return path
        number += 1


def given_run_dir(run_dir: str | Path, *, is_resumed: bool = False) -> Path:
    """The absolute path of a folder that the user names.

    In a rehearsal another one stands for it: empty, or with a copy of the run that is
    to be resumed, so that the user's own is only read.
    """
    path = Path(run_dir).absolute()
    scratch = os.environ.get(REHEARSAL)
    if not scratch or path.is_relative_to(Path(scratch).absolute()):
        return path
    number = zlib.crc32(str(path).encode())
    twin = Path(scratch).absolute() / f"{path.name}-{number:08x}"
    if is_resumed and path.is_dir() and not twin.exists():
        shutil.copytree(path, twin)
    return twin
