"""What preflight and the engine say about a program of the gallery."""

from __future__ import annotations

import importlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbutils as nb
from gallery.case import FAULTS, HEALTHY, Fault, Healthy, Program
from nbutils.monitor.events import read_events
from nbutils.preflight import Finding

__all__ = ["Alarm", "Look", "load", "look", "names_it", "train_epoch"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Alarm:
    """One thing that was said about a program.

    Args:
        source: The check's id, or where the engine said it.
        severity: ``"fail"`` or ``"warn"``.
        title: What was said first.
        text: All of it.
    """

    source: str
    severity: str
    title: str
    text: str


@dataclass
class Look:
    """All alarms of one program, the seconds of each check and of all."""

    alarms: list[Alarm] = field(default_factory=list)
    seconds: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)

    def of(self, severity: str) -> list[Alarm]:
        """The alarms of one severity."""
        return [alarm for alarm in self.alarms if alarm.severity == severity]


def load() -> tuple[list[Fault], list[Healthy]]:
    """All programs; importing the files puts them on the lists."""
    for path in sorted(HERE.glob("*.py")):
        if path.stem.startswith(("faults_", "healthy_")):
            importlib.import_module(f"gallery.{path.stem}")
    return FAULTS, HEALTHY


def names_it(fault: Fault, alarm: Alarm) -> bool:
    """Whether an alarm holds a word that stands for the fault."""
    text = alarm.text.lower()
    return any(word.lower() in text for word in fault.told)


def look(program: Program, depth: str = "standard") -> Look:
    """What preflight says before training."""
    start = time.perf_counter()
    settings = {"device": "cpu", **program.settings}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = nb.preflight(
                program.task, depth=depth, on_failure="return", **settings
            )
    except nb.NbutilsError as error:  # a setting that is refused is an alarm as well
        alarm = Alarm("config", "fail", str(error).split("\n")[0], str(error))
        return Look([alarm], time.perf_counter() - start)
    alarms = [_alarm(f) for f in report.findings if f.severity in ("fail", "warn")]
    alarms += [
        Alarm(f.id, "fail", "a check of ours broke down", str(f.details))
        for f in report.findings
        if "fault of nbutils" in f"{f.title} {f.details}"
    ]
    costs = {finding.id: finding.cost_s for finding in report.findings}
    return Look(alarms, time.perf_counter() - start, costs)


def _alarm(finding: Finding) -> Alarm:
    text = "\n".join((finding.title, finding.expected, finding.actual, finding.fix))
    return Alarm(finding.id, finding.severity, finding.title, text)


def train_epoch(program: Program) -> Look:
    """What the engine says in the first epoch: refusals, watchdogs, an error."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        alarms = list(_trained(program, Path(folder)))
    return Look(alarms, time.perf_counter() - start)


def _trained(program: Program, folder: Path) -> Iterator[Alarm]:
    settings = {"device": "cpu", **program.settings, "epochs": 1, "panel": "off"}
    settings |= {"preflight": "skip", "runs_dir": str(folder), "tracker": "none"}
    error = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            coordinator = nb.TrainingCoordinator(program.task, **settings)
            result = coordinator.train()
        if result.stop_reason != "completed":
            error = f"stopped: {result.stop_reason}"
    except Exception as raised:  # whatever stops the run is what was said
        error = f"{type(raised).__name__}: {raised}"
    if error:
        yield Alarm("engine", "fail", error.split("\n")[0], error)
    for path in folder.rglob("events.jsonl"):
        for event in read_events(path):
            kind = event.get("kind")
            if kind in ("watchdog", "message", "refused", "rollback", "oom"):
                text = str(event.get("text") or event)
                yield Alarm(str(event.get("id", kind)), "warn", text, text)
