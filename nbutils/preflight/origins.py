"""From which activation a tensor came, remembered while a model and a loss run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Crossed", "Origin", "Origins", "Twice"]

ACTIVATIONS = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "special_expit": "sigmoid",
    "hardsigmoid": "sigmoid",
    "logsigmoid": "logsigmoid",
    "relu": "relu",
    "relu_": "relu",
    "relu6": "relu",
    "softplus": "softplus",
    "tanh": "tanh",
    "tanh_": "tanh",
    "hardtanh": "tanh",
    "exp": "exp",
    "log": "log",
}
KEPT = frozenset(
    """
    reshape view flatten squeeze unsqueeze permute transpose movedim swapaxes t
    contiguous clone float double half bfloat16 to type cpu cuda detach alias
    expand expand_as view_as reshape_as unflatten narrow select __getitem__ chunk
    split unbind stack cat concat clamp clip clamp_min masked_select index_select
    gather take_along_dim dropout dropout1d dropout2d dropout3d __get__ squeeze_
    clip_ unsqueeze_ clamp_ nan_to_num
    """.split()  # noqa: SIM905  a list would take as many lines as words
)
SAME_AXES = frozenset(
    """
    contiguous clone float double half bfloat16 to type cpu cuda detach alias
    clamp clip clamp_min dropout nan_to_num clamp_ clip_ add __add__
    """.split()  # noqa: SIM905  a list would take as many lines as words
)
"""Of :data:`KEPT`, what leaves the axes where they are."""
TAKES_LOGITS = ("softmax", "log_softmax", "sigmoid", "logsigmoid")
NORMALISED = ("softmax", "log_softmax")
TINY = 1e-2


@dataclass(frozen=True, slots=True)
class Origin:
    """The activation that a tensor came from, through reshaping and selecting alone.

    Args:
        kind: ``"softmax"``, ``"sigmoid"``, ``"relu"`` ...
        place: The module that ran; empty outside of any.
        dim: Axis that a softmax went over; none if it is not known any more.
        width: Length of that axis; 0 for the other kinds.
        below: Origin of what the activation was given.
    """

    kind: str
    place: str = ""
    dim: int | None = None
    width: int = 0
    below: Origin | None = None


@dataclass(frozen=True, slots=True)
class Twice:
    """A function that wants logits and was given the result of an activation."""

    kind: str
    given: Origin
    place: str


@dataclass(frozen=True, slots=True)
class Crossed:
    """A softmax over one axis, whose result was picked from along another."""

    given: Origin
    picked: int


class Origins:
    """What is known of the tensors seen so far; holds none of them alive.

    Args:
        place: Tells which module is running.
    """

    def __init__(self, place: Callable[[], str]) -> None:
        self.twice: list[Twice] = []
        self.crossed: list[Crossed] = []
        self._place = place
        self._known: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}

    def of(self, tensor: Any) -> Origin | None:
        """The tensor's origin, if it is one of :data:`ACTIVATIONS`."""
        found = self._known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Take one call into account."""
        name = getattr(func, "__name__", "")
        if name in ACTIVATIONS:
            self._note_activation(name, args, kwargs, result)
            return
        if not self._known:
            return
        if name in ("gather", "take_along_dim"):
            self._note_pick(args, kwargs)
        given = [self.of(part) for part in _tensors(args)]
        known = [origin for origin in given if origin is not None]
        if known and len(known) == len(given) and _is_kept(name, args):
            self._keep(name, known, result)
        elif args and (name == "__setitem__" or result is args[0]):
            self._known.pop(id(args[0]), None)  # written into

    def _note_activation(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        source = args[0] if args else kwargs.get("input")
        if not isinstance(source, Tensor) or not isinstance(result, Tensor):
            return
        kind, below = ACTIVATIONS[name], self.of(source)
        if kind in ("exp", "log"):
            back = {"log_softmax": "softmax", "softmax": "log_softmax"}
            wanted = "log_softmax" if kind == "exp" else "softmax"
            if below is not None and below.kind == wanted:
                origin = Origin(
                    back[below.kind],
                    below.place,
                    below.dim,
                    below.width,
                    below.below,
                )
                self._remember(result, origin)
            elif kind == "exp":
                self._remember(result, Origin("exp", self._place()))
            else:
                self._known.pop(id(result), None)
            return
        place = self._place()
        if below is not None and kind in TAKES_LOGITS:
            self.twice.append(Twice(kind, below, place))
        dim, width = None, 0
        if kind in NORMALISED:
            dim = _axis(source, args, kwargs)
            width = source.shape[dim] if dim is not None else 0
        self._remember(result, Origin(kind, place, dim, width, below))

    def _note_pick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Targets are picked along the axis of the classes."""
        source, dim = args[0] if args else None, kwargs.get("dim")
        if dim is None:
            dim = next((part for part in args[1:] if type(part) is int), None)
        below = self.of(source)
        if not isinstance(source, Tensor) or below is None or dim is None:
            return
        if below.dim is None or below.width < 2:
            return
        if below.kind in NORMALISED and below.dim != dim % source.ndim:
            self.crossed.append(Crossed(below, dim % source.ndim))

    def _keep(self, name: str, known: list[Origin], result: Any) -> None:
        first = known[0]
        if any(origin.kind != first.kind for origin in known):
            return
        dim = first.dim if name in SAME_AXES else None
        origin = Origin(first.kind, first.place, dim, first.width, first.below)
        for part in _tensors([result]):
            self._remember(part, origin)

    def _remember(self, tensor: Tensor, origin: Origin) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), origin


def _is_kept(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the values stay what they are; ``p + 1e-8`` counts as ``p``."""
    if name in ("add", "__add__", "__radd__"):
        return len(args) > 1 and isinstance(args[1], float) and abs(args[1]) < TINY
    return name in KEPT


def _axis(source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dim is None:  # what torch.nn.functional takes where none is given
        dim = 0 if source.ndim in (0, 1, 3) else 1
    if not isinstance(dim, int) or not source.ndim:
        return None
    return dim % source.ndim


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                yield value
        elif isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            yield from _tensors(value)
