"""Part of R6: parameters that got no gradient since their module was not chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbutils.preflight.probe import Probe, attempt

__all__ = ["CHOOSING", "at_rest"]

CHOOSING = {
    torch.topk, Tensor.topk, torch.argmax, Tensor.argmax, torch.sort, Tensor.sort,
    torch.argsort, Tensor.argsort, torch.multinomial, Tensor.multinomial,
    torch.nonzero, Tensor.nonzero, torch.bincount, Tensor.bincount, torch.unique,
    Tensor.unique, functional.one_hot, functional.gumbel_softmax,
    torch.masked_select, Tensor.masked_select, Tensor.item, Tensor.tolist,
}  # fmt: skip


class _Choices(TorchFunctionMode):
    """Whether a pass chooses by value: which expert, which head, which rows."""

    found = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.found = self.found or func in CHOOSING or _is_masked(func, args)
        return func(*args, **(kwargs or {}))


def _is_masked(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if func not in (Tensor.__getitem__, Tensor.__setitem__) or len(args) < 2:
        return False
    picks = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(p, Tensor) and p.dtype == torch.bool for p in picks)


def at_rest(probe: Probe, silent: list[str]) -> set[str]:
    """Those of ``silent`` whose module lies beside one like it that was called.

    Such as experts that no token chose: members of one ``ModuleList`` or
    ``ModuleDict``, of which a pass that chooses by value called others.
    """
    containers = {
        name: module
        for name, module in probe.model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.ModuleDict))
    }
    held = [(n, c) for n in silent for c in containers if n.startswith(f"{c}.")]
    if not held:
        return set()
    called: set[str] = set()
    choices = _Choices()

    def call() -> None:
        batch = probe.fresh(probe.data.batch("train"))
        with torch.no_grad(), _calls(probe.model, called), choices:
            probe.forward(batch, training=True)

    _, error = attempt(call)
    if error is not None or not choices.found:
        return set()
    resting: set[str] = set()
    for name, container in held:
        child = name[len(container) + 1 :].split(".")[0]
        beside = containers[container].named_children()
        others = {f"{container}.{key}" for key, _ in beside}
        if f"{container}.{child}" not in called and others & called:
            resting.add(name)
    return resting


@contextmanager
def _calls(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Note the name of every module that is called."""

    def note(name: str) -> Callable[..., None]:
        return lambda *_: called.add(name)

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
