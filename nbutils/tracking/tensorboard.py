"""TensorBoard: event files in the run directory, for ``tensorboard --logdir``."""

from __future__ import annotations

import importlib
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import show
from nbutils.monitor.events import Event
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.tracker import StepLimiter, numbers

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes an event's numbers as scalars over the step.

    Args:
        directory: The run directory; files go into its ``tensorboard`` folder.

    Raises:
        EnvironmentProblem: The package ``tensorboard`` is not installed.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.log_dir = directory.path / "tensorboard"
        self._limiter = StepLimiter()
        self._writer = _writer_class()(log_dir=str(self.log_dir))

    def write(self, event: Event) -> None:
        """Add the event's numbers; what fails is for the event log to count."""
        if self._writer is None or not self._limiter.admits(event):
            return
        for name, value in numbers(event).items():
            self._writer.add_scalar(
                name, value, event.get("step", 0), walltime=event.get("time_s")
            )

    def finish(self, exit_code: int = 0) -> None:
        """Flush and close the files; a failure is told, not raised."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except Exception as error:
            show(
                f"TensorBoard files in {self.log_dir} could not be closed "
                f"({type(error).__name__}: {error}); the event log is complete."
            )


def _writer_class() -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise EnvironmentProblem(
            "tracker='tensorboard' needs the package tensorboard, which cannot be "
            f"imported: {error}. Install it with: pip install tensorboard, or set "
            "tracker='none'."
        ) from error
