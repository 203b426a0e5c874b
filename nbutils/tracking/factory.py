"""Makes the tracker that a run's config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbutils.errors import ConfigError
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.tracker import NoTracker, Tracker

__all__ = ["make_tracker"]


def make_tracker(
    config: Any, run_dir: str | Path | RunDirectory, run_id: str
) -> Tracker:
    """The tracker that ``config.tracking`` names.

    Args:
        config: The run's config.
        run_dir: Where the service's files go.
        run_id: Same for every resume of a run, so that the service continues it.

    Raises:
        EnvironmentProblem: The service's package is not installed.
        ConfigError: No such tracker.
    """
    directory = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
    kind = config.tracking.tracker
    if kind == "none":
        return NoTracker()
    if kind == "wandb":
        from nbutils.tracking.wandb import WandbTracker

        return WandbTracker(config, directory, run_id)
    if kind == "tensorboard":
        from nbutils.tracking.tensorboard import TensorBoardTracker

        return TensorBoardTracker(directory)
    raise ConfigError(
        [f"tracker is {kind!r}; it must be 'none', 'wandb' or 'tensorboard'."]
    )
