"""What to know about runs before their numbers are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.reading import ComparedRun

__all__ = ["notes_of"]


def notes_of(
    runs: Sequence[ComparedRun], groups: Sequence[Group], metric: str
) -> list[tuple[str, str]]:
    """``("fail" | "warn" | "info", sentence)``, the gravest first."""
    found = [
        *_ends(runs),
        *_lacking(groups, metric),
        *_repeats(groups),
        *_formats(runs),
        *_chosen(runs, metric),
    ]
    order = {"fail": 0, "warn": 1, "info": 2}
    return sorted(found, key=lambda note: order[note[0]])


def _ends(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, str]]:
    for run in runs:
        if run.is_whole:
            continue
        planned = run.record.view.start.get("planned_steps")
        of = f" of {planned:,} planned" if planned else ""
        steps = f"{run.record.view.step:,} steps{of}"
        why = "" if run.status == "killed" else f" ({run.record.stop_reason})"
        yield "warn", f"{run.name} is {run.status}{why}: {steps}. It may not be done."


def _lacking(groups: Sequence[Group], metric: str) -> Iterator[tuple[str, str]]:
    names = [name for group in groups for name in group.left_out]
    if names:
        yield (
            "warn",
            f"{metric} is missing or not finite in {', '.join(names)}; means and tests "
            "leave them out, which flatters a setting that diverges.",
        )


def _repeats(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    for group in groups:
        extra = len(group.runs) - len(group.left_out) - group.n
        if extra > 0:
            letter = group.label.partition(":")[0]
            yield (
                "info",
                f"Group {letter} has a seed more than once; each seed counts once, "
                "with the mean of its runs.",
            )


def _formats(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, str]]:
    for key, what in (("device", "devices"), ("precision", "number formats")):
        found = {str(run.record.view.start.get(key, "-")) for run in runs}
        if len(found) > 1:
            listed = " and ".join(sorted(found))
            yield "info", f"Runs on different {what} ({listed})."


def _chosen(runs: Sequence[ComparedRun], metric: str) -> Iterator[tuple[str, str]]:
    monitored = {run.monitor[0] for run in runs}
    if metric in monitored and metric.startswith("val_"):
        yield (
            "info",
            f"{metric} is the value at each run's best epoch, which was chosen by it: "
            "a little better than new data would give. test_… is free of that.",
        )
    elif metric.startswith("test_"):
        yield "info", f"{metric} is as it was last measured on the test split."
        weights = {str(run.record.run.get("test_weights")) for run in runs}
        if len(weights) > 1:
            listed = " and ".join(sorted(weights))
            yield "warn", f"{metric} was measured with different weights: {listed}."
    else:
        by = " or ".join(sorted(monitored))
        yield "info", f"{metric} is the value at each run's best epoch by {by}."
