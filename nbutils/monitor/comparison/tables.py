"""Rows of a comparison's tables as plain data."""

from __future__ import annotations

import statistics
from typing import Any

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.judging import Judgement
from nbutils.monitor.comparison.reading import ComparedRun

__all__ = ["cost_row", "group_row", "metric_row", "test_row"]


def metric_row(run: ComparedRun, group: str) -> dict[str, Any]:
    """How a run ended and its numbers: ``best_…`` at its best epoch, then ``final_…``.

    Numbers of the test stand once, under their own names.
    """
    row: dict[str, Any] = {
        "group": group,
        "seed": run.seed,
        "status": run.status,
        "stop_reason": run.record.stop_reason,
        "best_epoch": run.record.best.get("epoch"),
    }
    for name in dict.fromkeys((*run.best, *run.final)):
        if name.startswith("test_"):
            row[name] = run.best[name]
            continue
        row[f"best_{name}"] = run.best.get(name)
        row[f"final_{name}"] = run.final.get(name)
    return row


def cost_row(run: ComparedRun) -> dict[str, Any]:
    """What a run took."""
    view = run.record.view
    rates = [
        event["samples_per_s"]
        for event in run.record.events
        if event["kind"] == "step" and event.get("samples_per_s")
    ]
    return {
        "duration_s": round(run.record.seconds, 3),
        "steps": max(view.step, int(run.record.run.get("step") or 0)),
        "planned_steps": view.start.get("planned_steps"),
        "epochs": len(view.rows),
        "samples_per_s": round(statistics.median(rates), 1) if rates else None,
        "parameters": view.start.get("num_parameters"),
        "refused": view.num_refused,
        "resumes": view.num_resumes,
    }


def group_row(group: Group) -> dict[str, Any]:
    """Mean and scatter of a group."""
    return {
        "group": group.label.partition(":")[0],
        "label": group.label.partition(": ")[2],
        "n": group.n,
        "mean": group.mean,
        "std": group.std,
        "min": min(group.values, default=float("nan")),
        "max": max(group.values, default=float("nan")),
        "seeds": list(group.by_seed),
        "runs": [run.name for run in group.runs],
    }


def test_row(found: Judgement) -> dict[str, Any]:
    """Two groups against each other; ``p_…_holm`` are corrected and decide."""
    sample, pairs, decisive = found.sample, found.pairs, found.decisive
    nan = float("nan")

    def of(one: Any, name: str) -> float:
        return nan if one is None else getattr(one, name)

    return {
        "a": found.a.label.partition(":")[0],
        "b": found.b.label.partition(":")[0],
        "n_a": found.a.n,
        "n_b": found.b.n,
        "difference": found.b.mean - found.a.mean,
        "ci_low": of(decisive, "ci_low"),
        "ci_high": of(decisive, "ci_high"),
        "effect_size": of(decisive, "effect_size"),
        "p_welch": of(sample, "p_t"),
        "p_permutation": of(sample, "p_exact"),
        "p_paired_t": of(pairs, "p_t"),
        "p_sign_flip": of(pairs, "p_exact"),
        "decided_by": "pairs" if found.is_paired else "all values",
        "p_smallest": of(decisive, "floor"),
        "p_t_holm": found.p_t,
        "p_exact_holm": found.p_exact,
        "verdict": found.verdict,
        "text": found.text,
    }


test_row.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test
