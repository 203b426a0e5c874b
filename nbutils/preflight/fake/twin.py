"""Fake twins of models, losses and batches; the real ones are not touched."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import parts
from nbutils.data.containers import is_container, rebuild
from nbutils.data.graphs import is_graph

__all__ = ["Fakes", "Unfakeable"]

_LOG = logging.getLogger("torch._subclasses.fake_tensor")
MAX_CONSTANT = 4096
"""Elements of an integer tensor whose values are kept, such as lengths and labels."""


class Unfakeable(Exception):
    """A model or batch has no fake twin; the message says why."""


class Fakes:
    """Makes fake tensors, one for each real one, so that tied weights stay tied.

    Args:
        device: Where the fakes claim to be.
        may_compute: Let operations that have no fake form run on real zeros; not for
            models that do not fit into memory.
    """

    def __init__(self, device: torch.device, *, may_compute: bool = False) -> None:
        self.device = device
        self.mode = FakeTensorMode(
            allow_fallback_kernels=may_compute, allow_non_fake_inputs=True
        )
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._originals: list[Tensor] = []

    def modules(self, *modules: nn.Module) -> list[nn.Module]:
        """Copies of modules that know each other as the originals do.

        Raises:
            Unfakeable: A module is scripted or lazy, or cannot be copied.
        """
        for module in modules:
            _refuse(module)
        memo: dict[int, Any] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                memo[id(tensor)] = self.tensor(tensor)
                self._originals.append(tensor)
        try:
            with _Copying(self.tensor):
                return copy.deepcopy(list(modules), memo)
        except Exception as error:  # a user's class may refuse in any way
            kind = type(error).__name__
            raise Unfakeable(f"it cannot be copied ({kind}: {error})") from error

    def batch(self, batch: Any) -> Any:
        """A batch of fakes, of the same containers; other values pass."""
        if isinstance(batch, Tensor):
            return self.tensor(batch, keep_values=True)
        if is_graph(batch):
            return copy.copy(batch).apply(self.batch)
        if is_container(batch):
            return rebuild(batch, [self.batch(value) for _, value in parts(batch)])
        return batch

    def tensor(self, real: Tensor, *, keep_values: bool = False) -> Tensor:
        """The fake of a real or meta tensor."""
        if isinstance(real, FakeTensor):
            return real
        if id(real) not in self._made:
            made = self._constant(real) if keep_values else None
            made = self._empty(real) if made is None else made
            if isinstance(real, nn.Parameter):
                made = nn.Parameter(made, requires_grad=real.requires_grad)
            self._made[id(real)] = real, made  # an id is good while its object lives
        return self._made[id(real)][1]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Work with fakes; gradients that reached an original are taken back."""
        kept = [(t, t.grad) for t in self._originals if t.is_leaf]
        was_silent = _LOG.disabled
        _LOG.disabled = True  # torch prints a traceback of what is told in a finding
        try:
            with self.mode:
                yield
        finally:
            _LOG.disabled = was_silent
            for tensor, grad in kept:
                if tensor.grad is not grad:
                    tensor.grad = grad

    def _empty(self, real: Tensor) -> Tensor:
        if real.layout != torch.strided:
            with self.mode:
                return self.mode.from_tensor(real)
        with self.mode:
            return torch.empty_strided(
                real.shape, real.stride(), dtype=real.dtype, device=self.device
            )

    def _constant(self, real: Tensor) -> Tensor | None:
        """A fake that knows its values: a few whole numbers on a CPU."""
        is_number = real.is_floating_point() or real.is_complex()
        if is_number or real.numel() > MAX_CONSTANT or real.device.type != "cpu":
            return None
        if self.device.type != "cpu" or real.layout != torch.strided:
            return None
        converter = self.mode.fake_tensor_converter
        return converter.from_real_tensor(self.mode, real.clone(), make_constant=True)


class _Copying(TorchFunctionMode):
    """While modules are copied, each tensor in them becomes its fake."""

    def __init__(self, convert: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._convert = convert

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (Tensor.__deepcopy__, Tensor.clone):
            return self._convert(args[0])
        return func(*args, **(kwargs or {}))


def _refuse(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise Unfakeable(f"'{name or type(module).__name__}' is compiled code")
    if any(is_lazy(t) for t in (*module.parameters(), *module.buffers())):
        raise Unfakeable("it is lazy: its first forward pass creates parameters")
