"""The token that says what was proven, and whether it still holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbutils.config import RunConfig
from nbutils.data.fingerprint import (
    describe_code,
    describe_data,
    describe_model,
    hash_parts,
)
from nbutils.preflight.check import Finding
from nbutils.preflight.frozen import kept_rng, left_data_alone

__all__ = ["fingerprints", "make_verdict", "run_fingerprint", "verdict_is_current"]

MAX_TOLD = 4

CODE = {
    "loss": "loss",
    "forward": "forward_function",
    "collate": "collate",
    "count_targets": "count_targets",
    "make_optimizer": "make_optimizer",
    "make_schedule": "make_schedule",
}
"""Functions of a task by the name they were given under, and where it keeps them."""

WITHOUT_EFFECT = ("checkpoint", "tracking", "preflight", "display")
"""Sections of the config that leave the trained weights as they are."""

Fingerprints = dict[str, Any]


def fingerprints(task: Any, config: RunConfig) -> Fingerprints:
    """What a run is made of, as plain data: settings, and a hash of each other part.

    Settings are those that are no default and have an effect on the weights. Data are
    the first sample of each split, their number and their type; no randomness is drawn.
    """
    with kept_rng(), left_data_alone(task):
        code = {
            name: describe_code(name, getattr(task, at)) for name, at in CODE.items()
        }
        code["metrics"] = _describe_metrics(task.metrics)
        data = {
            split: describe_data(split, getattr(task, f"{split}_data"))
            for split in ("train", "val", "test")
        }
        return {
            "config": _settings(config),
            "model": hash_parts(describe_model(task.model)),
            "code": {name: hash_parts(parts) for name, parts in code.items()},
            "data": {name: hash_parts(parts) for name, parts in data.items()},
        }


def _describe_metrics(metrics: Any) -> Iterator[str]:
    if not isinstance(metrics, Mapping):
        yield from describe_code("metrics", metrics)
        return
    for name, metric in metrics.items():
        yield from describe_code(name, metric)


def _settings(config: RunConfig) -> dict[str, str]:
    idle = {
        leaf
        for section in WITHOUT_EFFECT
        for leaf in type(getattr(config, section)).model_fields
    }
    changed = config.changes().items()
    return {leaf: repr(value) for leaf, (value, _) in changed if leaf not in idle}


def run_fingerprint(parts: Fingerprints) -> str:
    """Sixteen hex digits over the config, the code and the data of a run."""
    return hashlib.sha256(repr(_ordered(parts)).encode()).hexdigest()[:16]


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, _ordered(value[key])) for key in sorted(value)]
    return value


def make_verdict(
    findings: Sequence[Finding], parts: Fingerprints, depth: str
) -> dict[str, Any]:
    """The verdict as plain data.

    Args:
        findings: Of all checks.
        parts: From :func:`fingerprints`; empty where the data could not be read.
        depth: The depth that was run.
    """
    return {
        "passed": all(finding.severity != "fail" for finding in findings),
        "fingerprint": run_fingerprint(parts) if parts else "",
        "parts": parts,
        "depth": depth,
        "time": time.time(),
        "ids": {finding.id: finding.severity for finding in findings},
    }


def verdict_is_current(task: Any, config: RunConfig) -> tuple[bool, str]:
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
    if not verdict["fingerprint"]:
        return False, "the last preflight was cut short, and did not read the data"
    now = fingerprints(task, config)
    if verdict["fingerprint"] == run_fingerprint(now):
        return True, "preflight passed for this config, code and data"
    changed = list(_changes(verdict.get("parts") or {}, now))
    more = f" and {len(changed) - MAX_TOLD} more" if len(changed) > MAX_TOLD else ""
    told = "; ".join(changed[:MAX_TOLD]) or "config, code or data"
    return False, f"changed since the last preflight: {told}{more}"


def _changes(before: Fingerprints, now: Fingerprints) -> Iterator[str]:
    """What differs, each in a few words."""
    if not before:
        return
    old, new = before["config"], now["config"]
    defaults = {key: repr(value) for key, value in RunConfig().leaves().items()}
    for leaf in dict.fromkeys((*old, *new)):
        was, value = (kept.get(leaf, defaults.get(leaf, "None")) for kept in (old, new))
        if was != value:
            yield f"the setting {leaf} was {was}, is now {value}"
    if before["model"] != now["model"]:
        yield "the model: its class, its code or its parameters"
    for name, digest in now["code"].items():
        if before["code"].get(name) != digest:
            yield f"the code of {name}"
    for split, digest in now["data"].items():
        if before["data"].get(split) != digest:
            yield f"the data of '{split}'"
