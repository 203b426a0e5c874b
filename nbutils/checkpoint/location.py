"""Which run directory a run gets, and whether what lies there is the same run."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from nbutils.monitor.rundir import RunDirectory

__all__ = ["choose_run_dir", "identity_of"]


def identity_of(task: Any, config: Any) -> dict[str, str]:
    """What makes two runs the same: their configuration and their task."""
    return {"config_hash": config.hash, "task_fingerprint": task.fingerprint()}


def choose_run_dir(
    config: Any, task_name: str, identity: dict[str, str], *, is_stable: bool
) -> Path:
    """A folder under ``runs_dir``.

    A named run, or one of a recipe, gets the same folder each time, so that running
    its cell again continues it; if another run has that name, a number is added.
    Anything else gets a new folder.

    Args:
        is_stable: The run can be recognised again: it comes from a recipe.
    """
    root = Path(config.checkpoint.runs_dir)
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
