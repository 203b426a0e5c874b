"""Lints: training code that is read, never run."""

from nbutils.preflight.lints.lint import lint
from nbutils.preflight.lints.report import LintReport

__all__ = ["LintReport", "lint"]
