"""What happens inside a model and a loss while they run, seen from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import describe
from nbutils.errors import ContractError
from nbutils.preflight.distributions import Drawn, watched_distributions
from nbutils.preflight.origins import Origin, Origins

__all__ = ["LossCall", "ModuleTrace", "Recorder", "trace_modules"]

LOSSES = {
    functional.cross_entropy: "cross-entropy",
    functional.nll_loss: "negative log-likelihood",
    functional.binary_cross_entropy_with_logits: "binary cross-entropy",
    functional.binary_cross_entropy: "binary cross-entropy of probabilities",
    functional.mse_loss: "mean squared error",
    functional.l1_loss: "mean absolute error",
    functional.smooth_l1_loss: "smooth absolute error",
    functional.huber_loss: "Huber loss",
    functional.kl_div: "Kullback-Leibler divergence",
    functional.gaussian_nll_loss: "Gaussian negative log-likelihood",
    functional.poisson_nll_loss: "Poisson negative log-likelihood",
    functional.ctc_loss: "CTC",
    functional.soft_margin_loss: "soft margin loss",
    functional.hinge_embedding_loss: "hinge embedding loss",
    functional.cosine_embedding_loss: "cosine embedding loss",
    functional.margin_ranking_loss: "margin ranking loss",
}
INPUTS = ("input", "log_probs", "input1")
TARGETS = ("target", "targets")
DROPOUTS = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}


@dataclass(frozen=True, slots=True)
class LossCall:
    """One call of a torch loss function.

    Args:
        kind: Its name in words.
        outputs: What was judged, detached.
        targets: What it was judged against.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        value: What it returned, detached.
        is_weighted: Whether class or element weights were given.
        num_ignored: Targets that equal ``ignore_index``.
        origin: The activation that the outputs came from.
        given: What it was given besides, by name.
    """

    kind: str
    outputs: Tensor
    targets: Tensor
    reduction: str
    value: Tensor
    is_weighted: bool
    num_ignored: int = 0
    origin: Origin | None = None
    given: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recorder(TorchFunctionMode):
    """Sees calls of losses, embeddings and dropout; indices out of range are refused.

    An index out of range would end a CUDA process for good; here it is a sentence.

    Args:
        place: Tells which module is running.
    """

    place: Callable[[], str] = str
    losses: list[LossCall] = field(default_factory=list)
    forced_dropout: list[str] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.origins = Origins(self.place)
        self._open = ExitStack()

    def __enter__(self) -> Recorder:
        self._open.enter_context(watched_distributions(self.drawn, self.origins.of))
        super().__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._open.close()
        super().__exit__(*reason)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            return self._record_loss(func, args, kwargs)
        if func is functional.embedding:
            _refuse_rows(*_bound(func, args, kwargs, "input", "weight"))
        elif func in DROPOUTS:
            share, is_on = _bound(func, args, kwargs, "p", "training")
            if is_on and share:
                self.forced_dropout.append(f"{func.__name__}(p={share})")
        elif func is functional.scaled_dot_product_attention:
            share = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if share:
                self.forced_dropout.append(f"attention with dropout_p={share}")
        result = func(*args, **kwargs)
        self.origins.note(func, args, kwargs, result)
        return result

    def _record_loss(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        outputs, targets = (given[_key(given, *keys)] for keys in (INPUTS, TARGETS))
        if "ignore_index" in given:
            _refuse_labels(given["input"], given["target"], given["ignore_index"])
        value = func(*args, **kwargs)
        weights = (given.get("weight"), given.get("pos_weight"))
        self.losses.append(
            LossCall(
                LOSSES[func],
                outputs.detach(),
                targets.detach(),
                given["reduction"],
                value.detach(),
                any(weight is not None for weight in weights),
                _count(targets, given.get("ignore_index")),
                self.origins.of(outputs),
                {k: v for k, v in given.items() if _is_setting(k, v)},
            )
        )
        return value


def _is_setting(name: str, value: Any) -> bool:
    return name == "weight" or not isinstance(value, Tensor)


def _key(given: Any, *names: str) -> str:
    return next(name for name in names if name in given)


def _count(targets: Tensor, ignored: int | None) -> int:
    if ignored is None or targets.is_floating_point():
        return 0
    return int((targets == ignored).sum())


def _bound(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *names: str,
) -> tuple[Any, ...]:
    """Some arguments of a call by name, defaults filled in."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return tuple(bound.arguments[name] for name in names)


def _refuse_rows(index: Tensor, table: Tensor) -> None:
    if not index.numel() or index.is_meta:
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= table.shape[0]:
        bad = low if low < 0 else high
        raise ContractError(
            f"index {bad} is outside an embedding of {table.shape[0]} rows; indices "
            f"must be 0 to {table.shape[0] - 1}. Enlarge the embedding "
            "(num_embeddings) or correct the ids."
        )


def _refuse_labels(outputs: Tensor, targets: Tensor, ignored: int) -> None:
    """Class labels must address an output; soft labels and ignored ones pass."""
    if targets.is_floating_point() or outputs.ndim == 0 or not targets.numel():
        return
    num_classes = outputs.shape[1] if outputs.ndim > 1 else outputs.shape[0]
    outside = targets[((targets < 0) | (targets >= num_classes)) & (targets != ignored)]
    if outside.numel():
        raise ContractError(
            f"label {int(outside.flatten()[0])} is outside the head: {num_classes} "
            f"outputs accept labels 0 to {num_classes - 1}. Give the model "
            f"{int(outside.max()) + 1} outputs, or correct the labels."
        )


@dataclass(slots=True)
class ModuleTrace:
    """Which module is running, and which one first gave a value that is not finite."""

    running: list[tuple[str, nn.Module, Any]] = field(default_factory=list)
    first_nan: str = ""

    def name(self) -> str:
        """``'head.act' (Sigmoid)`` of the innermost running module; empty if none."""
        if not self.running:
            return ""
        name, module, _ = self.running[-1]
        return f"'{name}' ({type(module).__name__})" if name else type(module).__name__

    def where(self) -> str:
        """The innermost running module and what it got; empty outside of any."""
        if not self.running:
            return ""
        name, module, inputs = self.running[-1]
        got = ", ".join(describe(inputs).values())
        label = f"'{name}' " if name else ""
        return f"in module {label}({_short(module)}), which got {got}"


@contextmanager
def trace_modules(model: nn.Module) -> Iterator[ModuleTrace]:
    """Watch the modules of ``model``; after an exception, the trace says where."""
    trace = ModuleTrace()
    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        enter = _enter(trace, name)
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(_leave(trace, name)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _enter(trace: ModuleTrace, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        trace.running.append((name, module, inputs))

    return hook


def _leave(trace: ModuleTrace, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if trace.running:
            trace.running.pop()
        if trace.first_nan or not isinstance(output, Tensor):
            return
        with torch._C.DisableTorchFunction():  # those who watch the user's calls
            is_nan = output.is_floating_point() and bool(output.isnan().any())
        if is_nan:
            trace.first_nan = f"'{name}' ({type(module).__name__})"

    return hook


def _short(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text and len(text) < 120 else type(module).__name__
