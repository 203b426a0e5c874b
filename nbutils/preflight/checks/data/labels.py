"""Part of R1: classes of the splits against each other, and the order they come in."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_labels"]

MIN_READ = 16
SURPRISE = 1e-3
MISSING_SHARE = 0.3
MAX_CLASSES = 2000
ORDERED = 0.15
"""Share of the changes of class of a random order, below which one is sorted."""


def judge_labels(samples: Samples, claims: Claims) -> None:
    """Coverage and order of the classes, and targets of another kind than wanted."""
    _judge_range(samples, claims)
    _judge_cut(samples, claims)
    train, val = samples.labels("train"), samples.labels("val")
    table = samples.table("train")
    if train is None or table is None or len(train) < 2:
        return
    counts = Counter(train.tolist())
    if len(counts) > min(MAX_CLASSES, len(train) / 2):
        return  # hardly classes
    text = ", ".join(f"{label}: {counts[label]}" for label in sorted(counts)[:12])
    claims.show([("training samples of each class", text)])
    _judge_head(samples, counts, claims)
    if len(counts) == 1:
        if samples.roles.targets and len(train) >= MIN_READ:
            _note_single(samples, "train", train, claims)
        return
    if val is not None and len(val) and samples.probe.data.has("val"):
        _judge_val(samples, counts, Counter(val.tolist()), claims)
    _judge_order(samples, train, claims)


def _note_single(samples: Samples, split: str, labels: Tensor, claims: Claims) -> None:
    table = samples.table(split)
    read = table.text if table is not None else "samples"
    is_stream = table is not None and table.is_stream
    claims.add(
        "warn",
        f"{split} begins with samples of one class only"
        if is_stream
        else f"{split} holds one class only",
        expected="at least two classes",
        actual=f"every label is {int(labels[0])} in {read}",
        fix="Look at how labels are read and at how the data were split: a sorted "
        "set needs a shuffled or stratified split, a stream a shuffle buffer.",
    )


def _judge_head(samples: Samples, counts: Counter[int], claims: Claims) -> None:
    call = samples.roles.targets.get(samples.label or "")
    if call is None or call.kind == "binary cross-entropy" or call.outputs.ndim < 2:
        return
    num_outputs = call.outputs.shape[1]
    unseen = sorted(set(range(num_outputs)) - set(counts))
    if unseen:
        shown = ", ".join(map(str, unseen[:10])) + (" …" if len(unseen) > 10 else "")
        text = f"{len(unseen)} of {num_outputs}: {shown}"
        claims.show([("outputs without a training sample", text)])


def _judge_val(
    samples: Samples, train: Counter[int], val: Counter[int], claims: Claims
) -> None:
    """Classes of one split only, as far as chance does not explain them.

    If samples were dealt at random, all of a class fall on one side with a chance that
    shrinks with each of them.
    """
    table, other = samples.table("train"), samples.table("val")
    if table is None or other is None:
        return
    num_train, num_val = train.total(), val.total()
    to_val = num_val / (num_train + num_val)
    foreign = {c: n for c, n in val.items() if c not in train and c >= 0}
    unexpected = {c: n for c, n in foreign.items() if to_val**n < SURPRISE / len(val)}
    if unexpected and len(train) > 1:
        shown = ", ".join(map(str, sorted(unexpected)[:8]))
        amount = sum(unexpected.values())
        claims.add(
            "warn",
            "val has classes that train never shows",
            expected="each class of val in train",
            actual=f"{share_text(amount, num_val)} val samples are of classes {shown}; "
            f"none of {num_train:,} training samples is",
            fix="Split at random or by class (stratified), and check that both splits "
            "number their classes alike.",
        )
        return
    if foreign:
        claims.show([("classes of val alone", ", ".join(map(str, sorted(foreign))))])
    missing = {c: n for c, n in train.items() if c not in val}
    share = sum(missing.values()) / num_train
    if missing:
        shown = ", ".join(map(str, sorted(missing)[:12]))
        claims.show([("classes without a val sample", shown)])
    if share >= MISSING_SHARE and (1 - share) ** num_val < SURPRISE / 10:
        claims.add(
            "warn",
            "val holds one class only" if len(val) == 1 else "val misses classes",
            expected="every class in val",
            actual=f"{len(missing)} of {len(train)} classes, {share:.0%} of the "
            f"training samples, are in none of {num_val:,} val samples",
            fix="Split at random or by class (stratified); the end of a sorted set "
            "holds the last classes only.",
        )


def _judge_order(samples: Samples, labels: Tensor, claims: Claims) -> None:
    """Batches of one class, where the order is not mixed."""
    column = samples.column("train", samples.label or "")
    table = samples.table("train")
    loader = samples.probe.data.loader("train")
    if column is None or table is None:
        return
    if isinstance(loader, OrderedLoader):
        if loader.plan.shuffle:
            claims.add("pass", "training samples are mixed anew in each epoch")
            return
        labels = labels[column.by_index]
        size = loader.plan.batch_size * len(labels) / table.num_samples
    elif samples.probe.data.pool("train") is None:
        size = float(samples.probe.data.configured_size)
    else:
        return  # a sampler of its own mixes
    changes, chance = _changes(labels)
    is_sorted = chance > 10 and changes < ORDERED * chance
    if not is_sorted or size * 2 > len(labels) or len(labels) < size / 4 * changes:
        return
    claims.add(
        "warn",
        "training samples come sorted by class, unshuffled",
        expected="classes mixed in each batch",
        actual=f"the class changes {changes} times in {len(labels)} samples in the "
        f"order of the run; mixed, it would about {chance:.0f} times",
        fix="Set shuffle=True, or mix the stream (a shuffle buffer).",
    )


def _changes(labels: Tensor) -> tuple[int, float]:
    """How often neighbours differ in class, and how often they would if mixed."""
    num = len(labels)
    _, counts = torch.unique(labels, return_counts=True)
    same = float((counts / num).square().sum())
    return int((labels[1:] != labels[:-1]).sum()), (num - 1) * (1 - same)


def _judge_range(samples: Samples, claims: Claims) -> None:
    """Targets of a binary cross-entropy lie between 0 and 1."""
    for path, call in samples.roles.targets.items():
        if call.kind != "binary cross-entropy" or call.reduction == "none":
            continue
        low, high = float(call.targets.min()), float(call.targets.max())
        if low < 0 or high > 1:
            claims.add(
                "warn",
                "binary cross-entropy wants targets from 0 to 1, it gets others",
                expected="targets from 0 to 1",
                actual=f"'{path}' holds {low:g} to {high:g}; the loss has no lower end",
                fix="Map the labels: (y + 1) / 2 for -1 and 1, or y > 0.",
            )


def _judge_cut(samples: Samples, claims: Claims) -> None:
    """Fractions that a conversion to whole numbers cuts off."""
    for path, call in samples.roles.cut.items():
        column = samples.column("train", path)
        if column is None or column.table is None:
            continue
        values = column.table
        share = float((values != values.round()).float().mean())
        if share > 0:
            claims.add(
                "warn",
                f"labels lose their fractions on the way to the {call.kind}",
                expected="class numbers: 0, 1, 2 …",
                actual=f"{share:.0%} of '{path}' are no whole numbers, such as "
                f"{float(values[values != values.round()][0]):.4g}; the loss gets "
                "them cut to integers",
                fix="Leave labels out of scaling and normalisation, and convert "
                "them to class numbers when they are read.",
            )
