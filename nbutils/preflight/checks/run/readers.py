"""Part of R11: a file that cannot be read is told, not replaced by made-up data."""

from __future__ import annotations

import builtins
import copy
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Claims
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_readers"]

NEIGHBOURS = (-2, -1, 1, 2)


def judge_readers(probe: Probe, claims: Claims) -> None:
    """Read one sample while no file can be opened."""
    data, loader = probe.data.samples("train"), probe.data.loader("train")
    if data is None or not isinstance(loader, OrderedLoader):
        return
    index = loader.indices(0)[0]
    whole, error = attempt(lambda: _read(probe, data, index))
    if error is not None:
        return  # R2 tells
    with _no_files() as refused:
        broken, error = attempt(lambda: _read(probe, data, index))
        if not refused:
            return  # it reads no file here
        if error is not None:
            claims.add("pass", "a file that cannot be read raises")
            return
        again, _ = attempt(lambda: _read(probe, data, index, shift=1))
    if _same(broken, whole) or not _values(broken):
        return  # kept in memory
    near = [index + step for step in NEIGHBOURS if 0 <= index + step < len(data)]
    if any(_same(broken, attempt(lambda n=n: _read(probe, data, n))[0]) for n in near):
        claims.show([("unreadable files", "the dataset takes another sample instead")])
        return
    kind = _kind(broken, whole, again)
    if not kind:
        return
    claims.add(
        "warn",
        f"a sample that cannot be read is replaced by {kind}",
        expected="the error of reading it",
        actual=f"sample {index} was read without an error though no file could be "
        f"opened: {kind}",
        fix="Take the try/except out of the dataset, or raise again with the file's "
        "name. Leave broken files out of the list once, and count them.",
    )


def _read(probe: Probe, data: Any, index: int, shift: int = 0) -> Any:
    seed_everything(probe.seed + shift)
    return copy.deepcopy(data[index])


@contextmanager
def _no_files() -> Iterator[list[str]]:
    """No file opens for reading, in this thread; gives the names that were tried."""
    real, own = builtins.open, threading.get_ident()
    refused: list[str] = []

    def refuse(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        is_reading = isinstance(mode, str) and "r" in mode
        if threading.get_ident() != own or not is_reading or isinstance(file, int):
            return real(file, mode, *args, **kwargs)
        refused.append(str(file))
        raise OSError(5, "preflight lets no file open here", str(file))

    builtins.open = io.open = refuse  # type: ignore[assignment]
    try:
        yield refused
    finally:
        builtins.open = io.open = real


def _values(sample: Any) -> dict[str, Tensor]:
    """The numeric tensors of a sample that have more than one value."""
    found = {}
    for path, tensor in tensors(_as_tensors(sample)):
        if tensor.numel() > 1 and tensor.layout is torch.strided:
            found[path] = tensor
    return found


def _as_tensors(value: Any) -> Any:
    """The sample with arrays and pictures as tensors."""
    if isinstance(value, (list, tuple)):
        return [_as_tensors(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
        return torch.from_numpy(array.copy()) if array.dtype.kind in "biuf" else None
    return value


def _same(one: Any, other: Any) -> bool:
    a, b = _values(one), _values(other)
    if not a or a.keys() != b.keys():
        return False
    return all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def _kind(broken: Any, whole: Any, again: Any) -> str:
    """Made-up data in words; empty where it may be something else."""
    a, b = _values(broken), _values(whole)
    constant = [k for k, t in a.items() if bool((t == t.flatten()[0]).all())]
    varied = [k for k, t in b.items() if not bool((t == t.flatten()[0]).all())]
    if set(constant) & set(varied):
        key = next(k for k in constant if k in varied)
        return f"a constant ({float(a[key].flatten()[0].abs()):.4g} everywhere)"
    if not _same(broken, again) and a.keys() == _values(again).keys():
        return "random numbers"
    return ""
