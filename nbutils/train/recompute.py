"""Gradient checkpointing: blocks forget their activations and compute them again.

The forward of a block is replaced in the instance, so names, classes and the state
of the model stay as they are. Recomputing must not be seen from outside: random
numbers are those of the first pass, and so are buffers that the block writes, such as
running statistics, which would otherwise move twice a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

__all__ = ["Recomputed", "SteadyNorm", "stand_in"]

Place = tuple[nn.Module, str]
CAN_COMPILE_BUFFERS = torch.__version__ >= "2.15"
"""Whether a compiled block writes its buffers once; torch 2.6 writes them twice, and
what lies between was not tried."""


class StandIn:
    """Takes the place of a module's ``forward``; copies and pickles with it.

    Args:
        module: Whose forward it is, and
        before: what stood there already, if anything did.
    """

    def __init__(self, module: nn.Module, before: Any = None) -> None:
        self.module = module
        self.before = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module does without the stand-in."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)


class Recomputed(StandIn):
    """Drops what a block computes between its inputs and outputs, in training."""

    outside_graphs: Any = None
    """Runs a block uncompiled; made when it is needed, since it loads the compiler."""

    def __init__(self, module: nn.Module, before: Any = None) -> None:
        super().__init__(module, before)
        self._live: list[Place] | None = None
        self._is_graph_safe = CAN_COMPILE_BUFFERS or not _places(module)
        if not self._is_graph_safe and Recomputed.outside_graphs is None:
            disabled: Any = torch.compiler.disable(Recomputed._train)
            Recomputed.outside_graphs = staticmethod(disabled)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.module.training and torch.is_grad_enabled()):
            return self.forward(*args, **kwargs)
        if torch.compiler.is_compiling() and not self._is_graph_safe:
            return self.outside_graphs(self, *args, **kwargs)
        return self._train(*args, **kwargs)

    def _train(self, *args: Any, **kwargs: Any) -> Any:
        run = partial(checkpoint, self.forward, *args, use_reentrant=False, **kwargs)
        if torch.compiler.is_compiling():
            return run()  # a compiled graph writes buffers in its forward part only
        places = _places(self.module) if self._live is None else self._live
        if not places:
            return run()
        kept = [getattr(module, name).clone() for module, name in places]
        outputs = run(context_fn=_contexts(places, kept))
        if self._live is None:
            self._live = _written(places, kept)
        return outputs


class SteadyNorm(StandIn):
    """Lets running statistics stand still while a model recomputes by itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_first = torch._C._current_graph_task_id() < 0  # not inside a backward pass
        if torch.compiler.is_compiling() or is_first:
            return self.forward(*args, **kwargs)
        places = _places(self.module)
        with _as_before(places, [getattr(module, name) for module, name in places]):
            return self.forward(*args, **kwargs)


def stand_in(
    kind: type[StandIn], model: nn.Module, modules: Iterable[nn.Module]
) -> None:
    """Put ``kind`` in place for these modules of ``model``, and for no others."""
    wanted = {id(module) for module in modules}
    for module in model.modules():
        current: Any = vars(module).get("forward")
        is_there = isinstance(current, kind)
        if is_there and id(module) not in wanted:
            del module.forward
            if current.before is not None:
                vars(module)["forward"] = current.before
        elif not is_there and id(module) in wanted:
            vars(module)["forward"] = kind(module, current)


def _places(block: nn.Module) -> list[Place]:
    return [
        (module, name)
        for module in block.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer is not None
    ]


def _written(places: Sequence[Place], kept: Sequence[Tensor]) -> list[Place]:
    """The buffers that a pass has changed; normalisation layers always count."""
    return [
        (module, name)
        for (module, name), before in zip(places, kept, strict=True)
        if isinstance(module, _NormBase)
        or not torch.equal(getattr(module, name), before)
    ]


def _contexts(
    places: Sequence[Place], kept: Sequence[Tensor]
) -> Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]:
    """What surrounds the first pass, and what the second."""
    return lambda: (nullcontext(), _as_before(places, kept))


@contextmanager
def _as_before(places: Sequence[Place], kept: Sequence[Tensor]) -> Iterator[None]:
    """The buffers as the first pass found them; what the block writes is dropped."""
    now = [module._buffers[name] for module, name in places]
    try:
        for (module, name), value in zip(places, kept, strict=True):
            module._buffers[name] = value.clone()
        yield
    finally:
        for (module, name), value in zip(places, now, strict=True):
            module._buffers[name] = value
