"""What can be told of a recipe's data and model before anything is built.

A recipe may have modules ``data_look`` with ``look(config)``, ``outline`` with
``outline(config, num_classes, device)`` and ``weights_problem(config)``, and
``reading`` with ``seconds_to_read(config, task)``. Without the first, files are looked
at in general.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbutils.data.looks import DataLook, look_at
from nbutils.errors import ConfigError
from nbutils.recipes.registry import RECIPES

if TYPE_CHECKING:
    from nbutils.config import RunConfig
    from nbutils.data.task import Task

__all__ = ["has_outline", "look", "outline", "seconds_to_read", "weights_problem"]


def look(config: RunConfig) -> DataLook:
    """A bounded look at the data that a config names.

    Raises:
        ConfigError: ``data_dir`` is not set.
        ContractError: The data is missing or of another layout.
        EnvironmentProblem: A package that reads it is missing.
    """
    module = _module(config.recipe, "data_look")
    if module is not None:
        return module.look(config)
    if config.data.data_dir is None:
        raise ConfigError(
            ["data_dir is not set; name a file or a folder on this machine."]
        )
    return look_at(config.data.data_dir)


def has_outline(config: RunConfig) -> bool:
    """Whether the recipe can describe its model without data or weights."""
    return _module(config.recipe, "outline") is not None


def outline(config: RunConfig, num_classes: int, device: Any = "meta") -> Task:
    """The recipe's task with a model that has not been trained, and data not read.

    Args:
        config: Names the recipe, the model and its sizes.
        num_classes: Outputs of a classifier's head.
        device: ``"meta"`` makes shapes only; any other makes random weights there.

    Raises:
        ConfigError: There is no recipe, or the model is not known.
        ContractError: The model refuses its input size.
        EnvironmentProblem: A package is missing.
    """
    module = _module(config.recipe, "outline")
    if module is None:
        named = "no recipe is set" if config.recipe is None else repr(config.recipe)
        raise ConfigError(
            [
                f"recipe: {named}; its model cannot be outlined before it is built. "
                "Run nb.preflight(nb.build_task(config)) in a cell instead, or start "
                "from a preset."
            ]
        )
    return module.outline(config, num_classes, device)


def weights_problem(config: RunConfig) -> str:
    """Why published weights cannot be had here; empty if all is well."""
    module = _module(config.recipe, "outline")
    return "" if module is None else module.weights_problem(config)


def seconds_to_read(config: RunConfig, task: Task) -> float | None:
    """Time that one process takes for one training sample; none if not measured.

    Args:
        config: Names the data.
        task: The recipe's outline.
    """
    module = _module(config.recipe, "reading")
    return None if module is None else module.seconds_to_read(config, task)


def _module(recipe: str | None, name: str) -> ModuleType | None:
    """A module beside the recipe's own, if it has one of this name."""
    if recipe not in RECIPES:
        return None
    dotted = f"{RECIPES[recipe].rpartition('.')[0]}.{name}"
    if importlib.util.find_spec(dotted) is None:
        return None
    return importlib.import_module(dotted)
