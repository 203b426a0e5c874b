"""Part of R1: what validates and tests has not been trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples, share_text, used_rows

__all__ = ["judge_splits"]

MIN_TRAIN = 64
MIN_WHOLE = 100
"""Below, data is as often a sketch, or is to be overfitted on purpose, as it is real;
above all where a whole split is in train."""
MIN_ELEMENTS = 4
"""Points of a line or a plane are looked up again where they were fitted."""
MIN_OTHER = 8
MIN_SHARED = 3
MIN_SHARE = 0.03
DECLARATION = "validation is train"
FIX = (
    "Split once, by sample, before anything is copied or augmented; or declare "
    f'"{DECLARATION}".'
)


def judge_splits(samples: Samples, claims: Claims) -> None:
    """Samples that are in train as well as in another split."""
    for split in ("val", "test"):
        if not samples.probe.data.has(split):
            continue
        if DECLARATION in samples.probe.task.declares:
            claims.add("pass", f"{split} may hold training samples, as declared")
        elif not _judge_rows(samples, split, claims) and not samples.is_made_up:
            _judge_files(samples, split, claims)
            _judge_content(samples, split, claims)


def _judge_rows(samples: Samples, split: str, claims: Claims) -> bool:
    """Whether both splits draw on one dataset object, and then which rows they share.

    A dataset that makes up each sample anew has no rows to share.
    """
    ours, theirs = (used_rows(samples.probe, name) for name in ("train", split))
    if ours is None or theirs is None or ours[0] is not theirs[0]:
        return False
    table = samples.table(split)
    if table is not None and samples.changing(split) >= set(table.columns):
        return True
    shared = sorted(ours[1] & theirs[1])
    same = shared and len(shared) == len(theirs[1]) == len(ours[1])
    where = f"first shared: row {shared[0]}" if shared else ""
    text = f"{share_text(len(shared), len(theirs[1]))} rows of {split} are in train"
    _tell(
        claims,
        f"{split} is train: the very same samples"
        if same
        else f"{split} shares samples with train",
        f"{text}; {where}".rstrip("; "),
        split,
        len(shared),
        len(theirs[1]),
        len(ours[1]),
    )
    return bool(shared)


def _judge_files(samples: Samples, split: str, claims: Claims) -> None:
    """Files that both splits list, whatever their transforms make of them."""
    ours, theirs = _files(samples, "train"), _files(samples, split)
    shared = [name for name in theirs if name in set(ours)]
    if not shared:
        return
    text = share_text(len(shared), len(theirs))
    _tell(
        claims,
        f"{split} reads files of train",
        f"{text} files of {split} are listed by train as well; {shared[0]} is one",
        split,
        len(shared),
        len(theirs),
        len(ours),
    )


def _files(samples: Samples, split: str) -> list[str]:
    """The files that a dataset lists, one a sample; none where it lists none."""
    found = used_rows(samples.probe, split)
    if found is None:
        return []
    data, rows = found
    for value in getattr(data, "__dict__", {}).values():
        if not isinstance(value, (list, tuple)) or len(value) != len(data):
            continue
        names = [v[0] if isinstance(v, (list, tuple)) and v else v for v in value]
        if all(isinstance(n, (str, Path)) for n in names) and "/" in str(names[0]):
            return [str(names[row]) for row in sorted(rows)]
    return []


def _judge_content(samples: Samples, split: str, claims: Claims) -> None:
    """Exact copies of inputs and targets, beyond those that chance explains."""
    paths = list(dict.fromkeys([*samples.inputs, *samples.targets]))
    ours, theirs = samples.all_keys("train", paths), samples.keys(split, paths)
    train, other = samples.table("train"), samples.table(split)
    columns = [samples.column("train", path) for path in samples.inputs]
    if sum(column.num_elements for column in columns if column) < MIN_ELEMENTS:
        return
    if not ours or not theirs or train is None or other is None:
        return
    counts = Counter(ours)
    hits = [number for number, key in enumerate(theirs) if key in counts]
    coverage = min(len(ours) / max(train.num_samples, 1), 1.0)
    share = len(hits) / len(theirs) / coverage
    own = sum(count for count in counts.values() if count > 1) / len(ours)
    is_varied = samples.is_varied(samples.inputs, floats_only=True)
    by_chance = not is_varied and share <= 3 * own + 0.02
    if by_chance or share < MIN_SHARE:
        if hits:
            text = share_text(len(hits), len(theirs))
            claims.show([(f"{split} samples with a copy in train", text)])
        return
    column = samples.column(split, paths[0])
    index = column.indices[hits[0]] if column else hits[0]
    is_all = len(hits) == len(theirs) and coverage == 1
    text = f"{share_text(len(hits), len(theirs))} {split} samples are in train as well"
    if coverage < 1:
        text += f", of which {len(ours):,} of {train.num_samples:,} were read"
    _tell(
        claims,
        f"every {split} sample is a training sample"
        if is_all
        else f"{split} samples are copies of training samples",
        f"{text}; {split}[{index}] is one",
        split,
        len(hits),
        len(theirs),
        train.num_samples * (2 if train.is_stream else 1),  # a stream goes on
    )


def _tell(
    claims: Claims,
    title: str,
    actual: str,
    split: str,
    num_shared: int,
    num_other: int,
    num_train: int,
) -> None:
    least = MIN_WHOLE if num_shared == num_other else MIN_TRAIN
    is_clear = num_train >= least and num_other >= MIN_OTHER
    if num_shared < MIN_SHARED or num_shared < MIN_SHARE * num_other or not is_clear:
        if num_shared:
            claims.show([(f"{split} against train", actual)])
        else:
            claims.add("pass", f"{split} shares no sample with train")
        return
    claims.add(
        "warn",
        title,
        expected=f"{split} samples that the model has not seen",
        actual=actual,
        fix=FIX,
    )
