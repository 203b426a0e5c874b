"""The top-level modules of a model, and norms of many tensors at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["label_parameters", "root_sums", "tensor_norms"]

MAX_MODULES = 64
REST = "rest"


def label_parameters(
    model: nn.Module, loss: object, optimizer: Optimizer
) -> list[tuple[str, nn.Parameter]]:
    """Each parameter that the optimizer moves, with the module it is counted to.

    That is the child of the model that holds it; where one child holds them all, the
    child of that one. A parameter that lies in no child counts by its own name, those
    of a loss as ``loss``. Beyond 64 modules, the smallest are one: ``rest``.
    """
    names = {p: name for name, p in model.named_parameters()}
    labels = dict(zip(names, _labels([*names.values()]), strict=True))
    if isinstance(loss, nn.Module):
        labels = {**dict.fromkeys(loss.parameters(), "loss"), **labels}
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    found = [(labels.get(p, "other"), p) for p in moved]
    sizes: Counter[str] = Counter()
    for label, parameter in found:
        sizes[label] += parameter.numel()
    if len(sizes) <= MAX_MODULES:
        return found
    kept = {label for label, _ in sizes.most_common(MAX_MODULES - 1)}
    return [(label if label in kept else REST, p) for label, p in found]


def _labels(names: Sequence[str]) -> list[str]:
    paths = [name.split(".") for name in names]
    depth = 1
    while (
        len({tuple(path[:depth]) for path in paths}) == 1
        and min(len(path) for path in paths) > depth
    ):
        depth += 1
    return [".".join(path[:depth]) for path in paths]


def tensor_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """2-norm of each, ``()`` in 32 bits at least; few kernels, and no wait."""
    wide: list[Tensor] = []
    places: list[int] = []
    norms: list[Tensor] = [torch.empty(())] * len(tensors)
    for place, tensor in enumerate(tensors):
        if tensor.dtype in (torch.float32, torch.float64):
            wide.append(tensor)
            places.append(place)
            continue
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        kind = torch.promote_types(real.dtype, torch.float32)
        norms[place] = torch.linalg.vector_norm(real, dtype=kind)
    for place, norm in zip(places, torch._foreach_norm(wide) if wide else ()):  # noqa: B905
        norms[place] = norm
    return norms


def root_sums(labels: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
    """Norm of each module from those of its tensors.

    Example:
        >>> root_sums(["a", "b", "a"], [3.0, 1.0, 4.0])
        {'a': 5.0, 'b': 1.0}
    """
    found: dict[str, list[float]] = {}
    for label, norm in zip(labels, norms, strict=True):
        found.setdefault(label, []).append(norm)
    return {label: math.hypot(*parts) for label, parts in found.items()}
