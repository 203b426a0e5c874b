"""Part of R4: how far a sample is padded does not change its output."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import batch_size, tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.data.kept import is_row
from nbutils.preflight.column import as_array
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.scan import leaves

__all__ = ["judge_padded", "lengths_of"]

NUM_READ = 48
NUM_TRIED = 4
MAX_SECONDS = 0.5
LONGER = 1.5
LOUD = 0.5
"""Change by padding, in standard deviations between samples, that is no detail."""


@dataclass(frozen=True)
class _Ragged:
    """Samples of different lengths that the collate pads.

    Args:
        path: Their part whose length differs.
        made: Where the batch has it, padded.
        lengths: Length of each sample that was read, by index.
    """

    path: str
    made: str
    lengths: dict[int, int]


def judge_padded(probe: Probe, claims: Claims) -> None:
    """The same short samples alone and beside a long one, in eval mode."""
    if "samples interact" in probe.task.declares or probe.facts.get("random in eval"):
        return
    ragged, error = attempt(lambda: _ragged(probe))
    if error is not None or ragged is None:
        return
    found, error = attempt(lambda: _change(probe, ragged))
    probe.rewind()
    if error is not None or found is None:
        return
    change, short, long = found
    text = f"{change:.2g} standard deviations between samples"
    claims.show([("change of an output where its sample is padded", text)])
    if change < LOUD:
        return
    claims.add(
        "warn",
        "padding changes a sample's output: it is not masked",
        expected="the same output however far a sample is padded",
        actual=f"samples with '{ragged.path}' of length {short}, padded to {long}: "
        f"their outputs change by {text}",
        fix="Hand lengths or a mask to the model: pack_padded_sequence, "
        "key_padding_mask, or a mean over the real places alone.",
    )


def lengths_of(samples: list[Any]) -> dict[str, list[int]]:
    """Length of each part of the samples whose length differs between them."""
    found: dict[str, list[int]] = {}
    for sample in samples:
        for path, value in leaves(sample):
            array = as_array(value)
            if array is not None and array.ndim:
                found.setdefault(path, []).append(array.shape[0])
    return {
        path: sizes
        for path, sizes in found.items()
        if len(sizes) == len(samples) and len(set(sizes)) > 1
    }


def _ragged(probe: Probe) -> _Ragged | None:
    data = probe.data.samples("train")
    if data is None or len(data) < 2 * NUM_TRIED or probe.data.configured_size < 2:
        return None
    over_s = time.perf_counter() + MAX_SECONDS
    read: list[Any] = []
    for index in range(min(NUM_READ, len(data))):
        read.append(data[index])
        if time.perf_counter() > over_s:
            break
    for path, sizes in lengths_of(read).items():
        ends = sizes.index(min(sizes)), sizes.index(max(sizes))
        pair = [read[index] for index in ends]
        own = as_array(dict(leaves(pair[0]))[path])
        for made, field in tensors(probe.data.collate(pair)):
            is_padded = field.ndim > 1 and field.shape[:2] == (2, max(sizes))
            if own is not None and is_padded and any(is_row(row, own) for row in field):
                return _Ragged(path, made, dict(enumerate(sizes)))
    return None


def _change(probe: Probe, ragged: _Ragged) -> tuple[float, int, int] | None:
    """The typical change, and from which length to which; none if none can be told."""
    order = sorted(ragged.lengths, key=lambda i: (ragged.lengths[i], i))
    order = [index for index in order if ragged.lengths[index] > 0]
    long, short = order[-1], order[:NUM_TRIED]
    longest = ragged.lengths[long]
    if longest < LONGER * ragged.lengths[short[-1]]:
        return None
    others = order[len(order) // 2 :][:NUM_TRIED]
    alone = {index: _row(probe, ragged, [index, index]) for index in (*short, *others)}
    changes: list[float] = []
    for index in short:
        padded, size = _row(probe, ragged, [index, long]), ragged.lengths[index]
        pair = [_real(padded, size, longest), _real(alone[index], size, size)]
        if pair[0].shape != pair[1].shape or not pair[0].numel():
            return None
        changes.append(float((pair[0] - pair[1]).square().mean().sqrt()))
    spread = _spread([_real(t, ragged.lengths[i], None) for i, t in alone.items()])
    if not spread > 0:
        return None
    change = float(torch.tensor(changes).median()) / spread
    return change, ragged.lengths[short[NUM_TRIED // 2]], longest


def _row(probe: Probe, ragged: _Ragged, indices: list[int]) -> Tensor:
    """The first sample's row of the first output that has rows, shape ``(...)``."""
    data = probe.data.samples("train")
    samples = [data[index] for index in indices]  # type: ignore[index]
    own = as_array(dict(leaves(samples[0]))[ragged.path])
    batch = probe.data.collate(samples)
    made = dict(tensors(batch))[ragged.made]
    place = next(
        i for i, row in enumerate(made) if own is not None and is_row(row, own)
    )
    probe.rewind()
    seed_everything(probe.seed)
    with torch.no_grad():
        outputs = probe.forward(probe.fresh(batch), training=False)
    size = batch_size(batch)
    for _, tensor in tensors(outputs):
        if tensor.is_floating_point() and tensor.ndim and tensor.shape[0] == size:
            return tensor[place].detach().double().cpu()
    raise ValueError("no output has a row for each sample")


def _real(row: Tensor, size: int, length: int | None) -> Tensor:
    """Without the places that are padding, where the output has places."""
    has_places = row.ndim > 1 and length is not None and row.shape[0] == length
    return row[:size] if has_places else row


def _spread(rows: list[Tensor]) -> float:
    """Standard deviation between samples, or between places where there are some."""
    if len({tuple(row.shape) for row in rows}) == 1:
        return float(torch.stack(rows).std(0).square().mean().sqrt())
    places = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])
    return float(places.std(0).square().mean().sqrt())
