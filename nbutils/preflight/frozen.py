"""Objects left exactly as they were found: tensors, generators, plain attributes.

Preflight runs the user's model, loss and data. Whatever these change in themselves is
put back in place, so that every reference to them stays good.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

__all__ = [
    "Frozen",
    "copy_lazy",
    "kept_rng",
    "left_alone",
    "left_data_alone",
    "seed_everything",
]

MAX_OBJECTS = 20_000
MAX_DATA_BYTES = 256 * 2**20
MAX_DEPTH = 6
PLAIN = (str, bytes, int, float, bool, complex, type(None), type)

Undo = Callable[[], None]


class Frozen:
    """A snapshot of objects that :meth:`restore` puts back, any number of times.

    Modules are covered in full: parameters and their ``.grad`` and ``requires_grad``,
    every buffer, training flags, hooks and plain attributes. Of data, containers,
    attributes, random generators, and tensors and arrays up to 256 MiB are covered.

    Args:
        roots: Models, losses, functions or datasets.
        whole: Cover everything; without it, up to 256 MiB and 20 000 objects.
    """

    def __init__(self, roots: Iterable[object], *, whole: bool) -> None:
        self._undo: list[Undo] = []
        self._seen: set[int] = set()
        self._keep: list[object] = []
        self._budget_bytes = MAX_DATA_BYTES
        self._is_whole = whole
        for root in roots:
            for part in _captured(root):
                self._add(part, 0)

    def restore(self) -> None:
        """Put everything back in place."""
        with torch.no_grad():
            for undo in reversed(self._undo):
                undo()

    def _add(self, value: object, depth: int) -> None:
        if isinstance(value, PLAIN) or id(value) in self._seen:
            return
        if depth > MAX_DEPTH or self._is_full():
            return
        self._seen.add(id(value))
        self._keep.append(value)  # an id is only good while its object lives
        undo = self._freeze(value, depth)
        if undo is not None:
            self._undo.append(undo)

    def _is_full(self) -> bool:
        return not self._is_whole and len(self._seen) > MAX_OBJECTS

    def _freeze(self, value: Any, depth: int) -> Undo | None:
        """How to undo changes of one object; its parts are added on the way."""
        if isinstance(value, Tensor):
            return self._freeze_tensor(value)
        if isinstance(value, np.ndarray):
            return self._freeze_array(value)
        if generator := _generator_undo(value):
            return generator
        if isinstance(value, (tuple, frozenset)):
            self._add_all(value, depth)
            return None
        if isinstance(value, (list, dict, set, deque)) and _is_stock(value):
            return self._freeze_container(value, depth)
        if isinstance(value, torch.jit.ScriptModule):
            return self._freeze_script(value, depth)
        if isinstance(value, nn.Module) or _has_attributes(value):
            return self._freeze_object(value, depth)
        return None

    def _freeze_script(self, module: torch.jit.ScriptModule, depth: int) -> Undo:
        """A scripted module holds its tensors and modes outside of Python."""
        parts = list(module.modules())
        modes = [(part, part.training) for part in parts]
        self._add_all([*module.parameters(), *module.buffers()], depth)

        def undo() -> None:
            for part, mode in modes:
                part.training = mode

        return undo

    def _freeze_tensor(self, tensor: Tensor) -> Undo | None:
        if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided:
            return None
        owner, grad, wants = tensor.data, tensor.grad if tensor.is_leaf else None, None
        if tensor.is_leaf:
            wants = tensor.requires_grad
        if not self._affords(tensor.numel() * tensor.element_size()):
            return None
        kept = tensor.detach().clone()
        grad_copy = None if grad is None else grad.detach().clone()

        def undo() -> None:
            if tensor.data_ptr() != owner.data_ptr() or tensor.device != owner.device:
                tensor.data = owner
            _copy_back(tensor, kept)
            if wants is not None:
                tensor.requires_grad_(wants)
                tensor.grad = grad
                if grad is not None and grad_copy is not None:
                    _copy_back(grad, grad_copy)

        return undo

    def _affords(self, num_bytes: int) -> bool:
        """Whether a copy of so many bytes is within what data may cost."""
        if self._is_whole:
            return True
        fits = num_bytes <= self._budget_bytes
        self._budget_bytes -= num_bytes if fits else 0
        return fits

    def _freeze_array(self, array: np.ndarray[Any, Any]) -> Undo | None:
        if array.dtype.hasobject or not self._affords(array.nbytes):
            return None
        kept = array.copy()

        def undo() -> None:
            if array.flags.writeable:
                array[...] = kept

        return undo

    def _freeze_container(self, value: Any, depth: int) -> Undo:
        kept = value.copy()
        self._add_all(kept.values() if isinstance(kept, dict) else kept, depth)

        def undo() -> None:
            if isinstance(value, list):
                value[:] = kept
                return
            if isinstance(value, dict) and _same_items(value, kept):
                return
            value.clear()
            (value.extend if isinstance(value, deque) else value.update)(kept)

        return undo

    def _freeze_object(self, value: Any, depth: int) -> Undo:
        attributes = value.__dict__
        kept = dict(attributes)
        below = 0 if isinstance(value, nn.Module) else depth + 1
        for part in kept.values():
            self._add(part, below)

        def undo() -> None:
            if not _same_items(attributes, kept):
                attributes.clear()
                attributes.update(kept)

        return undo

    def _add_all(self, values: Iterable[object], depth: int) -> None:
        for value in values:
            if self._is_full():
                return
            self._add(value, depth + 1)


@contextmanager
def left_alone(roots: Iterable[object], *, whole: bool) -> Iterator[Frozen]:
    """Put objects back on leaving, whatever happened; see :class:`Frozen`."""
    frozen = Frozen(roots, whole=whole)
    try:
        yield frozen
    finally:
        frozen.restore()


@contextmanager
def left_data_alone(task: Any) -> Iterator[None]:
    """Put the data of a task back on leaving."""
    splits = (task.train_data, task.val_data, task.test_data)
    with left_alone([data for data in splits if data is not None], whole=False):
        yield


@contextmanager
def kept_rng() -> Iterator[None]:
    """Leave the generators of Python, numpy, torch and every accelerator as found."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if has_cuda else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def copy_lazy(model: nn.Module) -> nn.Module:
    """A deep copy of a model that has tensors without a shape yet."""
    # Buffers without a shape, as in LazyBatchNorm, do not know how to copy themselves.
    make: Any = UninitializedBuffer  # torch declares fewer arguments than it takes
    memo: dict[int, Any] = {
        id(buffer): make(device=buffer.device, dtype=buffer.dtype)
        for buffer in model.buffers()
        if is_lazy(buffer)
    }
    return copy.deepcopy(model, memo)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, torch and the accelerators that are in use."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def _copy_back(tensor: Tensor, kept: Tensor) -> None:
    """Write ``kept`` into ``tensor`` where they differ; a reader's view stays good."""
    target = tensor.detach()
    if target.shape != kept.shape or target.dtype != kept.dtype:
        tensor.data = kept.clone()
    elif not torch.equal(target, kept):
        target.copy_(kept)


def _generator_undo(value: Any) -> Undo | None:
    """How to put a random generator back, or none if ``value`` is not one."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state) and None
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if isinstance(value, random.Random):
        plain = value.getstate()
        return lambda: value.setstate(plain)
    return None


def _is_stock(value: object) -> bool:
    """A container whose copy and refill have no side effects of their own."""
    return type(value).__module__ in ("builtins", "collections")


def _has_attributes(value: object) -> bool:
    """An object of the user's own class, or of a library's data set or graph.

    Other libraries' objects (images, tables, files) manage their own state; putting
    their attributes back could break them.
    """
    if not isinstance(getattr(value, "__dict__", None), dict):
        return False
    name = type(value).__module__
    if name.startswith(("torch.utils.data", "torch_geometric.data", "torchvision")):
        return True
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if name.split(".")[0] in sys.stdlib_module_names and name != "__main__":
        return False
    return path is None or "site-packages" not in path


def _captured(root: object) -> Iterator[object]:
    """The root, or what a function or method holds: its closure and its object."""
    if isinstance(root, functools.partial):
        for part in (root.func, *root.args, *root.keywords.values()):
            yield from _captured(part)
        return
    if inspect.ismethod(root):
        yield root.__self__
        root = root.__func__
    if not inspect.isfunction(root):
        yield root
        return
    for cell in root.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def _same_items(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return len(a) == len(b) and all(
        x is y and value is b[x] for (x, value), y in zip(a.items(), b, strict=True)
    )
