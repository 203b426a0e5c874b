"""Part of R5: places that are padding do not count in a loss over places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.model.padded import lengths_of
from nbutils.preflight.column import as_array
from nbutils.preflight.free_outputs import FreeOutputs, Values
from nbutils.preflight.probe import attempt
from nbutils.preflight.scan import leaves

__all__ = ["judge_padding"]

MOST = 0.9
MIN_PLACES = 4


def judge_padding(
    free: FreeOutputs, values: Values, model: nn.Module, claims: Claims
) -> None:
    """Compare the places whose outputs get a gradient with those that are padding."""
    grads, error = attempt(lambda: free.gradients(values))
    if error is not None:
        return
    told = ((name, places, True) for name, places in _paddings(free.batch, model))
    for name, is_padding, are_tokens in (*told, *_by_samples(free)):
        for grad in grads:
            counted = None if grad is None else _counted(grad, is_padding)
            if counted is None:
                continue
            if are_tokens or not bool(counted[~is_padding].any()):
                _judge(name, is_padding, counted, claims)
            return


def _paddings(batch: Any, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Places ``(B, T)`` that are padding, and what says so."""
    found = dict(tensors(batch))
    sequences = [t for t in found.values() if t.ndim == 2 and _is_whole(t)]
    for ids in sequences:
        for name, real in _told(found, ids):
            for is_padding in (~real, real):
                if _is_tail(is_padding) and _is_constant(ids, is_padding):
                    yield name, is_padding
                    break
        for module in model.modules():
            index = getattr(module, "padding_idx", None)
            is_table = isinstance(module, nn.Embedding) and index is not None
            if is_table and _is_tail(ids == index):
                yield f"padding_idx={index}", ids == index


def _by_samples(free: FreeOutputs) -> Iterator[tuple[str, Tensor, bool]]:
    """Places beyond the end of their sample, and whether tokens stand there.

    Signals may well be padded with zeros that count; tokens may not.
    """
    data, loader = free.probe.data.samples("train"), free.probe.data.loader("train")
    if data is None or not isinstance(loader, OrderedLoader):
        return
    samples = [data[index] for index in loader.indices(0)]
    parts = [dict(leaves(sample)) for sample in samples]
    for path, sizes in lengths_of(samples).items():
        own = [as_array(part[path]) for part in parts]
        for name, field in tensors(free.batch):
            is_field = field.ndim > 1 and field.shape[:2] == (len(own), max(sizes))
            if is_field and _are_rows(field, own):
                places = torch.arange(max(sizes), device=field.device)
                limits = torch.tensor(sizes, device=field.device)
                is_padding = places >= limits[:, None]
                yield f"the samples' lengths in '{name}'", is_padding, _is_whole(field)


def _are_rows(ids: Tensor, own: list[Tensor | None]) -> bool:
    pairs = zip(ids.cpu(), own, strict=True)
    return all(v is not None and torch.equal(row[: len(v)], v) for row, v in pairs)


def _told(found: dict[str, Tensor], ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Masks of the form of the sequence, and lengths."""
    for path, tensor in found.items():
        if tensor is ids or tensor.is_complex():
            continue
        if tensor.shape == ids.shape and bool(((tensor == 0) | (tensor == 1)).all()):
            yield f"'{path}'", tensor != 0
        is_length = tensor.ndim == 1 and len(tensor) == len(ids) and _is_whole(tensor)
        if is_length and tensor.numel() and 0 < int(tensor.max()) <= ids.shape[1]:
            places = torch.arange(ids.shape[1], device=ids.device)
            yield f"lengths '{path}'", places < tensor[:, None]


def _is_whole(tensor: Tensor) -> bool:
    is_number = tensor.is_floating_point() or tensor.is_complex()
    return not is_number and tensor.dtype != torch.bool


def _is_tail(places: Tensor) -> bool:
    """Whether they end, or begin, each row that has some, and rows differ in them."""
    counts = places.sum(1)
    if int(counts.sum()) < MIN_PLACES or bool((counts == counts[0]).all()):
        return False
    if bool(places.all(1).any()):
        return False
    steps = places.int().diff(dim=1)
    return bool((steps >= 0).all()) or bool((steps <= 0).all())


def _is_constant(ids: Tensor, places: Tensor) -> bool:
    inside, outside = ids[places], ids[~places]
    return bool((inside == inside[0]).all()) and bool((outside != inside[0]).any())


def _counted(grad: Tensor, is_padding: Tensor) -> Tensor | None:
    """Places with a gradient, in the form of the sequence."""
    size, length = is_padding.shape
    if grad.ndim == 3 and grad.shape[0] == size:
        for axis, time in ((2, 1), (1, 2)):
            if grad.shape[time] == length:
                return (grad != 0).any(axis)
    return (grad != 0) if grad.shape == is_padding.shape else None


def _judge(name: str, is_padding: Tensor, counted: Tensor, claims: Claims) -> None:
    of_padding = float(counted[is_padding].float().mean())
    of_rest = float(counted[~is_padding].float().mean())
    claims.show(
        [("places that count", f"{of_rest:.0%}, and {of_padding:.0%} of the padding")]
    )
    if of_padding < MOST:
        return
    is_inverted = of_rest == 0
    claims.add(
        "warn",
        "only padding counts in the loss: the mask is inverted"
        if is_inverted
        else "padding counts in the loss",
        expected="no gradient for places that are padding",
        actual=f"{of_padding:.0%} of the padding and {of_rest:.0%} of the rest have "
        f"one; {name} tells them apart",
        fix="Turn the mask: True must stand for what counts."
        if is_inverted
        else "Give ignore_index to cross_entropy and set labels there to it, or "
        "multiply by the mask and divide by its sum.",
    )
