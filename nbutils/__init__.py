"""nbutils: nothing long starts until it has been proven short."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "Callback": "train.callback",
    "Contract": "data.contract",
    "RunConfig": "config",
    "SetupWizard": "ui.wizard",
    "Task": "data.task",
    "TrainResult": "train.result",
    "TrainingCoordinator": "coordinator",
    "attach": "launch.background",
    "build_task": "recipes",
    "build_wandb_config": "tracking.describe",
    "compare_runs": "monitor.comparison",
    "detect_model_type": "recipes.detect",
    "doctor": "environment.doctor",
    "list_runs": "monitor.runs_list",
    "preflight": "preflight.runner",
    "presets": "config",
    "show_run": "ui.show",
}
_ERRORS = (
    "CheckpointError ConfigError ContractError EnvironmentProblem NbutilsError "
    "NonFiniteStepError PreflightError SkipBudgetError"
)
_HOMES.update(dict.fromkeys(_ERRORS.split(), "errors"))
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nbutils' has no attribute {name!r}")
    if "ipykernel" in sys.modules:  # in a notebook, views are drawn there
        importlib.import_module("nbutils.ui.notebook").attach()
    with importlib.import_module("nbutils.environment.imports").collector_paused():
        return getattr(importlib.import_module(f"nbutils.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Root(ModuleType):
    """Keeps ``nbutils.preflight`` the function: it is the name of a package too."""

    preflight = property(
        lambda _: __getattr__("preflight"), lambda _self, _module: None
    )


sys.modules[__name__].__class__ = _Root
