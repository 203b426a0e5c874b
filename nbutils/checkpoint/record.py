"""What ``run.json`` and its neighbours say about a run: at its start, at its end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.checkpoint.location import identity_of
from nbutils.checkpoint.provenance import provenance
from nbutils.data.loader import add_context
from nbutils.environment.doctor import doctor
from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog
from nbutils.monitor.figures import draw_answers
from nbutils.monitor.redact import redact
from nbutils.monitor.report import write_report
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
    now_s, machine = time.time(), doctor(thorough=False)
    record = {
        "run_id": before.get("run_id") or secrets.token_hex(4),
        "created_s": before.get("created_s") or now_s,
        **before,
        **identity,
        "task": task.name,
        "status": "running",
        "stop_reason": None,
        "verdict": task.verdict,
        "session_s": now_s,
        **provenance(task, machine.facts, before, now_s),
    }
    folder.write_json("run.json", record)
    config.save(folder.config_path)
    folder.write_text("environment.json", machine.to_json())
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
        reason = redact(f"{type(error).__name__}: {error}".splitlines()[0])
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


def record_test(path: Path, measured: Any, weights: str) -> None:
    """Put a test into the record of the run at ``path``, if there is a run.

    The latest numbers are ``test_metrics``; ``tests`` keeps the latest of each kind of
    weights with intervals and baselines, and ``num_tests`` counts how often the test
    data was looked at. Figures of the answers are drawn, then the answers forgotten;
    a report that is there is written anew.

    Args:
        path: The run directory.
        measured: What ``measure_test`` gave.
        weights: ``"last"`` or ``"best"``.
    """
    folder = RunDirectory(path)
    answers, measured.answers = measured.answers, None
    if not folder.events_path.exists():
        return
    run = folder.read_json("run.json") or {}
    step = (run.get("best") or {}).get("step") if weights == "best" else run.get("step")
    told = {**measured.to_record(), "step": step, "time_s": time.time()}
    if answers is not None:
        draw_answers(answers, folder.figures_dir, measured.extras)
    folder.update_json(
        "run.json",
        test_metrics=dict(measured),
        test_weights=weights,
        test_step=run.get("step"),
        tests={**(run.get("tests") or {}), weights: told},
        num_tests=int(run.get("num_tests") or 0) + 1,
    )
    if (path / "report.html").exists():  # else it would lack what is now known
        write_report(path)
