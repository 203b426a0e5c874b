"""Preflight: a run is proven short before it is started long."""

from nbutils.preflight.check import Check, Finding
from nbutils.preflight.report import PreflightReport
from nbutils.preflight.runner import preflight
from nbutils.preflight.verdict import verdict_is_current

__all__ = ["Check", "Finding", "PreflightReport", "preflight", "verdict_is_current"]
