"""R12: a run that is saved, rebuilt and resumed goes on bit for bit."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.snapshot import restore
from nbutils.checkpoint.store import CheckpointStore
from nbutils.errors import CheckpointError
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.run.fresh import judge_fresh
from nbutils.preflight.checks.run.pace import duration_text
from nbutils.preflight.checks.run.retention import judge_retention
from nbutils.preflight.probe import Probe
from nbutils.preflight.rehearsal import Rehearsal, rehearsing
from nbutils.train.callback import Callback
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["CHECK"]

NUM_WINDOWS = 3
NUM_NAMED = 4
SMALL_PARTS_BYTES = 2**20
"""Generators, counters and file headers beside the tensors."""

Weights = dict[str, Tensor]


class _SaveAt(Callback):
    """Saves as the run does, once, after a window; ``seconds``: how long it took."""

    seconds = 0.0

    def __init__(self, step: int, saver: CheckpointCallback) -> None:
        self._step = step
        self._saver = saver

    def on_step_end(self, state: RunState) -> None:
        if state.step == self._step:
            start = time.perf_counter()
            self._saver.save(state)
            self.seconds = time.perf_counter() - start


def run(probe: Probe, claims: Claims) -> None:
    """Train, save, go on; then rebuild, restore, go on; then compare."""
    with rehearsing(probe, mirror=None) as rehearsal:
        session = rehearsal.session()
        num_windows = min(NUM_WINDOWS, session.plan.steps or NUM_WINDOWS)
        if not _can_drill(session, rehearsal.folder, num_windows, claims):
            session.close()
            return
        try:
            going_on = _train_and_save(rehearsal, session, num_windows, claims)
            loose = _loose(session)
            session = rehearsal.session()
            resumed = _resume(rehearsal, session, num_windows)
            lost = sorted(_lost(loose, _loose(session)))
        except CheckpointError as error:
            _note_refused(error, claims)
            return
        _show_size(rehearsal, claims)
        judge_fresh(_store(rehearsal).steps()[-1], claims)
        judge_retention(rehearsal, claims)
        differing = _differing(going_on, resumed)
        if differing:
            # A run that never gives the same weights twice proves nothing here.
            again = _uninterrupted(rehearsal, num_windows)
            _note_differing(differing, _differing(going_on, again), lost, claims)
            return
    claims.add(
        "pass",
        "a resumed run gives the weights of one that was never stopped",
        expected="equal weights, bit for bit",
        actual=f"{len(going_on)} tensors equal after {num_windows} windows, the last "
        "of them after a restore",
    )


def _can_drill(
    session: Session, folder: Path, num_windows: int, claims: Claims
) -> bool:
    if num_windows < 2:
        claims.add("skip", "checkpoint drill: the whole run has one window")
        return False
    free = shutil.disk_usage(folder).free
    needed = session.checkpoint_bytes() + SMALL_PARTS_BYTES
    if free < needed:
        claims.add(
            "skip",
            f"checkpoint drill: {folder.parent} has {free / 1e9:.2f} GB free, "
            f"it needs {needed / 1e9:.2f} GB",
        )
        return False
    return True


def _store(rehearsal: Rehearsal) -> CheckpointStore:
    return CheckpointStore.of(rehearsal.config, rehearsal.folder, _tell_nobody)


def _tell_nobody(_text: str) -> None:
    """What does not go as planned raises or shows in the weights."""


def _train_and_save(
    rehearsal: Rehearsal, session: Session, num_windows: int, claims: Claims
) -> Weights:
    """Weights of a run that saves before its last window and goes on."""
    saver = CheckpointCallback(
        _store(rehearsal),
        rehearsal.config.checkpoint,
        session.task.model,
        session.parts,
    )
    save = _SaveAt(num_windows - 1, saver)
    rehearsal.fit(session, num_windows, save)
    claims.show([("time of a save", duration_text(save.seconds))])
    return _weights(session)


def _resume(rehearsal: Rehearsal, session: Session, num_windows: int) -> Weights:
    """Weights of a rebuilt run that is restored from the disk, then goes on."""
    loaded = read_checkpoint(_store(rehearsal).steps()[-1])
    restore(loaded.weights, loaded.state, session.task.model, session.parts)
    rehearsal.fit(session, num_windows)
    return _weights(session)


def _uninterrupted(rehearsal: Rehearsal, num_windows: int) -> Weights:
    session = rehearsal.session()
    rehearsal.fit(session, num_windows)
    return _weights(session)


def _weights(session: Session) -> Weights:
    state: dict[str, Any] = session.task.model.state_dict()
    return {n: t.detach().clone() for n, t in state.items() if isinstance(t, Tensor)}


def _loose(session: Session) -> dict[str, Any]:
    """What modules keep outside of the state_dict: numbers, tensors, buffers."""
    found: dict[str, Any] = {}
    for top, part in (("", session.task.model), ("loss.", session.task.loss)):
        for path, module in part.named_modules() if isinstance(part, nn.Module) else ():
            names = module._non_persistent_buffers_set
            for name, value in (
                *((n, v) for n, v in vars(module).items() if n != "training"),
                *((n, module._buffers[n]) for n in names),
            ):
                if isinstance(value, (int, float, Tensor)):
                    kept = (
                        value.detach().clone() if isinstance(value, Tensor) else value
                    )
                    found[f"{top}{path}.{name}".replace("..", ".").lstrip(".")] = kept
    return found


def _lost(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Names of what a resumed run has otherwise than one that was never stopped."""
    return {
        name
        for name in one.keys() & other.keys()
        if type(one[name]) is not type(other[name])
        or not (
            _is_same(one[name], other[name])
            if isinstance(one[name], Tensor)
            else one[name] == other[name]
        )
    }


def _differing(one: Weights, other: Weights) -> list[str]:
    return [name for name in one if not _is_same(one[name], other[name])]


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Equal bits, or NaN in the same places."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    is_nan = a.isnan()
    return torch.equal(is_nan, b.isnan()) and torch.equal(a[~is_nan], b[~is_nan])


def _show_size(rehearsal: Rehearsal, claims: Claims) -> None:
    folder = _store(rehearsal).steps()[-1]
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    kept = rehearsal.config.checkpoint.keep_last + 1
    claims.show(
        [
            ("one checkpoint on disk", f"{num_bytes / 2**20:.2f} MiB"),
            ("kept with the best one", f"{kept * num_bytes / 2**20:.2f} MiB"),
        ]
    )


def _note_refused(error: CheckpointError, claims: Claims) -> None:
    claims.add(
        "fail",
        "the run cannot be saved and read back",
        expected="a checkpoint that loads under weights_only=True",
        actual=str(error),
        fix="Keep plain tensors, numbers, strings, lists and dicts in the state of "
        "model, optimizer and scheduler.",
    )


def _note_differing(
    names: list[str], unsteady: list[str], lost: list[str], claims: Claims
) -> None:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    listed = ", ".join(names[:NUM_NAMED]) + more
    if unsteady:
        claims.add(
            "warn",
            "the run does not repeat itself, so a resume cannot be bit-identical",
            expected="the same weights from the same seed",
            actual=f"two runs without a stop differ, in {', '.join(unsteady[:4])}",
            fix="Look for randomness or counters of its own in data, forward or loss; "
            "draw from torch's global generator, which is saved.",
        )
        return
    kept_outside = f"; in no state_dict: {', '.join(lost[:NUM_NAMED])}" if lost else ""
    claims.add(
        # A counter that anneals something trains well as long as nothing stops the run.
        "warn" if lost else "fail",
        "a resumed run differs from one that was never stopped",
        expected="equal weights, bit for bit",
        actual=f"{len(names)} tensors differ after a restore and one window: {listed}"
        + kept_outside,
        fix="Something that training depends on is in no state_dict: counters of the "
        "model (use register_buffer), what the optimizer or scheduler keeps, "
        "parameters of the loss.",
    )


CHECK = Check(
    id="R12",
    title="A saved run resumes as if it had never stopped",
    why="A run lives longer than its session only if what was saved is all of it.",
    run=run,
    depth="rehearsal",
    needs=("R6",),
)
