"""How a model was trained, as its run's directory tells it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from nbutils.checkpoint.card_text import plain
from nbutils.data.sources import num_samples
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import format_duration, format_number

__all__ = ["training_facts"]

_PACKAGES = ("torch", "torchvision", "timm", "torch-geometric", "numpy")


def training_facts(record: RunRecord, task: Any) -> list[tuple[str, str]]:
    """Name and value of all that is known, ready for a table."""
    run, start = record.run, record.view.start
    sizes = {split: _count(task, split) for split in ("train", "val", "test")}
    read = "; ".join(f"{split} {n:,}" for split, n in sizes.items() if n is not None)
    created = run.get("created_s")
    architecture = record.settings.get("architecture", ("null", ""))[0]
    facts: dict[str, Any] = {
        "architecture": "" if architecture == "null" else architecture,
        "samples": read,
        "steps": format_number(run.get("step")) if run.get("step") else "",
        "epochs": format_number(run["epoch"]) if run.get("epoch") else "",
        "how it ended": run.get("stop_reason"),
        "updates refused": run.get("skipped"),
        "duration": format_duration(run["seconds"]) if run.get("seconds") else "",
        "begun": f"{datetime.fromtimestamp(created, timezone.utc):%Y-%m-%d} UTC"
        if isinstance(created, (int, float))
        else "",
        "device, precision": ", ".join(
            str(start[key]) for key in ("device", "precision") if start.get(key)
        ),
        "seed": record.settings.get("seed", ("", ""))[0],
        "checks before the run": _verdict(run),
        "task fingerprint (model, code, data)": run.get("task_fingerprint"),
        "config hash": run.get("config_hash"),
        "run": run.get("run_id"),
        "versions": _versions(record),
    }
    return [(name, plain(value)) for name, value in facts.items() if value]


def _verdict(run: Mapping[str, Any]) -> str:
    verdict = run.get("verdict")
    if "verdict" not in run:
        return ""
    if not isinstance(verdict, dict):
        return "not run"
    ids = verdict.get("ids", {})
    warned = [name for name, severity in ids.items() if severity == "warn"]
    outcome = "passed" if verdict.get("passed") else "failed"
    more = f"; warnings: {', '.join(warned)}" if warned else ""
    return f"{outcome} ({verdict.get('depth')}, {len(ids)} checks{more})"


def _versions(record: RunRecord) -> str:
    """Of the machine that trained, as it was written down then."""
    facts = (RunDirectory(record.path).read_json("environment.json") or {}).get("facts")
    if not isinstance(facts, dict):
        return ""
    named = dict(p.split(" ", 1) for p in _split(facts.get("packages")) if " " in p)
    found = [f"Python {str(facts.get('python', '')).split(' on ')[0]}"]
    found += [f"{name} {named[name]}" for name in _PACKAGES if name in named]
    try:
        found.append(f"nbutils {metadata.version('nbutils')}")
    except metadata.PackageNotFoundError:  # run from a source folder
        return ", ".join(found)
    return ", ".join(found)


def _split(text: Any) -> list[str]:
    return str(text or "").split(", ")


def _count(task: Any, split: str) -> int | None:
    data = getattr(task, f"{split}_data", None)
    return None if data is None else num_samples(data)
