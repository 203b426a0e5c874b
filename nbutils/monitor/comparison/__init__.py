"""Runs side by side: settings, numbers, machines, data, and how sure it all is."""

from __future__ import annotations

from nbutils.monitor.comparison.result import Comparison, compare_runs

__all__ = ["Comparison", "compare_runs"]
