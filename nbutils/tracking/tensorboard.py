"""TensorBoard: event files in the run directory, for ``tensorboard --logdir``."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.replay import num_lines, without_undone
from nbutils.tracking.tracker import bins, numbers

__all__ = ["TensorBoardTracker", "import_writer"]

_FLUSH_S = 30
_MAX_WAIT_S = 1.5
_FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes an event's numbers as scalars over the step.

    It starts with the ``run_start`` event, at the step that a resume went back to:
    TensorBoard then hides what lay beyond. What a killed process did not flush is
    written again.

    Args:
        directory: The run directory; files go into its ``tensorboard`` folder.

    Raises:
        EnvironmentProblem: The package ``tensorboard`` is not installed.
    """

    name = "TensorBoard"

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.log_dir = directory.path / _FOLDER
        self._make_writer = import_writer()
        self._writer: Any = None
        self._is_over = False
        self._line = num_lines(directory.events_path)
        self._lock = threading.RLock()  # monitors write from a thread of their own

    def write(self, event: Event) -> None:
        """Add what the event carries; the first ``run_start`` opens the files."""
        with self._lock:
            line, self._line = self._line, self._line + 1
            if event["kind"] == "run_start" and self._writer is None:
                if self._is_over:
                    return
                self._is_over = True  # whatever fails below, it is not tried again
                self._start(int(event.get("step") or 0), until=line)
                self._is_over = False
            if self._writer is not None:
                _add(self._writer, event)

    def finish(self, exit_code: int = 0) -> None:
        """Flush and close the files."""
        with self._lock:
            writer, self._writer, self._is_over = self._writer, None, True
        if writer is None:
            return
        writer.close()
        self.directory.update_json("run.json", tensorboard_lines=self._line)

    def rebuild(self, events: Iterable[Event], tick: Callable[[], None]) -> Path:
        """Write all files anew from a whole log; steps that were undone are left out.

        The new files stand beside the old ones until they are complete.
        """
        _wait_for_a_later_name(self.log_dir)
        beside = self.log_dir.with_name(f"{_FOLDER}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        writer = self._make_writer(log_dir=str(beside), flush_secs=_FLUSH_S)
        try:
            events = list(events)
            for event in without_undone(events):
                tick()
                _add(writer, event)
        finally:
            writer.close()
        old = list(self.log_dir.glob("events.out.tfevents.*"))
        self.log_dir.mkdir(exist_ok=True)
        for path in beside.iterdir():
            path.replace(self.log_dir / path.name)
        for path in old:
            path.unlink()
        beside.rmdir()
        self.directory.update_json("run.json", tensorboard_lines=len(events))
        return self.log_dir

    def _start(self, step: int, until: int) -> None:
        """Open the files; first what no earlier process has written, up to ``step``."""
        known = self.directory.read_json("run.json") or {}
        first = int(known.get("tensorboard_lines") or 0)
        missing: list[Event] = []
        if first < until:
            lines = read_events(self.directory.events_path)[first:until]
            missing = [e for e in lines if int(e.get("step") or 0) <= step]
        redone = [int(e["step"]) for e in missing if e["kind"] in ("step", "monitor")]
        begins = min([step + 1, *redone])
        _wait_for_a_later_name(self.log_dir)
        self._writer = self._make_writer(
            log_dir=str(self.log_dir),
            purge_step=begins if step or redone else None,
            flush_secs=_FLUSH_S,
        )
        for event in missing:
            _add(self._writer, event)


def _wait_for_a_later_name(log_dir: Path) -> None:
    """Wait until a new file sorts after all others: TensorBoard reads them by name.

    Names begin with the second of their making, so this is no wait at all, but for a
    run that was started anew within a second.
    """
    names = [path.name.split(".") for path in log_dir.glob("events.out.tfevents.*")]
    newest = max((int(parts[3]) for parts in names if parts[3].isdigit()), default=0)
    give_up = time.monotonic() + _MAX_WAIT_S
    while int(time.time()) <= newest and time.monotonic() < give_up:
        time.sleep(0.02)


def import_writer() -> Any:
    """The class that writes TensorBoard's files.

    Raises:
        EnvironmentProblem: The package is not there, or cannot be loaded.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except Exception as error:  # a broken installation raises anything
        raise EnvironmentProblem(
            "tracker='tensorboard' needs the package tensorboard, which cannot be "
            f"imported: {error}. Install it with: pip install tensorboard, or set "
            "tracker='none'."
        ) from error


def _add(writer: Any, event: Event) -> None:
    at = {"global_step": event.get("step") or 0, "walltime": event.get("time_s")}
    for name, value in numbers(event).items():
        writer.add_scalar(name, value, **at)
    found = bins(event)
    if found is None:
        return
    counts, edges = found.counts, found.edges
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    pairs = list(zip(counts, middles, strict=True))
    writer.add_histogram_raw(
        found.name,
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * x for count, x in pairs),
        sum_squares=sum(count * x * x for count, x in pairs),
        bucket_limits=list(edges[1:]),
        bucket_counts=list(counts),
        **at,
    )
