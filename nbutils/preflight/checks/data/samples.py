"""R1: the samples are what they seem: real, split cleanly, labelled, in scale."""

from __future__ import annotations

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.data.answers import judge_answers
from nbutils.preflight.checks.data.filled import judge_filled
from nbutils.preflight.checks.data.labels import judge_labels
from nbutils.preflight.checks.data.lag import judge_lag
from nbutils.preflight.checks.data.near_copies import judge_near_copies
from nbutils.preflight.checks.data.numbering import judge_numbering
from nbutils.preflight.checks.data.placeholders import judge_placeholders
from nbutils.preflight.checks.data.preparation import judge_preparation
from nbutils.preflight.checks.data.rereading import judge_rereading, judge_written
from nbutils.preflight.checks.data.row_numbers import judge_row_numbers
from nbutils.preflight.checks.data.scale import judge_scale
from nbutils.preflight.checks.data.splits import judge_splits
from nbutils.preflight.checks.data.windows import judge_windows
from nbutils.preflight.probe import Probe
from nbutils.preflight.samples import Samples

__all__ = ["CHECK"]

PARTS = (
    judge_placeholders,
    judge_splits,
    judge_near_copies,
    judge_windows,
    judge_labels,
    judge_numbering,
    judge_row_numbers,
    judge_filled,
    judge_written,
    judge_rereading,
    judge_answers,
    judge_preparation,
    judge_scale,
    judge_lag,
)


def run(probe: Probe, claims: Claims) -> None:
    """Judge the rows of each split, one question after the other."""
    samples = Samples(probe)
    table = samples.table("train")
    if table is None:
        claims.add("skip", "no training sample could be read")
        return
    for judge in PARTS:
        if probe.seconds_left < 0:
            claims.add("skip", f"{judge.__name__}: not judged, reading took long")
            continue
        judge(samples, claims)
    claims.add(
        "pass",
        "the samples hold together",
        expected="inputs of their own, clean splits, labels of every class",
        actual=f"{table.text} of train were read",
    )


CHECK = Check(
    id="R1",
    title="Samples are real, split cleanly and labelled in order",
    why="A model trains on placeholders or leaked rows as gladly as on data, and its "
    "numbers look fine.",
    run=run,
    needs=("R3",),
)
