"""A training script in a process that outlives its terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from nbutils.config import resolve
from nbutils.errors import EnvironmentProblem
from nbutils.launch.spawn import spawn

__all__ = ["launch_script"]


def launch_script(script: str | Path, arguments: Sequence[str]) -> tuple[int, Path]:
    """Start a script; gives the number of its process, and its log.

    Args:
        script: A Python file.
        arguments: Given to it.

    Raises:
        EnvironmentProblem: There is no such file, or the log cannot be written.
    """
    path = Path(script)
    if not path.is_file():
        raise EnvironmentProblem(
            f"{path} is not a file; expected a Python script. A saved config or the "
            "name of a preset can be launched as well."
        )
    root = Path(resolve().checkpoint.runs_dir)
    log = root / f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        root.mkdir(parents=True, exist_ok=True)
        return spawn([str(path), *arguments], log.absolute()), log
    except OSError as error:
        raise EnvironmentProblem(
            f"{log} cannot be written: {error}. Expected a writable folder with free "
            "space. Set runs_dir to another one."
        ) from error
