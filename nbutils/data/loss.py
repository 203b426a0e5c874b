"""The loss as the engine calls it: torch losses adapted, its result checked."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.errors import ContractError

__all__ = ["adapt_loss", "checked_terms", "is_torch_loss", "smoothed", "weighted_total"]

Loss = Callable[[Any, Any], Any]


def is_torch_loss(loss: object) -> bool:
    """Whether ``loss`` is one of torch's own, called as ``loss(outputs, targets)``."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, nn.modules.loss._Loss):
        return True
    name = getattr(loss, "__name__", "")
    return bool(name) and getattr(nn.functional, name, None) is loss


def adapt_loss(loss: Loss) -> Loss:
    """The loss as a function of (outputs, batch); torch's own get ``batch[1]``."""
    return functools.partial(_of_targets, loss) if is_torch_loss(loss) else loss


def smoothed(loss: Loss, amount: float) -> Loss | None:
    """Torch's cross-entropy with label smoothing (Szegedy et al. 2016, section 7).

    None if ``loss`` is another one, or smooths by an amount of its own.

    Args:
        loss: ``nn.CrossEntropyLoss()``, or ``functional.cross_entropy``.
        amount: Probability mass spread over all classes, in [0, 1).
    """
    if isinstance(loss, nn.CrossEntropyLoss) and type(loss) is nn.CrossEntropyLoss:
        if loss.label_smoothing:
            return None
        twin = copy.copy(loss)  # shares its class weights
        twin.label_smoothing = amount
        return twin
    inner: Any = loss
    keywords = set[str]()
    while isinstance(inner, functools.partial):
        keywords |= inner.keywords.keys()
        inner = inner.func
    if inner is nn.functional.cross_entropy and "label_smoothing" not in keywords:
        kept: Any = loss
        return functools.partial(kept, label_smoothing=amount)
    return None


def _of_targets(loss: Loss, outputs: Any, batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ContractError(
            f"the loss {_name(loss)} takes (outputs, targets), and the batch is a "
            f"{type(batch).__name__}{size}; a pair (inputs, targets) is expected. "
            "Write the loss as a function: def loss(outputs, batch): return "
            f"{_name(loss)}(outputs, batch[...])."
        )
    return loss(outputs, batch[1])


def _name(loss: object) -> str:
    if isinstance(loss, functools.partial):
        return _name(loss.func)
    return str(getattr(loss, "__name__", type(loss).__name__))


def checked_terms(result: Any) -> dict[str, Tensor]:
    """The named scalar terms of a loss; a bare scalar is the term ``"loss"``.

    Raises:
        ContractError: Not a scalar tensor and not a dict of scalar tensors.
    """
    if not isinstance(result, Mapping):
        return {"loss": _checked(result, "the loss")}
    if not result:
        raise ContractError(
            "the loss returned an empty dict; at least one named term is expected. "
            'Return {"loss": tensor}.'
        )
    return {
        str(name): _checked(term, f"loss term '{name}'")
        for name, term in result.items()
    }


def _checked(term: Any, what: str) -> Tensor:
    if term is None:
        raise ContractError(
            f"{what} is None; a scalar tensor is expected. End the function with "
            "`return`: without it, Python returns None."
        )
    if isinstance(term, (tuple, list)):
        raise ContractError(
            f"{what} is a {type(term).__name__} of {len(term)}; a scalar tensor is "
            'expected. Return the loss alone, or a dict of named terms: {"name": term}.'
        )
    if not isinstance(term, Tensor):
        raise ContractError(
            f"{what} is {term!r:.80} ({type(term).__name__}); a scalar tensor is "
            "expected, since anything else carries no gradient. Leave out .item() and "
            "float()."
        )
    if term.ndim:
        raise ContractError(
            f"{what} has shape {tuple(term.shape)}; a scalar tensor of shape () is "
            "expected. Return a mean over the targets: .mean(), or reduction='mean'."
        )
    if not term.is_floating_point():
        dtype = str(term.dtype).removeprefix("torch.")
        raise ContractError(
            f"{what} has dtype {dtype}; a real floating-point scalar is expected. "
            "Take .abs() or .real of a complex value, .float() of an integer one."
        )
    return term


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the terms, each times its weight, 1 where none is given.

    Raises:
        ContractError: A weight is for a term that the loss does not return.
    """
    unknown = [name for name in weights if name not in terms]
    if unknown:
        told = "; ".join(_unknown_weight(name, terms) for name in unknown)
        raise ContractError(told)
    if not weights and len(terms) == 1:
        return next(iter(terms.values()))
    weighted = [
        term * weights[name] if name in weights else term
        for name, term in terms.items()
    ]
    return torch.stack([term.reshape(()) for term in weighted]).sum()


def _unknown_weight(name: str, terms: Mapping[str, Tensor]) -> str:
    near = get_close_matches(name, terms, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return (
        f"loss_weights or loss_phases has '{name}', and the loss returns "
        f"{', '.join(terms)}; each weight must name a returned term{hint}"
    )
