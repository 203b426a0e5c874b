"""How the run went: sessions, what was refused or short, what was said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nbutils.monitor.events import Event
from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section, folded, moment, paragraph, table
from nbutils.monitor.runview import format_duration, format_number
from nbutils.monitor.sentences import mark, sentence

__all__ = ["Sitting", "course_section", "sittings", "troubles_section"]

_MAX_EVENTS = 150
_MAX_SITTINGS = 60
_MAX_DETAIL = 400


@dataclass(slots=True)
class Sitting:
    """One process of the run, from its start or resume to its end.

    Attributes:
        start_s: When it began.
        first_step: Where it began.
        last_s: Its last event.
        last_step: Where it came to.
        device: What it ran on.
        ending: How it ended.
    """

    start_s: float
    first_step: int
    last_s: float
    last_step: int
    device: str = ""
    ending: str = ""

    @property
    def seconds(self) -> float:
        """From its first event to its last."""
        return self.last_s - self.start_s


def sittings(events: Sequence[Event]) -> list[Sitting]:
    """The processes of a run, told by its events."""
    found: list[Sitting] = []
    is_open = False
    for event in events:
        kind, time_s = event["kind"], float(event.get("time_s") or math.nan)
        step = event.get("step")
        step = step if isinstance(step, int) else None
        # A resumed process writes ``resume`` and then ``run_start``.
        is_second = kind == "run_start" and is_open and found[-1].ending == "resumed"
        if kind == "resume" or (kind == "run_start" and not is_second):
            found.append(Sitting(time_s, step or 0, time_s, step or 0))
            found[-1].ending = "resumed" if kind == "resume" else ""
            is_open = True
        if not found:
            continue
        now = found[-1]
        if kind == "run_start":
            now.device, now.ending = str(event.get("device") or ""), ""
        if is_open:
            now.last_s = time_s
            now.last_step = max(now.last_step, step or 0)
        if kind == "run_end":
            now.ending = f"{event.get('status')}: {event.get('reason')}"
            is_open = False
    return found


def course_section(ground: Ground) -> Section:
    """When it ran, on what, and how each process ended."""
    found = sittings(ground.record.events)
    if not found:
        return Section("course", "Course", "", "the start of the run in events.jsonl")
    machines = _machines(ground)
    shown = found[-_MAX_SITTINGS:]
    first = len(found) - len(shown)
    is_last_open = ground.status in ("running", "unknown")
    rows = []
    for number, sitting in enumerate(shown, first + 1):
        is_last = number == len(found)
        lost = "running" if is_last and is_last_open else "no end recorded: killed"
        ending = "" if sitting.ending == "resumed" else sitting.ending
        rows.append(
            (
                str(number),
                moment(sitting.start_s),
                f"{sitting.first_step:,} to {sitting.last_step:,}",
                format_duration(sitting.seconds),
                machines.get(number, sitting.device or "-"),
                (ending or lost)[:_MAX_DETAIL],
            )
        )
    head = ("process", "began", "steps", "took", "machine", "ended")
    num = len(found)
    caption = "One process from start to end." if num == 1 else _pauses(found)
    left = f" The first {first} are left out." if first else ""
    return Section("course", "Course", table(head, rows, caption=caption + left))


def _pauses(found: Sequence[Sitting]) -> str:
    """How often it was continued, and how long nobody worked on it."""
    gaps = [b.start_s - a.last_s for a, b in pairwise(found)]
    pause_s = sum(gap for gap in gaps if math.isfinite(gap) and gap > 0)
    redone = sum(max(0, a.last_step - b.first_step) for a, b in pairwise(found))
    again = (
        f"{redone:,} steps were done again after it" if redone else "no step was lost"
    )
    num = len(found) - 1
    times = "once" if num == 1 else f"{num} times"
    return f"Continued {times}; {format_duration(pause_s)} between processes; {again}."


def _machines(ground: Ground) -> dict[int, str]:
    """What each process ran on, where that was written down."""
    recorded = ground.record.run.get("sessions")
    if not isinstance(recorded, list):
        return {}
    starts = [sitting.start_s for sitting in sittings(ground.record.events)]
    named: dict[int, str] = {}
    for item in recorded:
        if not isinstance(item, Mapping) or not isinstance(item.get("time_s"), float):
            continue
        later = [i for i, start_s in enumerate(starts) if start_s >= item["time_s"]]
        if later:  # a record is written just before its process's first event
            named[later[0] + 1] = str(item.get("machine") or "-")
    return named


def troubles_section(ground: Ground) -> Section:
    """What was refused, short or said, and a list of it."""
    view = ground.record.view
    if not ground.record.events:
        return Section(
            "events", "Refused work, memory, alarms", "", "events in events.jsonl"
        )
    counts = view.counts
    rows = [
        (name, f"{number:,}", told)
        for name, number, told in (
            ("updates refused", view.num_refused, _share(view.num_refused, view.step)),
            ("out of memory", counts["oom"], "split and tried again, same samples"),
            ("rollbacks", counts["rollback"], "back to an earlier snapshot"),
            ("watchdog alarms", counts["watchdog"], ""),
            ("alerts", counts["alert"], ""),
            ("messages", counts["message"], ""),
        )
        if number
    ]
    calm = "No update was refused, no memory ran out, no watchdog spoke."
    body = table(("", "number", ""), rows, numeric=(1,)) if rows else paragraph(calm)
    listed = "".join(_listed(view.notable, view.first_time_s))
    return Section("events", "Refused work, memory, alarms", body + listed)


def _share(number: int, steps: int) -> str:
    return (
        f"{number / steps:.2%} of the steps; the weights did not see them"
        if steps
        else ""
    )


def _listed(events: Sequence[Event], start_s: float) -> Iterator[str]:
    if not events:
        return
    shown = list(events[-_MAX_EVENTS:])
    cut = len(events) - len(shown)
    rows = [
        (format_duration(_seconds(event, start_s)), mark(event), text[:_MAX_DETAIL])
        for event in shown
        if (text := sentence(event) or _fields(event))
    ]
    note = f"The first {cut:,} of {len(events):,} are left out. " if cut else ""
    caption = f"{note}Times count from {moment(start_s)}."
    yield folded(
        f"Events that matter ({len(events):,})",
        table(("time", "", "what"), rows, caption=caption),
    )


def _seconds(event: Event, start_s: float) -> float:
    time_s = event.get("time_s")
    return float(time_s) - start_s if isinstance(time_s, (int, float)) else math.nan


def _fields(event: Event) -> str:
    return "  ".join(
        f"{name} {format_number(value)}"
        for name, value in event.items()
        if name not in ("time_s", "kind") and isinstance(value, (str, int, float))
    )
