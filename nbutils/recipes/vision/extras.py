"""Packages of the vision extra, imported with a sentence when one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from nbutils.environment.versions import STACK, explain_import_error
from nbutils.errors import EnvironmentProblem

__all__ = ["import_extra"]


def import_extra(name: str) -> ModuleType:
    """The module ``name``, such as ``timm.data``.

    Raises:
        EnvironmentProblem: It is not installed, or torchvision does not match torch;
            says which pip line mends it.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        advice = explain_import_error(error)
        if advice is not None:
            raise EnvironmentProblem(
                f"{advice.what} {advice.why} Run: {advice.fix}"
            ) from error
        package = name.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise EnvironmentProblem(
                f"the recipe 'vision' needs {package}, which is not installed. "
                f"Run: pip install {STACK.get(package, package)}"
            ) from error
        raise
