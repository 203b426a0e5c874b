"""What ``run.json`` and its neighbours say about a run: at its start, at its end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.checkpoint.location import identity_of
from nbutils.data.loader import add_context
from nbutils.environment.doctor import doctor
from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog
from nbutils.monitor.rundir import RunDirectory

__all__ = ["begin_record", "record_test", "recorded"]


def begin_record(folder: RunDirectory, config: Any, task: Any) -> dict[str, Any]:
    """Write who this run is, its configuration, its verdict and its machine.

    Returns:
        The record; ``is_same``: a run with this config and task was here before.
    """
    before = folder.read_json("run.json") or {}
    identity = identity_of(task, config)
    is_same = bool(before) and all(before.get(k) == v for k, v in identity.items())
    record = {
        "run_id": before.get("run_id") or secrets.token_hex(4),
        "created_s": before.get("created_s") or time.time(),
        **before,
        **identity,
        "task": task.name,
        "status": "running",
        "stop_reason": None,
        "verdict": task.verdict,
        "session_s": time.time(),
    }
    folder.write_json("run.json", record)
    config.save(folder.config_path)
    folder.write_text("environment.json", doctor().to_json())
    report = getattr(task, "report", None)
    if report is not None:
        report.save(folder.path)
    return {**record, "is_same": is_same}


@contextmanager
def recorded(
    folder: RunDirectory, events: EventLog, close: Callable[[], Any]
) -> Iterator[None]:
    """Write how the block ended: finished, stopped to be resumed, or failed.

    Args:
        close: Ends the session; gives the state it ended in, or none.
    """
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        state = close()
        try:
            _end_record(folder, events, error, state)
        except EnvironmentProblem as problem:
            if error is None:
                raise
            add_context(error, f"and its record could not say so: {problem}")


def _end_record(
    folder: RunDirectory, events: EventLog, error: BaseException | None, state: Any
) -> None:
    reason = None if state is None else state.stop_reason
    status = "finished" if reason in ("completed", "target", "patience") else "stopped"
    if error is not None:
        status = "failed" if isinstance(error, Exception) else "interrupted"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    fields: dict[str, Any] = {"status": status, "stop_reason": reason}
    if state is not None:
        fields.update(
            step=state.step,
            epoch=state.epoch,
            skipped=state.skipped,
            seconds=round(state.seconds, 3),
            best=state.best,
        )
    folder.update_json("run.json", **fields)
    events.write(
        "run_end",
        status=status,
        reason=reason,
        step=fields.get("step"),
        seconds=fields.get("seconds"),
    )


def record_test(path: Path, metrics: dict[str, Any], weights: str) -> None:
    """Put test metrics into the record of the run at ``path``, if there is a run."""
    folder = RunDirectory(path)
    if not folder.events_path.exists():
        return
    step = (folder.read_json("run.json") or {}).get("step")
    fields = {"test_metrics": metrics, "test_weights": weights, "test_step": step}
    folder.update_json("run.json", **fields)
