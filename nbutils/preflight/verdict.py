"""The token that says what was proven, and whether it still holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from nbutils.preflight.check import Finding
from nbutils.preflight.frozen import kept_rng, left_data_alone

__all__ = ["make_verdict", "run_fingerprint", "verdict_is_current"]


def run_fingerprint(task: Any, config: Any) -> str:
    """Sixteen hex digits over the config, the code and the data of a run."""
    with kept_rng(), left_data_alone(task):
        text = f"{config.hash}\0{task.fingerprint()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_verdict(
    findings: Sequence[Finding], fingerprint: str, depth: str
) -> dict[str, Any]:
    """The verdict as plain data."""
    return {
        "passed": all(finding.severity != "fail" for finding in findings),
        "fingerprint": fingerprint,
        "depth": depth,
        "time": time.time(),
        "ids": {finding.id: finding.severity for finding in findings},
    }


def verdict_is_current(task: Any, config: Any) -> tuple[bool, str]:
    """Whether the task was proven with this config, code and data; and why (not).

    A verdict of depth ``static`` looked at no data and proves too little to train on.
    """
    verdict = task.verdict
    if verdict is None:
        return False, "preflight has not run for this task"
    if not verdict["passed"]:
        failed = [name for name, kind in verdict["ids"].items() if kind == "fail"]
        return False, f"the last preflight failed: {', '.join(failed)}"
    if verdict["depth"] == "static":
        return False, "the last preflight was static: it read no data"
    if verdict["fingerprint"] != run_fingerprint(task, config):
        return False, "config, code or data changed since the last preflight"
    return True, "preflight passed for this config, code and data"
