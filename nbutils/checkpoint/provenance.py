"""Where a run comes from: its code's revision, its machine, the sizes of its data."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbutils.data.fingerprint import describe_data, hash_parts
from nbutils.data.sources import num_samples
from nbutils.data.task import SPLITS
from nbutils.environment.price import price_per_hour

__all__ = ["code_revision", "machine_line", "provenance"]

_TIMEOUT_S = 3.0
_MAX_SESSIONS = 100


def provenance(
    task: Any, facts: Mapping[str, Any], before: Mapping[str, Any], time_s: float
) -> dict[str, Any]:
    """Fields of ``run.json`` about data, code, price and processes.

    Args:
        task: What is trained.
        facts: Of this machine, as the doctor names them.
        before: The record that was there.
        time_s: When this process begins.
    """
    bad_files = task.extras.get("bad_files")
    sessions = before.get("sessions")
    sessions = sessions if isinstance(sessions, list) else []
    mine = {"time_s": time_s, "machine": machine_line(facts)}
    data = {split: getattr(task, f"{split}_data") for split in SPLITS}
    found: dict[str, Any] = {
        "samples": {split: _size(part) for split, part in data.items()},
        "data_fingerprints": {
            split: hash_parts(describe_data(split, part))
            for split, part in data.items()
            if part is not None
        },
        "code": code_revision(Path.cwd()),
        "price_per_hour": price_per_hour(),
        "sessions": [*sessions, mine][-_MAX_SESSIONS:],
    }
    if bad_files:
        found["left_out"] = len(bad_files)
    return found


def machine_line(facts: Mapping[str, Any]) -> str:
    """A machine in a few words; nothing that names its owner."""
    python = str(facts.get("python", "")).split(" on ")[0]
    parts = [
        str(facts.get("platform", "")).split(" (")[0],
        str(facts.get("device", "")).split(" (")[0],
        str(facts.get("processor", "")).split(";")[0],
        f"Python {python}" if python else "",
        f"torch {facts['torch']}" if facts.get("torch") else "",
    ]
    return ", ".join(part for part in parts if part)


def code_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the git work tree around ``folder``; None where there is none."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None without git, without a work tree, or where it is slow."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(  # noqa: S603  # a fixed command
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _size(data: Any) -> int | str | None:
    """Samples of a split; None without such data."""
    if data is None:
        return None
    number = num_samples(data)
    return "a stream" if number is None else number
