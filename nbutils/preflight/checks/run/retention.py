"""Part of R12: over many saves the newest stay, by number, and the best is a copy."""

from __future__ import annotations

import torch

from nbutils.checkpoint.snapshot import Snapshot
from nbutils.checkpoint.store import BEST, CheckpointStore
from nbutils.preflight.check import Claims
from nbutils.preflight.rehearsal import Rehearsal

__all__ = ["judge_retention"]

STEPS = (1, 2, 9, 10, 11, 99, 100, 101, 999, 1000, 10_000, 120_000)
BEST_STEP = 99


def judge_retention(rehearsal: Rehearsal, claims: Claims) -> None:
    """Publish tiny snapshots at steps whose names sort unlike their numbers."""
    folder = rehearsal.folder / "retention"
    keep = rehearsal.config.checkpoint.keep_last
    store = CheckpointStore.of(rehearsal.config, folder, _tell_nobody)
    for step in STEPS:
        weights = {"step": torch.tensor([step])}
        state = {"parts": {}, "rng": {}, "model_extra": {}}
        snapshot = Snapshot(step, weights, {}, state)
        store.publish(snapshot, is_best=step == BEST_STEP)
    kept = [path.name for path in store.steps()]
    due = [f"step-{step:08d}" for step in STEPS[-keep:]]
    best = int(store.best().weights["step"])
    is_link = (store.folder / BEST).is_symlink()
    if kept == due and best == BEST_STEP and not is_link:
        claims.add(
            "pass",
            f"the newest {keep} of {len(STEPS)} saves and a copy of the best are kept",
        )
        return
    claims.add(
        "fail",
        "the wrong checkpoints are kept",
        expected=f"{', '.join(due)} and the best of step {BEST_STEP}",
        actual=f"{', '.join(kept)} and the best of step {best}",
        fix="Report this: retention must go by step number.",
    )


def _tell_nobody(_text: str) -> None:
    """What does not go as planned raises, or shows in what is kept."""
