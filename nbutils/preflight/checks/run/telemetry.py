"""R16: every hook fires in order, what is logged is what happened, errors are seen."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass, field
from typing import Any

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.store import CheckpointStore
from nbutils.errors import CheckpointError
from nbutils.monitor.events import Event, read_events
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.rehearsal import Rehearsal, rehearsing
from nbutils.tracking.factory import tracker_names
from nbutils.tracking.tracker import numbers
from nbutils.train.callback import Callback
from nbutils.train.notifier import Notifier
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["CHECK"]

NUM_WINDOWS = 2
TOLERANCE = 1e-4

PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard"}
KEYS: dict[str, tuple[str, ...]] = {
    "run_start": ("planned_steps", "precision", "device", "num_parameters"),
    "step": ("step", "epoch", "loss", "grad_norm", "lr", "samples_per_s"),
    "evaluate": ("step", "metrics"),
    "epoch": ("step", "train_loss", "lr"),
    "checkpoint": ("step", "path"),
    "stop": ("step", "reason"),
}


@dataclass
class _Spy(Callback):
    """Notes every hook."""

    hooks: list[str] = field(default_factory=list)

    def on_fit_start(self, state: RunState) -> None:
        self.hooks.append("on_fit_start")

    def on_epoch_start(self, state: RunState) -> None:
        self.hooks.append("on_epoch_start")

    def on_step_end(self, state: RunState) -> None:
        self.hooks.append("on_step_end")

    def on_evaluate_end(self, state: RunState) -> None:
        self.hooks.append("on_evaluate_end")

    def on_checkpoint(self, state: RunState) -> None:
        self.hooks.append("on_checkpoint")

    def on_epoch_end(self, state: RunState) -> None:
        self.hooks.append("on_epoch_end")

    def on_stop(self, state: RunState) -> None:
        self.hooks.append("on_stop")

    def on_fit_end(self, state: RunState) -> None:
        self.hooks.append("on_fit_end")


def run(probe: Probe, claims: Claims) -> None:
    """The whole of a tiny run, with the watchers that a run has."""
    _judge_package(probe, claims)
    _judge_logging(claims)
    steps = NUM_WINDOWS + probe.config.schedule.warmup_steps
    if steps > 20:
        claims.add("skip", f"telemetry of a run: its warm-up takes {steps} windows")
        return
    settings: dict[str, Any] = {"max_steps": steps, "log_every_steps": 1}
    with rehearsing(probe, mirror=None, tracker="none", **settings) as rehearsal:
        session = rehearsal.session()
        spy = _Spy()
        try:
            _fit(rehearsal, session, spy, steps)
        except CheckpointError:
            return  # R12 tells what cannot be saved
        events = read_events(rehearsal.folder / "events.jsonl")
    _judge_hooks(probe, spy.hooks, session.state, claims)
    _judge_events(probe, events, claims)
    _judge_means(events, session.state, claims)


def _fit(rehearsal: Rehearsal, session: Session, spy: _Spy, steps: int) -> None:
    """The run as it is wired: recorder, what the user attached, saver last."""
    store = CheckpointStore.of(rehearsal.config, rehearsal.folder, _tell_nobody)
    model, parts = session.task.model, session.parts
    saver = CheckpointCallback(store, rehearsal.config.checkpoint, model, parts)
    recorder = session.recorder("rehearsal")
    saver.notify = Notifier([recorder, spy])
    rehearsal.fit(session, steps + 1, recorder, spy, saver)  # the plan ends it


def _judge_hooks(
    probe: Probe, hooks: list[str], state: RunState, claims: Claims
) -> None:
    """Each hook as often and in the order that callbacks are promised."""
    due = ["on_fit_start", "on_epoch_start", "on_step_end", "on_stop", "on_fit_end"]
    due += ["on_evaluate_end"] if probe.data.has("val") else []
    due += ["on_checkpoint"]
    missing = [name for name in due if name not in hooks]
    inner = [name for name in hooks if name not in ("on_fit_start", "on_fit_end")]
    is_ordered = hooks[:1] + hooks[-1:] == ["on_fit_start", "on_fit_end"]
    is_ordered &= inner[:1] == ["on_epoch_start"]
    steps = hooks.count("on_step_end")
    if not missing and is_ordered and steps == state.step:
        claims.add(
            "pass",
            f"every hook fires, {len(hooks)} calls in order",
            actual=" ".join(dict.fromkeys(hooks)),
        )
        return
    claims.add(
        "warn",
        "a hook of the callbacks does not fire as promised",
        expected=f"{', '.join(due)}; on_step_end {state.step} times",
        actual=" ".join(hooks),
        fix="Look for a callback or a loader that ends the loop early.",
    )


def _judge_events(probe: Probe, events: list[Event], claims: Claims) -> None:
    """The log has each kind of event with its fields; a tracker gets numbers."""
    by_kind: dict[str, Event] = {event["kind"]: event for event in events}
    due = [k for k in KEYS if k != "evaluate" or probe.data.has("val")]
    missing = [
        f"{kind}.{key}" if kind in by_kind else kind
        for kind in due
        for key in KEYS[kind]
        if key not in by_kind.get(kind, {})
    ]
    seen = [kind for kind in ("step", "epoch") if kind in by_kind]
    views = {kind: numbers(by_kind[kind]) for kind in seen}
    missing += [f"numbers of {kind}" for kind, found in views.items() if not found]
    if missing:
        claims.add(
            "warn",
            "events.jsonl lacks what panel, report and tracker read",
            expected=", ".join(due),
            actual=f"missing: {', '.join(dict.fromkeys(missing))}",
            fix="Report this: the recorder must write it.",
        )
        return
    names = sorted({name for found in views.values() for name in found})
    claims.add("pass", f"{len(events)} events with all their fields")
    claims.show([("numbers for a tracker", ", ".join(names))])


def _judge_means(events: list[Event], state: RunState, claims: Claims) -> None:
    """The epoch's mean loss against the windows' own losses."""
    losses = [e["loss"] for e in events if e["kind"] == "step"]
    rows = [row for row in state.history if row.get("train_loss") is not None]
    told = [loss for loss in losses if isinstance(loss, (int, float))]
    if len(rows) != 1 or state.skipped or len(told) != state.step:
        return  # several passes, or refused windows: no plain mean
    low, high, mean = min(told), max(told), float(rows[0]["train_loss"])
    slack = TOLERANCE * max(abs(low), abs(high))
    if not math.isfinite(mean) or low - slack <= mean <= high + slack:
        claims.add(
            "pass",
            "the mean that is logged is one of the losses that were met",
            actual=f"train_loss {mean:.5g} of windows {low:.5g} to {high:.5g}",
        )
        return
    claims.add(
        "warn",
        "the mean loss of an epoch is none of its windows'",
        expected=f"between {low:.5g} and {high:.5g}",
        actual=f"{mean:.5g}",
        fix="Look at count_targets: negative or changing counts distort means.",
    )


def _judge_package(probe: Probe, claims: Claims) -> None:
    """A tracker needs its package when the run starts."""
    for kind in tracker_names(probe.config):
        package = PACKAGES.get(kind)
        if package is None:
            continue
        if importlib.util.find_spec(package) is not None:
            claims.add("pass", f"the package of tracker='{kind}' is installed")
            continue
        claims.add(
            "fail",
            f"tracker='{kind}' and its package is not installed",
            expected=f"the package {package}",
            actual="there is no such package; the run would end when it starts",
            fix=f"pip install {package}, or set tracker='none'.",
        )


def _judge_logging(claims: Claims) -> None:
    """A record of level ERROR must come out somewhere."""
    logger = logging.getLogger("nbutils.preflight")
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, "a test record", (), None
    )
    if not logger.isEnabledFor(logging.ERROR):
        _note_dropped("logging is disabled, or its level is above ERROR", claims)
        return
    handlers = _handlers(logger)
    if not handlers and logging.lastResort is not None:
        return
    passing, error = attempt(lambda: [h for h in handlers if _takes(h, record)])
    if error is None and not passing:
        _note_dropped(
            f"none of {len(handlers)} handlers lets a record of level ERROR pass",
            claims,
        )


def _handlers(logger: logging.Logger | None) -> list[logging.Handler]:
    """Handlers that a record of this logger comes to."""
    found: list[logging.Handler] = []
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return found


def _takes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    if isinstance(handler, logging.NullHandler):
        return False
    return handler.level <= record.levelno and bool(handler.filter(record))


def _note_dropped(reason: str, claims: Claims) -> None:
    claims.add(
        "warn",
        "errors that are logged reach nobody",
        expected="a handler that shows records of level ERROR",
        actual=reason,
        fix="Remove the filter or logging.disable(...); errors are shown again after "
        "logging.basicConfig(force=True).",
    )


def _tell_nobody(_text: str) -> None:
    """What does not go as planned raises, or shows in the events."""


CHECK = Check(
    id="R16",
    title="What is logged is what happened",
    why="A curve that is wrong, or an error that nobody sees, misleads for hours.",
    run=run,
    depth="rehearsal",
    needs=("R6",),
)
