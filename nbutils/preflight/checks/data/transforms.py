"""R2: samples keep one form, and validation data do not change between readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbutils.data.collate import collate
from nbutils.data.graphs import is_graph
from nbutils.data.task import SPLITS
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe
from nbutils.preflight.roles import find_roles
from nbutils.preflight.samples import used_rows
from nbutils.preflight.scan import Scan, leaves, shape_text

__all__ = ["CHECK"]

NUM_TWICE = 12
SLACK = 0.05


def run(probe: Probe, claims: Claims) -> None:
    """Judge the samples of each split."""
    scans = {split: probe.data.scan(split) for split in SPLITS if probe.data.has(split)}
    for split, found in scans.items():
        if found is None:
            claims.add("skip", f"{split} is a stream; its samples are seen in batches")
            continue
        _judge_readable(split, found, claims)
        _judge_shapes(probe, split, found, claims)
    train, val = scans.get("train"), scans.get("val")
    if train is not None and val is not None:
        _judge_same_form(probe, train, val, claims)
    if val is not None and not val.unreadable:
        _judge_repeatable(probe, claims)
    if train is not None:
        _judge_model_data(probe, train, claims)


def _judge_readable(split: str, found: Scan, claims: Claims) -> None:
    for index, error in list(found.unreadable.items())[:3]:
        claims.add(
            "fail",
            f"sample {index} of {split} cannot be read",
            expected="every sample is read",
            actual=f"{split}[{index}]: {error}",
            fix="Mend the dataset's __getitem__, or leave the sample out.",
        )
    for path, by_shape in found.shapes.items():
        if "NoneType" in by_shape:
            claims.add(
                "fail",
                f"sample {by_shape['NoneType']} of {split} holds None at '{path}'",
                expected="a value in each sample",
                actual=f"None at '{path}' of {split}[{by_shape['NoneType']}]",
                fix="Raise in the dataset, or leave the sample out of its index.",
            )


def _judge_shapes(probe: Probe, split: str, found: Scan, claims: Claims) -> None:
    """Samples of one shape, where nothing but stacking can batch them."""
    stacks = probe.data.loader(split).plan.collate is collate  # type: ignore[attr-defined]
    sample = None if found.unreadable else probe.data.samples(split)[0]  # type: ignore[index]
    stacks = stacks and not _holds_graph(sample)
    mixed = {path: s for path, s in found.shapes.items() if len(s) > 1}
    for path, by_shape in found.shapes.items():
        text = " or ".join(f"{s} (sample {i})" for s, i in list(by_shape.items())[:4])
        claims.show([(f"{split} sample {path}", text)])
    for path, by_shape in mixed.items():
        arrays = all("(" in shape for shape in by_shape)
        if stacks and arrays:
            claims.add(
                "fail",
                f"samples of {split} differ in shape at '{path}'",
                expected="one shape for all samples, or a collate= that pads",
                actual=" and ".join(
                    f"{shape} in sample {i}" for shape, i in list(by_shape.items())[:4]
                ),
                fix="Crop, resize or pad in the dataset, or pass collate=.",
            )
    if found.num_read and not found.unreadable and not (mixed and stacks):
        claims.add(
            "pass",
            f"{split} samples fit together ({found.text})",
            expected="one form for all samples",
            actual=f"{split}: {found.text} read, one form",
        )


def _holds_graph(value: Any) -> bool:
    if is_graph(value):
        return True
    if isinstance(value, Mapping):
        return any(map(_holds_graph, value.values()))
    return isinstance(value, (tuple, list)) and any(map(_holds_graph, value))


def _judge_same_form(probe: Probe, train: Scan, val: Scan, claims: Claims) -> None:
    """Inputs of val are like those of train; labels may be shares in one of them."""
    targets = set(find_roles(probe).targets)
    for path, by_shape in train.shapes.items():
        other = val.shapes.get(path)
        if len(by_shape) != 1 or other is None or len(other) != 1:
            continue
        ours, theirs = next(iter(by_shape)), next(iter(other))
        if ours == theirs or "(" not in ours or "(" not in theirs:
            continue
        if path in targets:
            claims.show([(f"'{path}'", f"{ours} in train, {theirs} in val")])
            continue
        claims.add(
            "warn",
            f"train and val samples differ at '{path}'",
            expected=f"val like train: {ours}",
            actual=f"val: {theirs}",
            fix="Give both splits the same size and dtype, unless it is meant.",
        )


def _judge_repeatable(probe: Probe, claims: Claims) -> None:
    """Read validation samples twice.

    Where some parts stay, a random transform is at work on the others. Where every
    part changes, the data are made up on the fly, as in episodes or pairs of views.
    """
    data = probe.data.samples("val")
    if data is None or "random validation" in probe.task.declares:
        return
    changed: set[str] = set()
    paths: set[str] = set()
    for number in range(NUM_TWICE):
        index = number * len(data) // NUM_TWICE
        first, second = dict(leaves(data[index])), dict(leaves(data[index]))
        paths.update(first)
        changed.update(p for p, v in first.items() if not _equal(v, second.get(p)))
    if not changed:
        claims.add("pass", "validation samples are the same when read twice")
        return
    roles = find_roles(probe)
    targets, inputs = set(roles.targets), set(roles.inputs)
    if targets & changed and not inputs & changed:
        _note_labels(sorted(targets & changed), claims)
        return
    if changed == paths or not targets or targets & changed:
        told = ", ".join(map(repr, sorted(changed)))
        claims.show([("drawn anew when a val sample is read", told)])
        return
    is_shared = _is_shared(probe)
    claims.add(
        "warn",
        "validation samples change between two readings"
        + ("; val and train share one dataset object" if is_shared else ""),
        expected="the same sample twice"
        + (", from a dataset with a transform of its own" if is_shared else ""),
        actual=f"val samples differ at {', '.join(map(repr, sorted(changed)))} when "
        "they are read again",
        fix="Use a transform without randomness for val_data, in a dataset of its "
        'own; or declare "random validation".',
    )


def _is_shared(probe: Probe) -> bool:
    """Whether both splits are parts of one dataset, and so get one transform."""
    ours, theirs = used_rows(probe, "train"), used_rows(probe, "val")
    return ours is not None and theirs is not None and ours[0] is theirs[0]


def _note_labels(paths: list[str], claims: Claims) -> None:
    claims.add(
        "warn",
        "validation labels change when a sample is read again",
        expected="one label for each sample",
        actual=f"{', '.join(map(repr, paths))} of val differs between two readings of "
        "one index, the input does not",
        fix="Look for a random label in the dataset: draw labels once and store them.",
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (Tensor, np.ndarray)) and isinstance(b, (Tensor, np.ndarray)):
        if shape_text(a) != shape_text(b):
            return False
        x, y = torch.as_tensor(a), torch.as_tensor(b)
        if x.layout != torch.strided:
            return True
        both_nan = (x != x) & (y != y)
        return bool(((x == y) | both_nan).all())
    if isinstance(a, (str, bytes, bool, int, float)):
        return a == b or (a != a and b != b)
    return True  # objects without a value of their own cannot be compared


def _judge_model_data(probe: Probe, train: Scan, claims: Claims) -> None:
    """What a recipe says about its model's input, against what arrives."""
    wanted = probe.task.extras.get("data_config")
    path = next(iter(train.shapes), None)
    if not wanted or path is None or len(train.shapes[path]) != 1:
        return
    shape = next(iter(train.shapes[path]))
    size = tuple(wanted.get("input_size", ()))
    if size and not shape.endswith(f"({', '.join(map(str, size))})"):
        claims.add(
            "fail",
            "samples do not have the size that the model was made for",
            expected=f"{size} (the model's data config)",
            actual=f"'{path}': {shape}",
            fix="Build the transform from the model's data config, or set image_size.",
        )
    _judge_range(wanted, path, train, claims)


def _judge_range(
    wanted: Mapping[str, Any], path: str, train: Scan, claims: Claims
) -> None:
    mean, std, seen = wanted.get("mean"), wanted.get("std"), train.values.get(path)
    if not mean or not std or seen is None:
        return
    pairs = list(zip(mean, std, strict=True))
    low = min((0 - m) / s for m, s in pairs)
    high = max((1 - m) / s for m, s in pairs)
    slack = SLACK * (high - low)
    text = f"values {seen[0]:.3g} to {seen[1]:.3g}"
    allowed = f"values {low:.3g} to {high:.3g}, from mean {mean} and std {std}"
    if seen[0] < low - slack or seen[1] > high + slack:
        claims.add(
            "fail",
            "inputs are not normalised with the model's mean and std",
            expected=allowed,
            actual=text,
            fix="Normalise with the mean and std of the model's data config.",
        )
    elif seen[0] >= 0 and low < -0.5:
        claims.add(
            "warn",
            "inputs look as if they were not normalised",
            expected=allowed,
            actual=f"{text}: none is negative",
            fix="Normalise with the mean and std of the model's data config.",
        )


CHECK = Check(
    id="R2",
    title="Samples keep one form, and validation does not change",
    why="A transform that differs by sample or by reading makes metrics meaningless.",
    run=run,
)
