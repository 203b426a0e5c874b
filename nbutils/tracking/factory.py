"""Makes the trackers that a run's config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbutils.errors import ConfigError
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.link import TrackerLink
from nbutils.tracking.tracker import NoTracker, Several, Tracker

__all__ = ["check_packages", "make_tracker", "tracker_names"]

_KNOWN = ("none", "wandb", "tensorboard")


def tracker_names(config: Any) -> tuple[str, ...]:
    """The services that ``config.tracking.tracker`` names, in order; may be empty.

    Raises:
        ConfigError: One of them is none that we know.
    """
    given = config.tracking.tracker
    names = given.split(",") if isinstance(given, str) else list(given)
    strangers = [name for name in names if name not in _KNOWN]
    if strangers:
        raise ConfigError(
            [f"tracker is {given!r}; it must be 'none', 'wandb' or 'tensorboard'."]
        )
    return tuple(name for name in names if name != "none")


def check_packages(config: Any) -> None:
    """Load the services' packages, before anything of the run is opened.

    Raises:
        EnvironmentProblem: One cannot be imported; it says how to install it.
    """
    names = tracker_names(config)
    if "wandb" in names and config.tracking.wandb_mode != "disabled":
        from nbutils.tracking.wandb_api import import_wandb

        import_wandb()
    if "tensorboard" in names:
        from nbutils.tracking.tensorboard import import_writer

        import_writer()


def make_tracker(
    config: Any,
    run_dir: str | Path | RunDirectory,
    run_id: str,
    link: TrackerLink | None = None,
) -> Tracker:
    """The tracker, or several side by side, that ``config.tracking`` names.

    Args:
        config: The run's config.
        run_dir: Where the services' files go.
        run_id: Same for every resume of a run, so that a service continues it.
        link: Keeps the services' ids for snapshots, and passes on their Stop.

    Raises:
        EnvironmentProblem: A service's package cannot be imported.
        ConfigError: No such tracker.
    """
    directory = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
    check_packages(config)
    parts = {
        name: _make(name, config, directory, run_id, link)
        for name in tracker_names(config)
    }
    if len(parts) > 1:
        return Several(parts)
    return next(iter(parts.values()), NoTracker())


def _make(
    name: str,
    config: Any,
    directory: RunDirectory,
    run_id: str,
    link: TrackerLink | None,
) -> Tracker:
    if name == "wandb":
        from nbutils.tracking.wandb import WandbTracker

        return WandbTracker(config, directory, run_id, link)
    from nbutils.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(directory)
