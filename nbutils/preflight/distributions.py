"""Sees the distributions of torch that a model or a loss makes, and their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution

from nbutils.preflight.origins import Origin

__all__ = ["Drawn", "watched_distributions"]

WITH_LOGITS = (Categorical, Bernoulli)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One distribution that was made.

    Args:
        kind: Its class.
        broken: Parameter -> its smallest value, where its values are not allowed.
        given: ``"probs"`` or ``"logits"`` -> origin of what was passed for it.
        negative_probs: The smallest value passed as ``probs``, where it is below 0.
    """

    kind: str
    broken: dict[str, float] = field(default_factory=dict)
    given: dict[str, Origin | None] = field(default_factory=dict)
    negative_probs: float = 0.0


@contextmanager
def watched_distributions(
    drawn: list[Drawn], origin_of: Callable[[Any], Origin | None]
) -> Iterator[None]:
    """Note in ``drawn`` each distribution that is made meanwhile."""
    kinds = (Distribution, *WITH_LOGITS)
    kept = {kind: kind.__init__ for kind in kinds}
    try:
        Distribution.__init__ = _noting(kept[Distribution], drawn)
        for kind in WITH_LOGITS:
            kind.__init__ = _noting_logits(kept[kind], drawn, origin_of)
        yield
    finally:
        for kind, method in kept.items():
            kind.__init__ = method


def _noting(method: Any, drawn: list[Drawn]) -> Any:
    @functools.wraps(method)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        broken = _broken(self)
        if broken:
            drawn.append(Drawn(type(self).__name__, broken))
        method(self, *args, **kwargs)

    return init


def _noting_logits(method: Any, drawn: list[Drawn], origin_of: Any) -> Any:
    @functools.wraps(method)
    def init(
        self: Any, probs: Any = None, logits: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        given = {"probs": probs, "logits": logits}
        found = {k: origin_of(v) for k, v in given.items() if isinstance(v, Tensor)}
        low = 0.0
        if isinstance(probs, Tensor) and probs.numel() and not probs.is_meta:
            low = min(float(probs.detach().min()), 0.0)
        drawn.append(Drawn(type(self).__name__, {}, found, low))
        method(self, probs, logits, *args, **kwargs)

    return init


def _broken(self: Any) -> dict[str, float]:
    """Parameters whose values their constraint does not allow, as torch would test."""
    try:
        constraints = dict(self.arg_constraints)
    except NotImplementedError:  # of a user's own class
        return {}
    found: dict[str, float] = {}
    for name, constraint in constraints.items():
        value = self.__dict__.get(name)
        if not isinstance(value, Tensor) or getattr(constraint, "is_discrete", False):
            continue
        if (
            value.is_meta
            or not value.numel()
            or type(constraint).__name__.startswith("_Dependent")
        ):
            continue
        value = value.detach()
        if not bool(constraint.check(value).all()) and not value.is_complex():
            found[name] = float(value.min())
    return found
