"""Part of R3: a stream starts anew in each epoch, and goes on within one."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
import time
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.data.endless import judge_end
from nbutils.preflight.column import digest
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_repeats", "judge_restart"]

MAX_READ = 2000
MAX_SECONDS = 0.7
MAX_ELEMENTS = 2**22
ENDLESS = ("count", "cycle", "repeat")
FIX = "Make the iterator inside __iter__: every epoch needs its own."


def judge_restart(probe: Probe, split: str, claims: Claims) -> None:
    """A stream must start anew in each epoch; a kept iterator cannot."""
    data = _stream(probe, split)
    if data is None:
        return
    first, second = iter(data), iter(data)
    kind = type(data).__name__
    if first is second and first is not data:
        claims.add(
            "fail",
            f"the stream of '{split}' cannot start anew",
            expected="a new iterator from each call of __iter__",
            actual=f"{kind}.__iter__ gave one and the same "
            f"{type(first).__name__} twice",
            fix=FIX,
        )
        return
    kept = [name for name, value in vars(data).items() if isinstance(value, Iterator)]
    name = next((n for n in kept if not _is_endless(vars(data)[n])), None)
    is_met_twice = split != "train" or probe.config.train.epochs != 1
    if name is None or not is_met_twice:
        return
    count = _second_pass(data)
    if count == 0 or (count is None and isinstance(vars(data)[name], GeneratorType)):
        claims.add(
            "fail" if count == 0 else "warn",
            f"the stream of '{split}' is used up after one epoch",
            expected="the same samples in each epoch",
            actual=f"{kind} keeps a {type(vars(data)[name]).__name__} in "
            f"'{name}', which ends once for all"
            + ("; a second pass gave no sample" if count == 0 else ""),
            fix=FIX,
        )


def _stream(probe: Probe, split: str) -> Any | None:
    data = probe.task.dataset(split) if probe.data.has(split) else None
    data = data.dataset if isinstance(data, DataLoader) else data
    return data if isinstance(data, IterableDataset) else None


def _second_pass(data: Any) -> int | None:
    """Samples of a second pass over a copy, at most one; none if it cannot be told."""
    held = [v for v in vars(data).values() if isinstance(v, torch.Tensor)]
    if sum(value.numel() for value in held) > MAX_ELEMENTS:
        return None
    twin, error = attempt(lambda: copy.deepcopy(data))
    if error is not None:
        return None
    deadline = time.perf_counter() + MAX_SECONDS
    for number, _ in enumerate(iter(twin)):
        if number > MAX_READ or time.perf_counter() > deadline:
            return None
    return sum(1 for _ in zip(range(1), iter(twin), strict=False))


def _is_endless(value: Any) -> bool:
    """Whether an iterator gives values for ever, or cannot be told not to."""
    if isinstance(value, GeneratorType):
        code = value.gi_code
        source, error = attempt(lambda: inspect.getsource(code))
        tree, problem = attempt(lambda: ast.parse(textwrap.dedent(source)))
        if error is not None or problem is not None:
            return True
        return any(map(_is_endless_node, ast.walk(tree)))
    return type(value).__name__ in ENDLESS


def _is_endless_node(node: ast.AST) -> bool:
    if isinstance(node, ast.While):
        return True
    name = getattr(node, "attr", None) or getattr(node, "id", None)
    return name in ENDLESS


def judge_repeats(probe: Probe, claims: Claims) -> None:
    """The first batches of a stream are not one and the same; it ends."""
    for split in ("train", "val"):
        data = _stream(probe, split)
        if data is not None:
            judge_end(probe, split, data, claims)
    if _stream(probe, "train") is None:
        return
    batches = probe.data.first("train")
    prints = {tuple(digest(t) for _, t in tensors(batch)) for batch in batches}
    if len(batches) < 3 or len(prints) > 1 or not next(iter(prints)):
        return
    claims.add(
        "warn",
        "the stream gives one and the same batch again and again",
        expected="batches that differ",
        actual=f"the first {len(batches)} batches are equal",
        fix="Look at __iter__: does its position move, and does each sample differ?",
    )
