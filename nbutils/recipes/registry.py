"""Which recipe a configuration names, and the task that it builds."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from nbutils.errors import ConfigError

if TYPE_CHECKING:
    from nbutils.config import RunConfig
    from nbutils.data.task import Task

__all__ = ["RECIPES", "build_task"]

RECIPES: dict[str, str] = {"vision": "nbutils.recipes.vision.recipe"}
"""Name of each recipe and the module whose ``build(config)`` makes its task."""


def build_task(config: RunConfig) -> Task:
    """The task that ``config.recipe`` names, ready for preflight and training.

    Raises:
        ConfigError: ``config.recipe`` is not set or names no known recipe.
    """
    known = ", ".join(repr(name) for name in sorted(RECIPES))
    if config.recipe is None:
        raise ConfigError(
            [
                f"recipe is not set; it must be one of {known}. Start from a preset, "
                "for example RunConfig.preset('vision/quick'), or make nb.Task(...) "
                "of your own model and data."
            ]
        )
    if config.recipe not in RECIPES:
        near = difflib.get_close_matches(config.recipe, RECIPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            [f"recipe is {config.recipe!r}; it must be one of {known}.{hint}"]
        )
    return import_module(RECIPES[config.recipe]).build(config)
