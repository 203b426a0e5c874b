"""What stands beside the events of a run: its name, its verdict, where it is tracked.

Read from ``run.json`` and ``config.yaml``; what is missing stays empty, since a run
that starts up has neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.rundir import RunDirectory

__all__ = ["About"]

_SETTING = re.compile(r"^\s*(recipe|monitor|mode): ['\"]?([^\s'\"#]+)", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The facts of a run that no event tells.

    Args:
        path: The run directory.
        task: Name of the task.
        recipe: Name of the recipe; empty without one.
        verdict: What preflight said, in a few words.
        url: Where the run is tracked; empty if it is not, or offline.
        monitor: The metric that decides which weights are best.
        mode: ``"min"`` or ``"max"``.
    """

    path: Path
    task: str = ""
    recipe: str = ""
    verdict: str = ""
    url: str = ""
    monitor: str = "val_loss"
    mode: str = "min"

    @classmethod
    def read(cls, path: str | Path) -> About:
        """What lies in the folder at this moment."""
        directory = RunDirectory(path)
        try:
            run = directory.read_json("run.json") or {}
        except (EnvironmentProblem, OSError):  # told by who reads the run itself
            run = {}
        has_config = directory.config_path.is_file()
        text = directory.config_path.read_text("utf-8") if has_config else ""
        settings = dict(_SETTING.findall(text))
        return cls(
            path=directory.path,
            task=str(run.get("task") or ""),
            recipe=settings.get("recipe", "").removeprefix("null"),
            verdict=_verdict_text(run.get("verdict")) if run else "",
            url=str(run.get("wandb_url") or ""),
            monitor=settings.get("monitor", "val_loss"),
            mode=settings.get("mode", "min"),
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.absolute().name


def _verdict_text(verdict: Mapping[str, Any] | None) -> str:
    if not verdict:
        return "no preflight"
    kinds = list((verdict.get("ids") or {}).values())
    depth = verdict.get("depth", "")
    if not verdict.get("passed"):
        return f"preflight failed ({depth}, {kinds.count('fail')} checks)"
    num_warned = kinds.count("warn")
    noun = "warning" if num_warned == 1 else "warnings"
    more = f", {num_warned} {noun}" if num_warned else ""
    return f"preflight passed ({depth}{more})"
