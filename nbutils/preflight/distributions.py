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

__all__ = ["Drawn", "Likelihoods", "watched_distributions", "watched_likelihoods"]

ROUNDING = 1e-4
WITH_LOGITS = (Categorical, Bernoulli)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One distribution that was made.

    Args:
        kind: Its class.
        broken: Parameter -> a value that is not allowed there.
        given: ``"probs"`` or ``"logits"`` -> origin of what was passed for it.
        negative_probs: The smallest value passed as ``probs``, where it is below 0.
    """

    kind: str
    broken: dict[str, float] = field(default_factory=dict)
    given: dict[str, Origin | None] = field(default_factory=dict)
    negative_probs: float = 0.0


@dataclass
class Likelihoods:
    """Log-probabilities of data that were asked for, with their graph.

    Attributes:
        values: What ``log_prob`` gave for values that no model made.
    """

    values: list[tuple[str, Tensor]] = field(default_factory=list)
    _depth: int = 0


@contextmanager
def watched_likelihoods() -> Iterator[Likelihoods]:
    """Note what the outermost calls of ``log_prob`` give meanwhile."""
    found = Likelihoods()
    kinds = [k for k in _subclasses(Distribution) if "log_prob" in vars(k)]
    kept = {kind: kind.log_prob for kind in kinds}
    try:
        for kind in kinds:
            kind.log_prob = _noting_value(kept[kind], found)
        yield found
    finally:
        for kind, method in kept.items():
            kind.log_prob = method


def _subclasses(kind: Any) -> Iterator[Any]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def _noting_value(method: Any, found: Likelihoods) -> Any:
    @functools.wraps(method)
    def log_prob(self: Any, value: Any) -> Any:
        found._depth += 1
        try:
            result = method(self, value)
        finally:
            found._depth -= 1
        is_data = isinstance(value, Tensor) and not value.requires_grad
        if found._depth or not is_data or not isinstance(result, Tensor):
            return result
        if result.requires_grad and result.numel() > 1:
            found.values.append((type(self).__name__, result))
        return result

    return log_prob


@contextmanager
def watched_distributions(
    drawn: list[Drawn], origin_of: Callable[[Any], Origin | None]
) -> Iterator[None]:
    """Note in ``drawn`` each distribution that is made meanwhile."""
    kinds: tuple[Any, ...] = (Distribution, *WITH_LOGITS)
    kept = {kind: kind.__init__ for kind in kinds}
    try:
        kinds[0].__init__ = _noting(kept[Distribution], drawn)
        for kind in kinds[1:]:
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
    """Parameters that lie outside bounds of numbers, by more than rounding.

    Sums and matrices are not judged: torch itself finds them wrong by rounding.
    """
    try:
        limits = dict(self.arg_constraints)
    except NotImplementedError:  # of a user's own class
        return {}
    found: dict[str, float] = {}
    for name, limit in limits.items():
        value = self.__dict__.get(name)
        low, high = (
            getattr(limit, "lower_bound", None),
            getattr(limit, "upper_bound", None),
        )
        if not isinstance(value, Tensor) or value.is_meta or not value.numel():
            continue
        value = value.detach()
        if isinstance(low, (int, float)) and float(value.min()) < low - ROUNDING:
            found[name] = float(value.min())
        elif isinstance(high, (int, float)) and float(value.max()) > high + ROUNDING:
            found[name] = float(value.max())
    return found
