"""Weights & Biases: a view over the event log, online with a key, offline without.

Each event that carries numbers is one ``run.log``, whose W&B step is the number of the
event's line in ``events.jsonl``. That number only grows, whatever the training step
does, so W&B drops nothing after a resume or a roll-back; and it says which events a
service has, so sending the rest again doubles nothing. Curves are drawn over ``step``.

One call takes 0.2 ms (0.16 ms of CPU, measured with 0.31), so no event is left out:
``log_every_steps`` is what thins them, in the log and here alike.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import show
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.redact import redact
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.access import HOW_TO_GO_ONLINE, Access, choose_access
from nbutils.tracking.alerts import alert_of
from nbutils.tracking.describe import build_wandb_config, run_summary
from nbutils.tracking.link import TrackerLink
from nbutils.tracking.replay import num_lines
from nbutils.tracking.tracker import bins, numbers
from nbutils.tracking.uploads import upload_files
from nbutils.tracking.wandb_api import example_page, histogram, open_run

__all__ = ["WandbTracker"]

_GAP = 100_000
"""Rows left free after a copied checkpoint: its run may have gone on beyond it."""

_FACTS = (
    *("device", "precision", "precision_reason", "update", "num_parameters"),
    *("planned_steps", "steps_per_epoch"),
)


class WandbTracker:
    """Mirrors events into a W&B run whose files lie inside the run directory.

    It starts with the ``run_start`` event: by then a checkpoint has told the id of the
    W&B run, and nothing is left behind by a run that never got so far. What earlier
    processes of this run could not hand over, killed or without a network, is sent
    first.

    Args:
        config: The run's config.
        directory: The run directory.
        run_id: Names the W&B run where neither ``run.json`` nor a checkpoint does.
        link: Keeps the id for snapshots, passes on W&B's Stop.
        access: How to reach W&B, and no other way; by default as
            :func:`choose_access` finds, and offline where that fails.
    """

    name = "W&B"

    def __init__(
        self,
        config: Any,
        directory: RunDirectory,
        run_id: str,
        link: TrackerLink | None = None,
        access: Access | None = None,
    ) -> None:
        self.config = config
        self.directory = directory
        self.link = link or TrackerLink()
        self.id = ""
        self.access = access or Access("", "not chosen yet")
        self._is_strict = access is not None
        self._run_id = run_id
        self._run: Any = None
        self._line = num_lines(directory.events_path)
        self._own_line = self._line  # the first one of this process
        self._offset = 0
        self._examples: Event = {}
        self._last_row = -1
        self._is_over = False
        self._lock = threading.RLock()  # monitors write from a thread of their own

    @property
    def url(self) -> str | None:
        """The run's page; none while it is offline."""
        if self._run is None or self.access.mode != "online":
            return None  # asking an offline run prints a warning
        return self._run.url

    def write(self, event: Event) -> None:
        """Log what the event carries; the first ``run_start`` opens the W&B run."""
        with self._lock:
            line, self._line = self._line, self._line + 1
            if event["kind"] == "run_start" and self._run is None and not self._is_over:
                self._is_over = True  # whatever fails below, it is not tried again
                self._start(event, until=line)
                self._is_over = self._run is None
            if self._run is None:
                return
            self._log(event, line)
            if self.config.tracking.alerts:
                self._alert(event)

    def replay(self, events: Iterable[Event], tick: Callable[[], None]) -> int:
        """Open the W&B run and send what it lacks of a whole log; how many events.

        Raises:
            EnvironmentProblem: W&B cannot be opened as ``access`` says.
        """
        events = list(events)
        if not self._choose_access():
            return 0
        starts = [event for event in events if event["kind"] == "run_start"]
        first = self._open(starts[-1] if starts else {})
        for line, event in enumerate(events):
            tick()
            if line >= first:
                self._log(event, line)
        self._line = len(events)
        return max(0, len(events) - first)

    def finish(self, exit_code: int = 0) -> None:
        """Send summary and files, and end the W&B run.

        Args:
            exit_code: 0 after a graceful end, 1 after an error, 255 after an abort.

        Raises:
            EnvironmentProblem: W&B did not take everything; it says what to do.
        """
        with self._lock:
            run, self._run, self._is_over = self._run, None, True
        if run is None:
            return
        problems = [
            problem
            for what, action in (
                (
                    "its summary",
                    lambda: run.summary.update(run_summary(self.directory)),
                ),
                ("the examples", lambda: self._show_examples(run)),
                ("the files", lambda: self._upload(run)),
                ("the end", lambda: run.finish(exit_code=exit_code)),
            )
            if (problem := _attempt(what, action))
        ]
        if problems:
            raise EnvironmentProblem(
                f"W&B did not take {' and '.join(problems)}. Everything is in "
                f"{self.directory.path}; to send what is missing: nbutils sync "
                f"{self.directory.path} --to wandb"
            )
        self.directory.update_json("run.json", wandb_lines=self._line)

    def _start(self, event: Event, until: int) -> None:
        """Open the W&B run; send lines before ``until`` that it has not got."""
        if not self._choose_access():
            return
        first = self._open(event)
        self._introduce()
        if first < until:
            before = read_events(self.directory.events_path)[first:until]
            for line, old in enumerate(before, first):
                self._log(old, line)

    def _choose_access(self) -> bool:
        """Decide how to reach W&B, unless that is given; whether to at all."""
        if not self._is_strict:
            self.access = choose_access(self.config.tracking.wandb_mode)
        return self.access.mode != "disabled"

    def _open(self, start: Event) -> int:
        """Open the W&B run; gives the first line of the log that it lacks."""
        known = self.directory.read_json("run.json") or {}
        ids = self.link.ids
        found = known.get("wandb_id") or ids.get("wandb_id") or self._run_id
        self.id = re.sub(r"[^A-Za-z0-9_-]", "-", str(found))[:64]
        facts = _facts(start, known)
        values = build_wandb_config(self.config, facts=facts)
        self._run, self.access = open_run(
            self, values, self.access, falls_back=not self._is_strict
        )
        self._offset = int(known.get("wandb_offset") or 0)
        first = int(known.get("wandb_lines") or 0)
        next_step = int(ids.get("wandb_step") or 0)
        if self.access.mode == "online":  # what it has, the service says itself
            next_step = max(int(self._run.step), int(self._run.starting_step))
            first = max(0, next_step - self._offset)
        if next_step > self._offset + self._own_line:  # sent from another folder
            gap = 0 if self.access.mode == "online" else _GAP
            self._offset = next_step + gap - self._own_line
            first = self._own_line
        ids["wandb_id"] = self.id
        self.directory.update_json(
            "run.json",
            wandb_id=self.id,
            wandb_mode=self.access.mode,
            wandb_url=self.url,
            wandb_offset=self._offset,
        )
        return first

    def _log(self, event: Event, line: int) -> None:
        values: dict[str, Any] = dict(numbers(event))
        found = bins(event)
        if found is not None:
            values[found.name] = histogram(found)
        if event["kind"] == "examples":
            self._examples = event
        self.link.ids["wandb_step"] = self._offset + line + 1
        if not values:
            return
        for name, key in (
            ("step", "step"),
            ("epoch", "epoch"),
            ("_timestamp", "time_s"),
        ):
            if event.get(key) is not None:
                values[name] = event[key]
        self._run.log(values, step=self._offset + line, commit=True)
        self._last_row = line

    def _alert(self, event: Event) -> None:
        alert = alert_of(event, self.directory.path.name)
        if alert is not None:
            self._run.alert(alert.title, alert.text, alert.level)

    def _show_examples(self, run: Any) -> None:
        """The last best and worst examples, as a table in the row of the last line."""
        page = example_page(self._examples)
        if page is not None and self._last_row < self._line - 1:
            step = self._offset + self._line - 1
            run.log({"examples": page}, step=step, commit=True)

    def _summarise(self, run: Any) -> None:
        run.summary.update(run_summary(self.directory))

    def _upload(self, run: Any) -> None:
        for text in upload_files(run, self.config, self.directory):
            self.link.tell(text)

    def _introduce(self) -> None:
        if self.access.mode == "online":
            show(f"W&B: {self.url}")
            return
        needed = f"{HOW_TO_GO_ONLINE}, then run" if self.access.needs_key else "run"
        show(
            f"W&B is offline: {self.access.reason}. To see the run there, {needed}: "
            f"nbutils sync {self.directory.path}"
        )


def _facts(start: Event, known: dict[str, Any]) -> dict[str, Any]:
    """What the log and ``run.json`` know of the run beside its config."""
    facts = {name: start[name] for name in _FACTS if start.get(name) is not None}
    facts.update(known.get("model") or {})
    facts.update({n: known[n] for n in ("task", "task_fingerprint") if n in known})
    return facts


def _attempt(what: str, action: Callable[[], object]) -> str:
    """Do one thing of an end; a failure as text, so that the others still happen."""
    try:
        action()
    except Exception as error:
        return redact(f"{what} ({type(error).__name__}: {error})")
    return ""
