"""``doctor()``: facts about this machine, and advice where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from nbutils.environment.advice import Advice
from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.environment.machine import Machine, inspect_machine
from nbutils.environment.rules import advise
from nbutils.errors import EnvironmentProblem

__all__ = ["DoctorReport", "doctor"]

GIB = 2**30
PACKAGES = "packages"


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What the doctor found.

    Args:
        facts: Measured values by name, in words.
        advice: What to change, the most urgent first; empty on a healthy machine.
    """

    facts: Mapping[str, str]
    advice: Sequence[Advice]

    @property
    def ok(self) -> bool:
        """Whether a run can start here: no advice is a failure."""
        return not any(advice.severity == "fail" for advice in self.advice)

    def to_dict(self) -> dict[str, Any]:
        """Facts and advice as plain data, for ``environment.json``."""
        return {
            "ok": self.ok,
            "facts": dict(self.facts),
            "advice": [asdict(advice) for advice in self.advice],
        }

    def to_json(self) -> str:
        """Facts and advice as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """The card for a terminal."""
        pairs = [(label, fill(text, 76)) for label, text in self.facts.items()]
        facts = Row("info", "This machine", pairs)
        return render_text(*self._heading(), [*self._advice_rows(), facts])

    def _repr_html_(self) -> str:
        """The card for a notebook."""
        rows = [*self._advice_rows(), *self._fact_rows()]
        return render_card(*self._heading(), rows)

    def _heading(self) -> tuple[str, Status, str]:
        """Title, verdict and subtitle of the card."""
        counts = {"fail": 0, "warn": 0, "info": 0}
        for advice in self.advice:
            counts[advice.severity] += 1
        status: Status = "pass"
        if counts["warn"] or counts["fail"]:
            status = "fail" if counts["fail"] else "warn"
        words = {"fail": "to mend first", "warn": "to look at", "info": "to know"}
        said = [f"{counts[key]} {words[key]}" for key in words if counts[key]]
        return "Doctor", status, ", ".join(said) or "this machine is ready to train"

    def _advice_rows(self) -> list[Row]:
        """One open row for each piece of advice."""
        return [
            Row(a.severity, a.what, (("why", a.why), ("fix", a.fix)))
            for a in self.advice
        ]

    def _fact_rows(self) -> list[Row]:
        """The facts in one open row, versions of packages folded beneath it."""
        facts = {k: v for k, v in self.facts.items() if k != PACKAGES}
        packages = self.facts.get(PACKAGES, "")
        pairs = [tuple(item.rsplit(" ", 1)) for item in packages.split(", ") if item]
        return [
            Row("info", "This machine", tuple(facts.items())),
            Row("info", f"{len(pairs)} packages", [(a, b) for a, b in pairs], True),
        ]


def doctor(*, strict: bool = False) -> DoctorReport:
    """Facts about this machine and advice on it; imports torch, trains nothing.

    Args:
        strict: Raise when a run could not start here.

    Raises:
        EnvironmentProblem: ``strict``, and at least one piece of advice is a failure.
    """
    machine = inspect_machine()
    report = DoctorReport(_facts(machine), tuple(advise(machine)))
    if strict and not report.ok:
        failures = [str(a) for a in report.advice if a.severity == "fail"]
        noun = "problem stops" if len(failures) == 1 else "problems stop"
        raise EnvironmentProblem(
            "\n".join([f"{len(failures)} {noun} a run on this machine:", *failures])
        )
    return report


def _facts(machine: Machine) -> dict[str, str]:
    """The measurements in words, in the order they are shown."""
    platform, storage = machine.platform, machine.storage
    kept = platform.persistent_dir
    presence = [f"{k}: {v or 'no'}" for k, v in machine.secrets.items()]
    return {
        "platform": f"{platform.name} ({platform.reason})",
        "front end": "none; widgets stay off" if platform.is_headless else "yes",
        "python": f"{machine.python} on {machine.system}",
        "torch": machine.versions.get("torch", "not installed"),
        **_device_facts(machine),
        "memory": f"{_gib(machine.available_bytes)} free of "
        f"{_gib(machine.memory_bytes)}",
        "disk": f"{_gib(storage.free_bytes)} free at {storage.path}",
        "/dev/shm": "none" if storage.shm_bytes is None else _gib(storage.shm_bytes),
        "persistent folder": "none" if kept is None else str(kept.resolve()),
        "secrets": "; ".join(presence),
        PACKAGES: ", ".join(f"{k} {v}" for k, v in machine.versions.items()),
    }


def _device_facts(machine: Machine) -> dict[str, str]:
    """Device and threads; only the reason without torch."""
    abilities = machine.abilities
    if abilities is None:
        return {"device": f"none ({machine.device_reason})"}
    formats = [name for name in ("bf16", "fp16") if getattr(abilities, name)]
    memory = "" if machine.device == "cpu" else f", {_gib(abilities.memory_bytes)}"
    return {
        "device": f"{machine.device} ({machine.device_reason})",
        "processor": f"{abilities.name}{memory}; "
        f"fast formats: {', '.join(['fp32', *formats])}; "
        f"torch.compile: {'yes' if abilities.compile else 'no compiler found'}",
        "threads": f"{abilities.num_threads} for torch, "
        f"{abilities.num_cores} cores usable",
    }


def _gib(num_bytes: int) -> str:
    """Bytes in GiB."""
    return f"{num_bytes / GIB:.1f} GiB"
