"""What ``run.json`` and its neighbours say about a run: at its start, at its end."""

from __future__ import annotations

import secrets
import time
from typing import Any

from nbutils.environment.doctor import doctor
from nbutils.monitor.events import EventLog
from nbutils.monitor.rundir import RunDirectory

__all__ = ["begin_record", "end_record"]


def begin_record(
    folder: RunDirectory, identity: dict[str, str], config: Any, task: Any
) -> dict[str, Any]:
    """Write who this run is, its configuration, its verdict and its machine.

    Returns:
        The record; ``is_same`` tells whether a run with this identity was here.
    """
    before = folder.read_json("run.json") or {}
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


def end_record(
    folder: RunDirectory, events: EventLog, error: BaseException | None, state: Any
) -> None:
    """Write how the run ended: finished, stopped to be resumed, or failed."""
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
