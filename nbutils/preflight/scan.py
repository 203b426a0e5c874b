"""Statistics over the samples of a dataset, within a budget of samples and time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbutils.data.batch import batch_size, join, parts, tensors
from nbutils.preflight.blame import quote
from nbutils.preflight.column import Column

__all__ = ["Extent", "Scan", "leaves", "scan", "scan_batches", "shape_text"]

MAX_SAMPLES = 1024
MAX_SECONDS = 0.9
MIN_SAMPLES = 8


@dataclass(slots=True)
class Extent:
    """Smallest and largest integer at a path, and the samples that hold them."""

    low: int
    low_index: int
    high: int
    high_index: int

    def add(self, low: int, high: int, index: int) -> None:
        """Widen the extent by one sample."""
        if low < self.low:
            self.low, self.low_index = low, index
        if high > self.high:
            self.high, self.high_index = high, index


@dataclass(slots=True)
class Scan:
    """What the samples of a split hold.

    Args:
        num_samples: Samples in the split.
        num_read: Samples that were read.
        shapes: Path -> dtype and shape -> first sample that has it.
        extents: Path -> range of the integers there.
        values: Path -> smallest and largest finite float, per first axis if it is 3-D.
        not_finite: Path -> samples with NaN or Inf.
        unreadable: Sample -> what reading it raised.
        columns: Path -> what the samples hold there, row by row.
        is_stream: Whether it is the beginning of a stream, of unknown length.
    """

    num_samples: int
    num_read: int = 0
    shapes: dict[str, dict[str, int]] = field(default_factory=dict)
    extents: dict[str, Extent] = field(default_factory=dict)
    values: dict[str, tuple[float, float]] = field(default_factory=dict)
    not_finite: dict[str, list[int]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    is_stream: bool = False

    def add(self, index: int, sample: Any) -> None:
        """Take one sample into account."""
        self.num_read += 1
        for path, value in leaves(sample):
            self.shapes.setdefault(path, {}).setdefault(shape_text(value), index)
            self.columns.setdefault(path, Column()).add(index, value)
            if isinstance(value, (Tensor, np.ndarray)):
                self._add_array(path, torch.as_tensor(value), index)
            elif isinstance(value, int):
                self._add_integers(path, value, value, index)
            elif isinstance(value, float):
                self._add_floats(path, torch.tensor(value), index)

    def _add_array(self, path: str, array: Tensor, index: int) -> None:
        if not array.numel() or array.layout != torch.strided:
            return
        if array.is_floating_point() or array.is_complex():
            self._add_floats(path, array.detach(), index)
        elif array.dtype != torch.bool:
            self._add_integers(path, int(array.min()), int(array.max()), index)

    def _add_integers(self, path: str, low: int, high: int, index: int) -> None:
        extent = self.extents.setdefault(path, Extent(low, index, high, index))
        extent.add(low, high, index)

    def _add_floats(self, path: str, array: Tensor, index: int) -> None:
        if not bool(torch.isfinite(array).all()):
            self.not_finite.setdefault(path, []).append(index)
        elif not array.is_complex():
            low, high = (float(value) for value in torch.aminmax(array))
            old = self.values.get(path, (low, high))
            self.values[path] = (min(old[0], low), max(old[1], high))

    @property
    def is_whole(self) -> bool:
        """Whether every sample was read."""
        return self.num_read == self.num_samples and not self.is_stream

    @property
    def text(self) -> str:
        """How much was read."""
        if self.is_stream:
            return f"{self.num_read} samples at the beginning of the stream"
        return f"{self.num_read} of {self.num_samples} samples"


def scan(data: Any, rows: Sequence[int] | None = None) -> Scan:
    """Read an indexed dataset: all of it if small, else an even choice of samples.

    Args:
        data: Something indexed.
        rows: The samples of it that are used; none: all.
    """
    result = Scan(len(data) if rows is None else len(rows))
    deadline = time.perf_counter() + MAX_SECONDS
    chosen = _choose(result.num_samples)
    for number, index in enumerate(c if rows is None else rows[c] for c in chosen):
        if number >= MIN_SAMPLES and time.perf_counter() > deadline:
            break
        try:
            result.add(index, data[index])
        except Exception as error:  # any reader may raise anything; it is reported
            result.unreadable[index] = quote(error)
            if len(result.unreadable) >= MIN_SAMPLES:
                break
    return result


def scan_batches(batches: Sequence[Any]) -> Scan:
    """Rows of the tensors of some batches, numbered from 0, as if they were samples."""
    result = Scan(0, is_stream=True)
    for batch in batches:
        size = batch_size(batch)
        columns = [
            ("sample" if path == "batch" else path, tensor)
            for path, tensor in tensors(batch)
            if tensor.ndim and tensor.shape[0] == size
        ]
        for row in range(min(size, MAX_SAMPLES - result.num_read)):
            result.add(result.num_read, {path: t[row] for path, t in columns})
    result.num_samples = result.num_read
    return result


def leaves(sample: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a sample that is no container, with its path."""
    inner = list(parts(sample))
    if not inner:
        yield path or "sample", sample
    for key, value in inner:
        yield from leaves(value, join(path, key))


def shape_text(value: Any) -> str:
    """Dtype and shape of a part of a sample, or its type."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)}"
    return type(value).__name__


def _choose(num_samples: int) -> list[int]:
    """Indices to read, spread so that stopping early still covers the range."""
    if num_samples <= MAX_SAMPLES:
        chosen = list(range(num_samples))
    else:
        spread = np.linspace(0, num_samples - 1, MAX_SAMPLES)
        chosen = [int(index) for index in np.unique(spread.round())]
    order = np.random.default_rng(0).permutation(len(chosen))
    ends = [chosen[0], chosen[-1]] if chosen else []
    return list(dict.fromkeys([*ends, *(chosen[i] for i in order)]))
