"""Part of R13: weights reload, the model exports, the report can be written."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.export import export_task
from nbutils.checkpoint.snapshot import restore
from nbutils.checkpoint.store import CheckpointStore
from nbutils.errors import CheckpointError
from nbutils.monitor.report import write_report
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.rehearsal import Rehearsal
from nbutils.train.evaluate import evaluate
from nbutils.train.result import TrainResult
from nbutils.train.session import Session

__all__ = ["judge_artifacts"]

MAX_PARAMETERS = {"torch_export": 20_000_000, "onnx": 2_000_000}
MIN_SECONDS = {"torch_export": 10.0, "onnx": 20.0}
"""Left of the check's time before a format is tried: an exporter cannot be stopped."""

SAME = 1e-4


def judge_artifacts(
    probe: Probe, rehearsal: Rehearsal, session: Session, claims: Claims
) -> None:
    """Report and history from the events, weights from the disk, files for others."""
    _judge_report(rehearsal, session, claims)
    _judge_reloaded(probe, rehearsal, session, claims)
    _judge_export(probe, rehearsal, session, claims)


def _judge_report(rehearsal: Rehearsal, session: Session, claims: Claims) -> None:
    def render() -> int:
        result = session.result()
        rows = len(result.history)
        result.plot()
        _ = str(result), result._repr_html_()
        TrainResult.from_run(rehearsal.folder)
        write_report(rehearsal.folder)
        return rows

    rows, error = attempt(render)
    if error is None:
        claims.add("pass", f"history of {rows} rows, curves and report can be drawn")
        return
    claims.add(
        "warn",
        "history or report cannot be drawn",
        expected="a table, curves and report.html from what was recorded",
        actual=quote(error),
        fix="Look at what the metrics return: numbers, or flat lists of numbers.",
    )


def _judge_reloaded(
    probe: Probe, rehearsal: Rehearsal, session: Session, claims: Claims
) -> None:
    """Saved weights in a model as it was found give the numbers of the trained one."""
    store = CheckpointStore.of(rehearsal.config, rehearsal.folder, _tell_nobody)
    parts, model = session.parts, session.task.model
    saver = CheckpointCallback(store, rehearsal.config.checkpoint, model, parts)
    before, again = _numbers(probe, session), _numbers(probe, session)
    try:
        saver.save(session.state, waits=True)
        saved = store.latest()
    except CheckpointError:
        return  # R12 tells what cannot be saved
    if saved is None or before is None or again is None or not _same(before, again):
        claims.show([("reloaded weights", "not compared: evaluations do not repeat")])
        return
    probe.rewind()
    own = {name: part for name, part in parts.items() if name == "loss"}
    _, error = attempt(lambda: restore(saved.weights, saved.state, model, own))
    after = None if error is not None else _numbers(probe, session)
    if error is None and after is not None and _same(before, after):
        claims.add("pass", "reloaded weights give the same numbers")
        return
    found = quote(error) if error is not None else _difference(before, after or {})
    claims.add(
        "warn",
        "reloaded weights give other numbers than the trained model",
        expected="the same loss and metrics on the same batch",
        actual=found,
        fix="What outputs depend on must be in the state_dict: use register_buffer for "
        "running averages and counters, not plain attributes.",
    )


def _numbers(probe: Probe, session: Session) -> dict[str, float] | None:
    split = "val" if probe.data.has("val") else "train"

    def call() -> dict[str, Any]:
        return evaluate(
            session.task,
            [probe.fresh(probe.data.batch(split))],
            session.precision,
            session.device,
            loss_weights=session.config.loss.loss_weights,
            seed=session.config.train.seed,
        )

    values, error = attempt(call)
    if error is not None:
        return None
    return {n: v for n, v in values.items() if isinstance(v, (int, float))}


def _same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(_close(one[k], other[k]) for k in one)


def _close(a: float, b: float) -> bool:
    both_nan = math.isnan(a) and math.isnan(b)
    return both_nan or math.isclose(a, b, rel_tol=SAME, abs_tol=1e-7)


def _difference(one: dict[str, float], other: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {one[name]:.6g}, reloaded {other.get(name, math.nan):.6g}"
        for name in one
        if not _close(one[name], other.get(name, math.nan))
    )


def _judge_export(
    probe: Probe, rehearsal: Rehearsal, session: Session, claims: Claims
) -> None:
    """Weights must export; the computation is tried, and what cannot is told."""
    folder = rehearsal.folder / "export"
    _, error = _exported(session, folder, "safetensors")
    if error is None:
        claims.add("pass", "weights export and read back")
    else:
        claims.add(
            "warn",
            "the weights cannot be exported",
            expected="model.safetensors, read back with the same values",
            actual=quote(error),
            fix="Keep plain tensors in the state_dict; run.export() would fail.",
        )
    size = sum(p.numel() for p in session.task.model.parameters())
    for name, most in MAX_PARAMETERS.items():
        if size > most or probe.seconds_left < MIN_SECONDS[name]:
            return
        start = time.perf_counter()
        notes, error = _exported(session, folder, name)
        took = f"{time.perf_counter() - start:.1f} s"
        told = f"cannot be had: {error}" if error else " ".join(["works", *notes, took])
        claims.show([(f"export as {name}", told[:400])])
        if error:
            return  # what the first cannot hold, the second cannot either


def _exported(
    session: Session, folder: Path, name: str
) -> tuple[list[str], Exception | None]:
    """Notes of the export, and why it failed; with the run's averaged weights."""

    def call() -> list[str]:
        with session.averaged():
            task, config = session.task, session.config
            return export_task(task, config, session.device, folder, [name]).notes

    notes, error = attempt(call)
    return notes or [], error


def _tell_nobody(_text: str) -> None:
    """What does not go as planned raises, or shows in the numbers."""
