"""How a detached run failed: written by its process, raised where somebody waits."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

from nbutils import errors
from nbutils.data.loader import add_context
from nbutils.errors import EnvironmentProblem, NbutilsError
from nbutils.monitor.events import read_events
from nbutils.monitor.process import PROCESS_FILE, last_lines, process_of
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import RunView

__all__ = ["note_failure", "raise_failure"]

_TOO_LONG = 20_000


def note_failure(run_dir: Path, error: BaseException) -> None:
    """Write down what ended the process."""
    text = "".join(traceback.format_exception(error))
    failure = {
        "type": type(error).__name__,
        "text": str(error),
        "traceback": text[-_TOO_LONG:],
        "time_s": time.time(),
    }
    RunDirectory(run_dir).update_json(PROCESS_FILE, failure=failure)


def raise_failure(run_dir: Path) -> None:
    """Raise what ended the run in ``run_dir``, unless it ended well.

    Raises:
        NbutilsError: An error of this package keeps its class.
        RuntimeError: Any other; the text holds its traceback.
        EnvironmentProblem: The process was killed.
    """
    record = process_of(run_dir) or {}
    failure = record.get("failure")
    if failure:
        raise _rebuilt(failure, record.get("pid"))
    view = RunView.from_events(read_events(RunDirectory(run_dir).events_path))
    began_s = float(record.get("noted_s", 0.0))
    end = view.end if view.last_time_s >= began_s else {}
    if not end:
        raise _killed(run_dir, record, view)
    if end.get("status") in ("failed", "interrupted"):
        raise RuntimeError(f"the run in {run_dir} {end['status']}: {end.get('reason')}")


def _rebuilt(failure: dict[str, Any], pid: object) -> Exception:
    """The error of the other process; one of ours has its own class again."""
    kind = getattr(errors, failure["type"], None)
    trace = f"in process {pid}:\n{failure['traceback']}"
    if isinstance(kind, type) and issubclass(kind, NbutilsError):
        error = kind.__new__(kind)
        Exception.__init__(error, failure["text"])
    else:
        kind = RuntimeError
        error = RuntimeError(f"{failure['type']}: {failure['text']}\n{trace}")
    if kind is not RuntimeError:
        add_context(error, trace)
    return error


def _killed(run_dir: Path, record: dict[str, Any], view: RunView) -> Exception:
    pid, lines = record.get("pid"), last_lines(run_dir)
    who = f"process {pid}, which trained in {run_dir}," if pid else f"{run_dir}:"
    saved = view.last_checkpoint.get("step")
    then = f"from step {saved}" if saved is not None else "anew: nothing was saved"
    told = f" The last lines of its log:\n{lines}" if lines else " Its log is empty."
    return EnvironmentProblem(
        f"{who} ended without a word at step {view.step}: it was killed, for example "
        "for want of memory. Expected an end in events.jsonl. train() again begins "
        f"{then}.{told}"
    )
