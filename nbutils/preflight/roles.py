"""Which parts of a batch the model is given, and which the loss compares it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.fake import TooLarge
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.watch import LossCall

__all__ = ["Entry", "Roles", "find_roles"]

MAX_ENTRIES = 24
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, slots=True)
class Entry:
    """What arrived at one layer on its first call.

    Args:
        name: The layer's name.
        kind: ``"norm"``, ``"embedding"`` or ``"weight"``.
        layer: Its class.
        low: Smallest value that arrived.
        high: Largest value.
    """

    name: str
    kind: str
    layer: str
    low: float
    high: float


@dataclass
class Roles:
    """What parts of a sample are for; empty where it could not be told.

    Args:
        inputs: Paths whose tensors the model was called with.
        targets: Path -> the call of a loss that compared outputs with it.
        cut: Path of floats -> the call that was given them as integers.
        entries: Layers in the order in which they were first called.
        is_known: Whether the model and its loss ran.
    """

    inputs: list[str] = field(default_factory=list)
    targets: dict[str, LossCall] = field(default_factory=dict)
    cut: dict[str, LossCall] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    is_known: bool = False

    @property
    def label(self) -> str | None:
        """The path of the one target that a classification loss was given."""
        kinds = ("cross-entropy", "negative log-likelihood", "binary cross-entropy")
        found = [p for p, call in self.targets.items() if call.kind in kinds]
        return found[0] if len(found) == 1 else None


def find_roles(probe: Probe) -> Roles:
    """The roles, from one forward pass of a training batch; found once."""
    if "roles" not in probe.facts:
        try:
            probe.facts["roles"] = _watch(probe)
        except TooLarge:
            probe.facts["roles"] = _guess(probe)
        finally:
            probe.rewind()
    return probe.facts["roles"]


def _watch(probe: Probe) -> Roles:
    found = Roles()
    moved = probe.fresh(probe.data.batch("train"))
    given: list[Tensor] = []
    with probe.recording() as recorder, _seen(probe.model, given, found.entries):
        _, error = attempt(
            lambda: probe.terms(probe.forward(moved, training=True), moved)
        )
    found.is_known = error is None
    if not found.is_known:
        return _guess(probe)
    paths = list(tensors(moved))
    for path, leaf in paths:
        if any(_is_same(leaf, tensor) for tensor in given):
            found.inputs.append(_sample_path(path))
    for call in recorder.losses:
        _note_targets(found, call, paths)
    return found


def _note_targets(
    found: Roles, call: LossCall, paths: list[tuple[str, Tensor]]
) -> None:
    """Which parts a loss was given; a cast that cuts counts where nothing else fits."""
    for fits in (_is_part, _is_equal, _is_cut):
        same = [(path, leaf) for path, leaf in paths if fits(leaf, call.targets)]
        for path, _ in same:
            place = found.cut if fits is _is_cut else found.targets
            if fits is not _is_cut or _sample_path(path) not in found.inputs:
                place.setdefault(_sample_path(path), call)
        if same:
            return


def _guess(probe: Probe) -> Roles:
    """The default forward gives the model the first part of a tuple."""
    batch: Any = probe.data.batch("train")
    is_pair = isinstance(batch, (tuple, list)) and len(batch) > 1
    first = next(iter(batch)) if is_pair else None
    is_plain = isinstance(first, Tensor) and probe.task.forward_function is None
    return Roles(inputs=["0"]) if is_plain else Roles()


def _sample_path(path: str) -> str:
    """A bare tensor is called by what it is: a batch, or a sample."""
    return "sample" if path == "batch" else path


def _is_same(leaf: Tensor, tensor: Tensor) -> bool:
    return _is_part(leaf, tensor) or _is_equal(leaf, tensor)


def _is_part(leaf: Tensor, tensor: Tensor) -> bool:
    """Whether one lies in the memory of the other."""
    if leaf.layout != torch.strided or tensor.layout != torch.strided:
        return False
    if not leaf.numel() or not tensor.numel():
        return False
    return leaf.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _is_equal(leaf: Tensor, tensor: Tensor) -> bool:
    """Whether one is a copy of the other's values, in whatever form."""
    if not _is_comparable(leaf, tensor):
        return False
    return bool((leaf.reshape(-1) == tensor.reshape(-1)).all())


def _is_cut(leaf: Tensor, tensor: Tensor) -> bool:
    """Whether integers are what a conversion leaves of floats."""
    if not _is_comparable(leaf, tensor) or tensor.is_floating_point():
        return False
    values = leaf.reshape(-1)
    is_real = leaf.is_floating_point() and bool(torch.isfinite(values).all())
    return is_real and torch.equal(values.to(tensor.dtype), tensor.reshape(-1))


def _is_comparable(leaf: Tensor, tensor: Tensor) -> bool:
    if leaf.layout != torch.strided or tensor.layout != torch.strided:
        return False
    if leaf.device != tensor.device or leaf.is_complex() != tensor.is_complex():
        return False
    return leaf.numel() == tensor.numel() > 0


@contextmanager
def _seen(
    model: nn.Module, given: list[Tensor], entries: list[Entry]
) -> Iterator[None]:
    """Collect what the model and its layers are called with."""
    handles: list[Any] = []
    if not isinstance(model, torch.jit.ScriptModule):
        handles.append(
            model.register_forward_pre_hook(_collect(given), with_kwargs=True)
        )
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind:
            handles.append(
                module.register_forward_pre_hook(_enter(entries, name, kind))
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _collect(given: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        values = [*args, *kwargs.values()]
        given.extend(v.detach() for v in values if isinstance(v, Tensor))

    return hook


def _enter(entries: list[Entry], name: str, kind: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any) -> None:
        first: Any = next(iter(args), None)
        if not isinstance(first, Tensor) or len(entries) >= MAX_ENTRIES:
            return
        is_real = first.layout == torch.strided and not first.is_complex()
        if is_real and first.numel() and not first.is_meta:
            low, high = (float(value) for value in torch.aminmax(first.detach()))
            entries.append(Entry(name, kind, type(module).__name__, low, high))

    return hook


def _kind(module: nn.Module) -> str:
    """What a layer does to the scale of what it gets; empty if it is none of these."""
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if "norm" in type(module).__name__.lower():
        return "norm"
    weight = getattr(module, "weight", None)
    is_weight = isinstance(weight, nn.Parameter) and weight.ndim > 1
    return "weight" if is_weight or isinstance(module, nn.RNNBase) else ""
