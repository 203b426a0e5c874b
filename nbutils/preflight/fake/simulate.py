"""One training step, walked through: what it keeps, and where it stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from nbutils.data.batch import describe, tensors
from nbutils.data.loss import adapt_loss, checked_terms
from nbutils.preflight.fake.formats import Format
from nbutils.preflight.fake.live import LiveBytes
from nbutils.preflight.fake.places import Hazard, Hazards, Place, watch_places
from nbutils.train.precision import to_fp32

__all__ = ["Scene", "Stopped", "Usage", "walk"]

UNFAKEABLE = {
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "GuardOnDataDependentSymNode",
    "NotImplementedError",
    "OutOfTime",
    "UnsupportedFakeTensorException",
    "UnsupportedMutationAliasingException",
    "UnsupportedOperatorException",
    "AttributeError",
    "KeyError",
}
"""What may come from the fakes themselves, or depends on more than shapes."""
SIGNS = (
    "fake",
    "meta",
    "data_ptr",
    "storage",
    "same device",
    "numpy",
    "primarycontext",
)
"""Words in messages of operations that cannot take a fake."""


@dataclass(frozen=True)
class Scene:
    """Who takes part in a step.

    Args:
        task: Whose forward and weighting are used.
        model: The task's model, or its twin.
        loss: The task's loss, or its twin.
        weights: Weights of loss terms that go before the task's own.
        format: The number format.
        context: Makes what surrounds the step, such as a fake mode.
        passes: 2 where gradients of an earlier batch are kept meanwhile, else 1.
        deadline: When to give up, by ``time.perf_counter``.
    """

    task: Any
    model: nn.Module
    loss: Any
    weights: dict[str, float]
    format: Format
    context: Callable[[], AbstractContextManager[Any]]
    passes: int = 1
    deadline: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a step takes beside the weights, in bytes.

    Args:
        saved: Alive at the end of the forward pass and the loss.
        peak: Most that was alive at once, gradients included.
        gradients: Of the parameters, once the step is over.
        batch: The batch itself.
        has_backward: Whether the peak includes the backward pass.
        outputs: Path -> dtype and shape.
        terms: Names of the loss terms.
        assumed: Operations whose result was assumed to be as large as it can be.
        hazards: What losses were called with; see :class:`Hazards`.
        seconds: Time that it took.
    """

    saved: int
    peak: int
    gradients: int
    batch: int
    has_backward: bool
    outputs: dict[str, str]
    terms: tuple[str, ...]
    assumed: tuple[str, ...]
    hazards: tuple[Hazard, ...]
    seconds: float


class Stopped(Exception):
    """A step stopped.

    Attributes:
        error: What was raised.
        place: The module that was running; none outside of any.
        stage: ``"forward"`` or ``"loss"``.
        hazards: What losses were called with until then.
        is_fault: Whether shapes and dtypes alone explain it.
    """

    def __init__(self, error: Exception, state: _Walk, assumed: set[str]) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error
        self.place: Place | None = state.running[-1] if state.running else None
        self.stage = state.stage
        self.hazards = tuple(state.hazards.notes)
        self.is_fault = not assumed and not _is_about_fakes(error)


@dataclass
class _Walk:
    """How far a step came."""

    stage: str = "forward"
    running: list[Place] = field(default_factory=list)
    hazards: Hazards = field(default_factory=Hazards)


def walk(scene: Scene, batch: Any, *, with_backward: bool = True) -> Usage:
    """Forward, loss and backward of one batch, with the bytes that lived.

    Raises:
        Stopped: Forward or loss raised.
    """
    start = time.perf_counter()
    known = [*scene.model.parameters(), *scene.model.buffers()]
    if isinstance(scene.loss, nn.Module):
        known += [*scene.loss.parameters(), *scene.loss.buffers()]
    held = [tensor for _, tensor in tensors(batch)]
    live = LiveBytes([*known, *held], scene.deadline)
    state = _Walk()
    try:
        with scene.context(), live:
            usage = _step(scene, batch, live, state, with_backward=with_backward)
    except Exception as error:  # a user's code may raise anything; it is judged
        raise Stopped(error, state, live.assumed) from error
    finally:
        gradients = sum(
            _bytes(t.grad) for t in known if t.is_leaf and t.grad is not None
        )
        for tensor in known:
            if tensor.is_leaf:
                tensor.grad = None
    return replace(
        usage,
        gradients=gradients,
        batch=sum(map(_bytes, held)),
        hazards=tuple(state.hazards.notes),
        seconds=time.perf_counter() - start,
    )


def _step(
    scene: Scene, batch: Any, live: LiveBytes, state: _Walk, *, with_backward: bool
) -> Usage:
    saved, outputs, terms = 0, None, {}
    has_backward = with_backward
    for _ in range(scene.passes):
        outputs, terms, total = _forward(scene, batch, state)
        saved = saved or live.now
        has_backward = has_backward and total.requires_grad
        if has_backward:
            state.stage = "backward"
            try:
                total.backward()
            except RuntimeError:  # no fake form, as for CUDA where there is none
                has_backward = False
        del total
    return Usage(
        saved=saved,
        peak=live.peak,
        gradients=0,
        batch=0,
        has_backward=has_backward,
        outputs={p.replace("batch", "output"): t for p, t in describe(outputs).items()},
        terms=tuple(terms),
        assumed=tuple(sorted(live.assumed)),
        hazards=(),
        seconds=0.0,
    )


def _forward(
    scene: Scene, batch: Any, state: _Walk
) -> tuple[Any, dict[str, Tensor], Tensor]:
    state.stage = "forward"
    with watch_places(scene.model) as state.running:
        with scene.format.autocast():
            outputs = scene.task.forward(scene.model, batch)
        state.running.clear()
    state.stage = "loss"
    judged = to_fp32(outputs) if scene.format.widens_loss else outputs
    with scene.format.loss_context(), state.hazards:
        terms = checked_terms(adapt_loss(scene.loss)(judged, batch))
    return outputs, terms, scene.task.total(terms, scene.weights)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_about_fakes(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of the fakes' own making."""
    while error is not None:
        if {kind.__name__ for kind in type(error).__mro__} & UNFAKEABLE:
            return True
        text = str(error).lower()
        if any(sign in text for sign in SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False
