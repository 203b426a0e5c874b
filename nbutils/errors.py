"""The exception tree: what happened, what was expected, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "EnvironmentProblem",
    "NbutilsError",
    "NonFiniteStepError",
    "PreflightError",
    "SkipBudgetError",
]


class NbutilsError(Exception):
    """Any error this package raises on purpose."""


class ConfigError(NbutilsError, ValueError):
    """Settings that cannot be used, all of them at once.

    Args:
        problems: One sentence each: the key, its value, what was expected.

    Example:
        >>> print(ConfigError(["batch_size is 0; it must be >= 1."]))
        1 setting cannot be used:
          - batch_size is 0; it must be >= 1.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        noun = "setting" if len(self.problems) == 1 else "settings"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} {noun} cannot be used:{lines}")


class ContractError(NbutilsError, ValueError):
    """Data, a batch or a model output is not what the task declares."""


class PreflightError(NbutilsError):
    """A preflight check failed; ``report`` holds every finding."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class NonFiniteStepError(NbutilsError, ArithmeticError):
    """An update was refused because its loss or gradient is not finite."""


class SkipBudgetError(NonFiniteStepError):
    """More updates were refused than the guard allows; the weights are intact."""


class CheckpointError(NbutilsError):
    """A checkpoint cannot be written, found, verified or loaded."""


class EnvironmentProblem(NbutilsError, RuntimeError):
    """This machine lacks something the run needs: a package, a device, space."""
