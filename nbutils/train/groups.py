"""Parameter groups by name pattern: learning rate and weight decay of parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from nbutils.errors import ConfigError

__all__ = [
    "LOSS_PREFIX",
    "make_groups",
    "near_names",
    "trainable_parameters",
    "unowned_parameters",
]

LOSS_PREFIX = "loss."


def trainable_parameters(model: nn.Module, loss: Any = None) -> list[nn.Parameter]:
    """What trains, tied parameters once: the model's, then those of its loss.

    Raises:
        ConfigError: There is none.
    """
    extra = loss.parameters() if isinstance(loss, nn.Module) else ()
    found = {id(p): p for p in (*model.parameters(), *extra) if p.requires_grad}
    if not found:
        raise ConfigError(
            ["the model has no trainable parameter; set requires_grad on some."]
        )
    return list(found.values())


def unowned_parameters(
    model: nn.Module, optimizer: Any, loss: Any = None
) -> dict[str, nn.Parameter]:
    """What requires a gradient and is in no group of ``optimizer``, by name."""
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    if isinstance(loss, nn.Module):
        named |= {LOSS_PREFIX + name: p for name, p in loss.named_parameters()}
    return {n: p for n, p in named.items() if p.requires_grad and id(p) not in owned}


def make_groups(
    model: nn.Module, optim: Any, loss: Any = None
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """What an optimizer is built over.

    The first pattern that matches a name decides; a tied parameter has several
    names. Parameters of a loss are called ``loss.<name>``.

    Args:
        model: The network.
        optim: The config's section: ``lr weight_decay lr_groups decay_groups
            decay_1d``.
        loss: The task's loss; it trains with the model if it is a module.

    Returns:
        The parameters themselves where the section asks for no groups, else groups
        in order of their first parameter, each with a ``name``.

    Raises:
        ConfigError: Nothing to train, or a pattern without effect.
    """
    parameters = trainable_parameters(model, loss)
    if optim.decay_1d and not optim.lr_groups and not optim.decay_groups:
        return parameters
    names = _names(model, loss)
    _demand_effect("lr_groups", optim.lr_groups, names)
    _demand_effect("decay_groups", optim.decay_groups, names)
    groups: dict[str, dict[str, Any]] = {}
    for parameter in parameters:
        known_as = names[id(parameter)]
        rate = _first_match(optim.lr_groups, known_as)
        decay = _first_match(optim.decay_groups, known_as)
        is_bare = not optim.decay_1d and parameter.ndim <= 1
        title = _title(rate, None if is_bare else decay, is_bare=is_bare)
        group = groups.setdefault(
            title,
            {
                "params": [],
                "name": title,
                "lr": optim.lr * optim.lr_groups.get(rate, 1.0),
                "weight_decay": 0.0
                if is_bare
                else optim.weight_decay * optim.decay_groups.get(decay, 1.0),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def near_names(name: str, known: Iterable[str]) -> str:
    """``"; did you mean a, b?"`` after a name that is not known, or a full stop."""
    near = get_close_matches(name.strip("*."), known, n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else "."


def _names(model: nn.Module, loss: Any) -> dict[int, list[str]]:
    """Every name of each parameter, frozen ones included, by its ``id``."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    if isinstance(loss, nn.Module):
        for name, parameter in loss.named_parameters(remove_duplicate=False):
            found.setdefault(id(parameter), []).append(LOSS_PREFIX + name)
    return found


def _first_match(patterns: Iterable[str], names: Sequence[str]) -> str:
    """The first pattern that one of ``names`` fits; empty where none does."""
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            return pattern
    return ""


def _demand_effect(
    leaf: str, patterns: Mapping[str, float], names: Mapping[int, Sequence[str]]
) -> None:
    """Each pattern decides for at least one parameter, frozen or not."""
    problems: list[str] = []
    deciding = {_first_match(patterns, known_as) for known_as in names.values()}
    every = [name for known_as in names.values() for name in known_as]
    for pattern in patterns:
        if pattern in deciding:
            continue
        if any(fnmatchcase(name, pattern) for name in every):
            problems.append(
                f"{leaf} has {pattern!r}, and every parameter it matches is taken by "
                "an earlier pattern: the first match decides. Name it first."
            )
        else:
            problems.append(
                f"{leaf} has {pattern!r}, which matches no parameter; a pattern such "
                f"as 'head.*' is expected{near_names(pattern, every)}"
            )
    if problems:
        raise ConfigError(problems)


def _title(rate: str, decay: str | None, *, is_bare: bool) -> str:
    """What a group is called in the snapshot and in views."""
    parts = [f"lr {rate}"] if rate else []
    parts += [f"decay {decay}"] if decay else []
    parts += ["no decay"] if is_bare else []
    return ", ".join(parts) or "rest"
