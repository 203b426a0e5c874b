"""Counts the bytes that are alive while operations run, on fake or real tensors."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LiveBytes", "OutOfTime"]

aten = torch.ops.aten
MASKS = (torch.bool, torch.uint8)
RNN_KEPT, RNN_SCRATCH = 7.8, 6.3
"""What oneDNN keeps of an LSTM layer for its backward pass, and what that takes
meanwhile, in sizes of the layer's output; measured. The fake operation says 0."""


class OutOfTime(Exception):
    """The time for a walk is over."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live.

    On fake tensors it also answers what only values can tell, with the most that is
    possible: every element of a mask is true, every value is unique. What was answered
    so is in :attr:`assumed`.

    Args:
        known: Tensors that are counted elsewhere, such as the parameters.
        deadline: When to give up, by ``time.perf_counter``.
    """

    def __init__(self, known: Iterable[Tensor], deadline: float = math.inf) -> None:
        super().__init__()
        self._deadline = deadline
        self.now = 0
        self.peak = 0
        self.assumed: set[str] = set()
        self._seen: dict[int, Any] = {}
        self._known = [storage for tensor in known if (storage := _storage(tensor))]
        self._seen.update((storage._cdata, None) for storage in self._known)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in INTERRUPTIBLE and time.perf_counter() > self._deadline:
            raise OutOfTime("too many operations: fakes take too long to go through")
        if func in SAME_DTYPE:
            _refuse_mixture(args)
        assume = ASSUMPTIONS.get(func)
        if assume is not None and _depends_on_values(func, args):
            self.assumed.add(str(func).removeprefix("aten.").split(".")[0])
            out = assume(func, *args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        if func is aten.mkldnn_rnn_layer.default and _is_fake(out[0]):
            out = (*out[:3], _workspace(out[0]))
        if func is aten.mkldnn_rnn_layer_backward.default and _is_fake(args[7]):
            self.peak = max(self.peak, self.now + int(RNN_SCRATCH * args[7].nbytes))
        if isinstance(out, Tensor):
            self._add(out)
        elif isinstance(out, (tuple, list)):
            for part in out:
                if isinstance(part, Tensor):
                    self._add(part)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage is None or storage._cdata in self._seen:
            return
        key, size = storage._cdata, int(storage.nbytes())

        def drop(_: Any) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, drop)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storage(tensor: Tensor) -> Any:
    """The memory behind a tensor; none where it has several, as sparse ones do."""
    return tensor.untyped_storage() if tensor.layout == torch.strided else None


def _depends_on_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether the result depends on values of a tensor that has none."""
    parts = args
    if func is aten.index.Tensor:
        parts = [i for i in args[1] if i is not None and i.dtype in MASKS]
    return any(map(_is_fake, parts))


def _is_fake(value: Any) -> bool:
    return isinstance(value, FakeTensor)


def _refuse_mixture(args: Sequence[Any]) -> None:
    """Products of tensors of different dtypes: real kernels refuse, fakes do not."""
    dtypes = {arg.dtype: None for arg in args if isinstance(arg, Tensor)}
    if len(dtypes) > 1 and any(map(_is_fake, args)):
        names = " and ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise RuntimeError(
            f"a product of tensors of one dtype is expected, got {names}"
        )


def _workspace(output: Tensor) -> Tensor:
    size = int(RNN_KEPT * output.nbytes)
    return torch.empty((size,), dtype=torch.uint8, device=output.device)


def _nonzero(_: Any, x: Tensor) -> Tensor:
    return torch.empty((x.numel(), x.ndim), dtype=torch.long, device=x.device)


def _masked_select(_: Any, x: Tensor, mask: Tensor) -> Tensor:
    size = math.prod(torch.broadcast_shapes(x.shape, mask.shape))
    return torch.empty((size,), dtype=x.dtype, device=x.device)


def _index(func: Any, x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Each mask becomes the positions of all its elements."""
    positions: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in MASKS:
            positions.append(index)
            continue
        sizes = (index.numel(),)
        made = torch.empty(sizes, dtype=torch.long, device=index.device)
        positions.extend([made] * index.ndim)
    return func(x, positions)


def _unique(
    _: Any,
    x: Tensor,
    is_sorted: bool = True,
    has_inverse: bool = False,
    has_counts: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    def whole(size: Sequence[int]) -> Tensor:
        return torch.empty(size, dtype=torch.long, device=x.device)

    values = torch.empty((x.numel(),), dtype=x.dtype, device=x.device)
    inverse = whole(x.shape if has_inverse else (0,))
    return values, inverse, whole((x.numel(),) if has_counts else (0,))


def _equal(_: Any, x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape


SAME_DTYPE = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.mkldnn_rnn_layer.default,
}
INTERRUPTIBLE = SAME_DTYPE | {
    aten.add.Tensor,
    aten.cat.default,
    aten.mul.Tensor,
    aten.t.default,
    aten.view.default,
}
"""Where a walk may be given up. Not anywhere: C++ asks ``prim.device`` where nothing
may be raised, and an exception there ends the process."""
ASSUMPTIONS: dict[Any, Callable[..., Any]] = {
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.index.Tensor: _index,
    aten._unique2.default: _unique,
    aten.equal.default: _equal,
}
"""Operations whose result has a shape, or is a value, that fakes cannot know."""
