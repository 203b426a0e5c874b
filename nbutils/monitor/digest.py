"""The summary of a run: what it was, what it reached, what went wrong, what it left.

Read from the run directory alone; :func:`write_digest` leaves it there as
``summary.json`` when the run ends.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.facts import format_bytes
from nbutils.monitor.record import RunRecord
from nbutils.monitor.redact import redact
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import NO_METRIC, format_duration, format_number
from nbutils.monitor.standing import standing

__all__ = ["FILE", "RunDigest", "write_digest"]

FILE = "summary.json"
_LEFT = {
    "events": "events.jsonl",
    "log": "run.log",
    "report": "report.html",
    "metrics": "metrics.csv",
    "config": "config.yaml",
    "environment": "environment.json",
    "preflight": "preflight.html",
    "best weights": "checkpoints/best/model.safetensors",
}
_TROUBLE = ("refused", "rollback", "oom", "watchdog")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDigest:
    """One run in numbers.

    Args:
        name: The folder's name.
        status: ``finished``, ``stopped``, ``failed``, ``interrupted``, ``killed``, …
        stop_reason: Why it ended.
        model: ``type``, ``class``, ``parameters`` and ``trainable`` as far as known.
        where: ``device`` and ``precision``.
        steps: Windows attempted; ``planned_steps``: as many were planned.
        epochs: Passes finished.
        best: ``metric``, ``value``, ``epoch`` and ``step`` of the best epoch.
        final: Numbers of the last epoch.
        test: Numbers of the last test.
        duration_s: Seconds that it trained.
        rates: Medians: ``samples_per_s``, ``steps_per_s``, others where measured.
        trouble: How often: ``refused``, ``rollback``, ``oom``, ``watchdog``,
            ``resume``, ``warning``.
        alarms: What the watchdogs said.
        checkpoints: Names of those kept, oldest first.
        checkpoint_bytes: Their size together.
        files: Where things are; relative to ``path``.
        path: The run directory.
    """

    name: str
    status: str
    stop_reason: str
    model: Mapping[str, Any]
    where: Mapping[str, str]
    steps: int
    planned_steps: int | None
    epochs: int
    best: Mapping[str, Any]
    final: Mapping[str, float]
    test: Mapping[str, float]
    duration_s: float
    rates: Mapping[str, float]
    trouble: Mapping[str, int]
    alarms: list[str]
    checkpoints: list[str]
    checkpoint_bytes: int
    files: Mapping[str, str] = field(repr=False)
    path: str = ""

    @classmethod
    def read(cls, run_dir: str | Path) -> RunDigest:
        """The digest of what lies in a run directory now.

        Raises:
            EnvironmentProblem: It holds no events of a run, or a damaged file.
        """
        record = RunRecord.read(run_dir)
        if not record.events:
            raise EnvironmentProblem(
                f"{run_dir} holds no events of a run; expected a run directory with "
                "events.jsonl in it. Pass the folder that the run printed."
            )
        view, run, start = record.view, record.run, record.view.start
        kept = _checkpoints(RunDirectory(run_dir).checkpoints_dir)
        return cls(
            name=record.name,
            status=standing(record.path, run, record.status),
            stop_reason=redact(record.stop_reason),
            model=_model(run.get("model") or {}, start),
            where={k: str(start[k]) for k in ("device", "precision") if k in start},
            steps=max(view.step, int(run.get("step") or 0)),
            planned_steps=start.get("planned_steps"),
            epochs=len(view.rows),
            best={k: v for k, v in record.best.items() if k != "path"},
            final=_numbers(view.rows[-1]) if view.rows else {},
            test=_numbers(run.get("test_metrics") or {}),
            duration_s=round(record.seconds, 3),
            rates=_rates(record),
            trouble=_trouble(record),
            alarms=[
                redact(f"{event.get('id')}: {event.get('text')}")
                for event in record.events
                if event["kind"] == "watchdog"
            ],
            checkpoints=[path.name for path in kept],
            checkpoint_bytes=_size(kept),
            files={k: n for k, n in _LEFT.items() if (record.path / n).exists()},
            path=str(record.path.resolve()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        heading = f"run {self.name}: {self.status}, {self.stop_reason}"
        return "\n".join([heading, *self.lines()])

    def lines(self, *wanted: str) -> list[str]:
        """The lines below the heading; all of them, or those of some labels."""
        labels = {
            "model": self._model_text(),
            "work": self._work_text(),
            "best": _best_text(self.best),
            "last": _listed(self.final),
            "test": _listed(self.test),
            "trouble": _counted(self.trouble),
            "kept": self._kept_text(),
            "files": self._files_text(),
        }
        found = [
            f"  {name:<8} {text}"
            for name, text in labels.items()
            if text and (not wanted or name in wanted)
        ]
        return found + ([] if wanted else [f"  ! {alarm}" for alarm in self.alarms])

    def _model_text(self) -> str:
        found = self.model
        parts = [str(found[key]) for key in ("class", "type") if found.get(key)]
        name = f"{parts[0]} ({parts[1]})" if len(parts) > 1 else "".join(parts)
        sizes = [
            f"{format_number(found[key])} {word}"
            for key, word in (("parameters", "parameters"), ("trainable", "trainable"))
            if found.get(key) is not None
        ]
        return ", ".join([name, *sizes] if name else sizes)

    def _work_text(self) -> str:
        of = f" of {self.planned_steps:,} planned" if self.planned_steps else ""
        noun = "epoch" if self.epochs == 1 else "epochs"
        parts = [f"{self.steps:,} steps{of}", f"{self.epochs} {noun}"]
        parts.append(format_duration(self.duration_s))
        if rate := self.rates.get("samples_per_s"):
            parts.append(f"{format_number(round(rate))} samples/s")
        if rate := self.rates.get("tokens_per_s"):
            parts.append(f"{format_number(round(rate))} tokens/s")
        on = ", ".join(self.where.values())
        return ", ".join(parts) + (f" on {on}" if on else "")

    def _kept_text(self) -> str:
        if not self.checkpoints:
            return "no checkpoint"
        size = format_bytes(self.checkpoint_bytes)
        return f"{', '.join(self.checkpoints[-6:])} ({size})"

    def _files_text(self) -> str:
        return f"{self.path}: {', '.join(self.files.values())}"


def write_digest(run_dir: str | Path) -> Path | None:
    """Write ``summary.json`` into the run directory; gives its path.

    A run that ended before its first event leaves none.
    """
    log = RunDirectory(run_dir).events_path
    if not log.exists() or not log.stat().st_size:
        return None
    return RunDirectory(run_dir).write_json(FILE, RunDigest.read(run_dir).to_dict())


def _model(told: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "type": told.get("model_type"),
        "class": told.get("model_class"),
        "parameters": told.get("total_params", start.get("num_parameters")),
        "trainable": told.get("trainable_params"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _rates(record: RunRecord) -> dict[str, float]:
    """Medians, so that a pause or the first steps do not count."""
    found: dict[str, list[float]] = {}
    for event in record.events:
        if event["kind"] == "step" and event.get("samples_per_s"):
            found.setdefault("samples_per_s", []).append(event["samples_per_s"])
        if event["kind"] != "monitor":
            continue
        for name, value in (event.get("values") or {}).items():
            if name.startswith("throughput/") and isinstance(value, (int, float)):
                found.setdefault(name.removeprefix("throughput/"), []).append(value)
    rates = {
        name: round(statistics.median(values), 3) for name, values in found.items()
    }
    seconds = sum(row.get("seconds") or 0.0 for row in record.view.rows)
    last_step = record.view.rows[-1].get("step", 0) if record.view.rows else 0
    if seconds > 0 and last_step:
        rates["steps_per_s"] = round(last_step / seconds, 3)
    return rates


def _trouble(record: RunRecord) -> dict[str, int]:
    kinds = [event["kind"] for event in record.events]
    found = {kind: kinds.count(kind) for kind in (*_TROUBLE, "resume")}
    found["warning"] = sum(
        event["kind"] == "message" and event.get("level") in ("warning", "error")
        for event in record.events
    )
    return {name: count for name, count in found.items() if count}


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if (p / "manifest.json").is_file()]
    return sorted(found, key=lambda path: (path.name == "best", path.name))


def _size(folders: Iterable[Path]) -> int:
    files = {
        (status.st_dev, status.st_ino): status.st_size
        for folder in folders
        for file in folder.iterdir()
        if file.is_file()
        for status in [file.stat()]
    }
    return sum(files.values())


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and name not in NO_METRIC
    }


def _listed(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {format_number(value)}" for name, value in values.items())


def _best_text(best: Mapping[str, Any]) -> str:
    if "value" not in best:
        return "not known: no finished epoch with the monitored metric"
    at = [
        f"{key} {best[key]}" for key in ("epoch", "step") if best.get(key) is not None
    ]
    where = f" at {', '.join(at)}" if at else ""
    return f"{best.get('metric', 'metric')} {format_number(best['value'])}{where}"


def _counted(counts: Mapping[str, int]) -> str:
    words = {"oom": "out of memory", "watchdog": "by watchdogs"}
    return ", ".join(f"{count} {words.get(n, n)}" for n, count in counts.items())
