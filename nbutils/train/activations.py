"""Switches gradient checkpointing on and off, for any model that allows it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from nbutils.errors import ConfigError
from nbutils.train.blocks import NUM_REPEATS, blocks_by_name, repeated_blocks
from nbutils.train.recompute import Recomputed, SteadyNorm, stand_in

__all__ = ["describe_checkpointing", "set_checkpointing"]

TIMM, TRANSFORMERS = "set_grad_checkpointing", "gradient_checkpointing_enable"
MARK = "_nbutils_switched"
"""In the ``__dict__`` of a module that was switched on here, the switch's name."""


def set_checkpointing(model: nn.Module, options: Any) -> None:
    """Recompute activations as the config's ``model`` section asks, or stop doing so.

    Named blocks go first, then the switch of the model or of its parts (timm,
    transformers), then blocks that repeat in a list. What the user switched on
    without us stays on.

    Raises:
        ConfigError: There is nothing to recompute, or what was switched on here
            cannot be switched off.
    """
    if not options.gradient_checkpointing:
        _switch_off(model)
        stand_in(Recomputed, model, ())
        return
    if options.checkpoint_blocks:
        blocks = blocks_by_name(model, options.checkpoint_blocks)
        _switch_off(model)
        stand_in(Recomputed, model, [block for _, block in blocks])
        return
    switches = _switches(model)
    if switches and all(_switch_on(module, name) for module, name in switches):
        stand_in(Recomputed, model, ())
        norms = [m for part, _ in switches for m in part.modules()]
        stand_in(SteadyNorm, model, [m for m in norms if isinstance(m, _NormBase)])
        return
    _switch_off(model)
    found = repeated_blocks(model)
    if not found:
        raise ConfigError([_nothing_found(model)])
    stand_in(Recomputed, model, [block for _, block in found])


def describe_checkpointing(model: nn.Module, options: Any) -> str:
    """What :func:`set_checkpointing` would recompute, in words; changes nothing.

    Raises:
        ConfigError: There is nothing.
    """
    if options.checkpoint_blocks:
        found = blocks_by_name(model, options.checkpoint_blocks)
    elif switches := _switches(model):
        return ", ".join(f"{type(part).__name__}.{name}()" for part, name in switches)
    else:
        found = repeated_blocks(model)
    if not found:
        raise ConfigError([_nothing_found(model)])
    return f"{len(found)} blocks: {found[0][0]} to {found[-1][0]}"


def _switches(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The outermost modules that can checkpoint by themselves."""
    for name in (TIMM, TRANSFORMERS):
        if callable(getattr(model, name, None)):
            return [(model, name)]
    return [found for child in model.children() for found in _switches(child)]


def _switch_on(module: Any, name: str) -> bool:
    """Whether the module took it: some have the switch and refuse."""
    if MARK in vars(module):
        return True
    switch = getattr(module, name)
    kwargs: dict[str, Any] = {}
    if "gradient_checkpointing_kwargs" in inspect.signature(switch).parameters:
        kwargs["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    try:
        switch(**kwargs)
    except (AssertionError, NotImplementedError, ValueError):
        return False
    vars(module)[MARK] = name
    return True


def _switch_off(model: nn.Module) -> None:
    """Undo :func:`_switch_on` wherever it was done."""
    for module in model.modules():
        if MARK not in vars(module):
            continue
        name = vars(module)[MARK]
        part: Any = module
        if name == TIMM and inspect.signature(part.set_grad_checkpointing).parameters:
            part.set_grad_checkpointing(False)
        elif name == TRANSFORMERS and hasattr(part, "gradient_checkpointing_disable"):
            part.gradient_checkpointing_disable()
        else:
            raise ConfigError(
                [
                    "gradient_checkpointing was true for this model, and "
                    f"{type(module).__name__} has no way to switch it off again; "
                    "build the model anew."
                ]
            )
        del vars(module)[MARK]
    stand_in(SteadyNorm, model, ())


def _nothing_found(model: nn.Module) -> str:
    parts = [name for name, child in model.named_children() if any(child.children())]
    example = parts[0] if parts else "encoder"
    return (
        f"gradient_checkpointing is true, but {type(model).__name__} has neither "
        f"{TIMM}() nor {TRANSFORMERS}(), nor a list in which a block repeats "
        f"{NUM_REPEATS} times; set it to false, or name the blocks to recompute: "
        f"checkpoint_blocks=[{example!r}]."
    )
