"""Part of R11: faults put into the real loop, and what becomes of each."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.store import CheckpointStore
from nbutils.data.batch import tensors
from nbutils.errors import CheckpointError, NonFiniteStepError, SkipBudgetError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.run.hidden import is_numeric, poison
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.rehearsal import Rehearsal, rehearsing
from nbutils.train.callback import Callback
from nbutils.train.memory_errors import OutOfMemoryProblem
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["judge_injections"]

BAD, LAST = 2, 4
"""The window that gets the fault, and the last one of a rehearsal."""

MAX_REFUSALS = 12
MAX_BATCH_BYTES = 256 * 2**20
"""Refused batches are kept on disk: of larger ones none is made."""

REMEMBERED = "later losses were NaN too, a state outside of buffers keeps it"
INJECTED = "a fault that preflight put here"


class _Planted(RuntimeError):
    """Raised on purpose; nobody but the rehearsal expects it."""


@dataclass
class _Weights(Callback):
    """A digest of the trainable weights after each window."""

    model: nn.Module
    after: dict[int, list[float]] = field(default_factory=dict)

    @property
    def are_finite(self) -> bool:
        """Whether they were after every window, if they were at the start."""
        first, *later = self.after.values()
        return not _is_finite(first) or all(map(_is_finite, later))

    def on_fit_start(self, state: RunState) -> None:
        self.after[state.step] = self._digest()

    def on_step_end(self, state: RunState) -> None:
        self.after[state.step] = self._digest()

    def _digest(self) -> list[float]:
        return [_sum(p) for p in self.model.parameters() if p.requires_grad]


def judge_injections(probe: Probe, claims: Claims) -> None:
    """One scenario after the other, cheapest first, while time lasts."""
    scenarios: list[Callable[[Probe, Claims], None]] = [
        _judge_one_bad_window,
        _judge_every_window_bad,
        _judge_out_of_memory,
        _judge_stop,
        _judge_validation_error,
    ]
    for scenario in scenarios:
        started = time.perf_counter()
        _, error = attempt(lambda run=scenario: run(probe, claims))
        probe.rewind()
        if error is not None:  # a task may refuse NaN by itself: that is no fault
            name = scenario.__name__.removeprefix("_judge_").replace("_", " ")
            claims.show([(name, f"ended with {quote(error)}")])
        if probe.seconds_left < time.perf_counter() - started:
            claims.add(
                "skip", "faults in the loop: the rest was left out, time is over"
            )
            return


def _judge_one_bad_window(probe: Probe, claims: Claims) -> None:
    """NaN in one window: refused, nothing moved, and the run goes on."""
    with rehearsing(probe, mirror=None) as rehearsal:
        session = _session(probe, rehearsal, LAST)
        if session is None:
            return
        watch = _Weights(session.task.model)
        spoil = _spoiler(session, {BAD})
        try:
            rehearsal.fit(session, LAST, watch, change=spoil)
        except (NonFiniteStepError, SkipBudgetError) as error:
            _note_early_end(probe, error, claims)
            return
    state = session.state
    if state.skipped == 0:
        claims.show([("NaN in one batch", "did not reach the loss")])
        return
    if state.skipped > 1:
        claims.show([("NaN in one batch", f"{REMEMBERED}: {state.skipped} refused")])
    if not watch.are_finite:
        claims.add(
            "fail",
            "a refused update left NaN in the weights",
            expected=f"the weights of window {BAD - 1} after window {BAD}",
            actual=f"loss and gradient of window {BAD} were NaN, and so are weights",
            fix="Let nothing but the run's optimizer write into trainable weights.",
        )
        return
    moved = watch.after[BAD] != watch.after[BAD - 1]
    claims.add(
        "pass",
        "an update on NaN is refused",
        expected="one refused update, unchanged weights, and the run goes on",
        actual=f"{state.skipped} of {state.step} updates refused, then it went on",
    )
    if moved:  # a forward pass may clip weights by itself
        claims.show([("NaN in one batch", "something but the optimizer moved weights")])


def _note_early_end(probe: Probe, error: Exception, claims: Claims) -> None:
    """The run ended by one bad window: as configured, or since it never recovers."""
    allowed = probe.config.guard.max_consecutive_refusals
    if allowed == 0:
        claims.add("pass", "NaN ends the run: max_consecutive_refusals=0")
        return
    claims.show([("NaN in one batch", f"{REMEMBERED}: {quote(error)}")])


def _judge_every_window_bad(probe: Probe, claims: Claims) -> None:
    """NaN in each window: the budget ends the run and says why."""
    allowed = probe.config.guard.max_consecutive_refusals
    count = allowed + 1
    if count > MAX_REFUSALS:
        return
    with rehearsing(probe, mirror=None) as rehearsal:
        session = _session(probe, rehearsal, count)
        if session is None:
            return
        try:
            spoil = _spoiler(session, set(range(1, count + 2)))
            rehearsal.fit(session, count + 1, change=spoil)
        except (NonFiniteStepError, SkipBudgetError) as error:
            first = str(error).split(". ")[0]
            claims.add(
                "pass",
                "NaN in every batch ends the run",
                expected=f"the end after more than {allowed} refusals in a row",
                actual=f"{first}.",
            )


def _judge_out_of_memory(probe: Probe, claims: Claims) -> None:
    """Memory that runs out twice in one window: split, or told why it cannot be."""
    with rehearsing(probe, mirror=None) as rehearsal:
        session = _session(probe, rehearsal, BAD)
        if session is None:
            return
        forward = session.task.forward
        left = [0]

        def scarce(model: nn.Module, batch: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError(f"CUDA out of memory: {INJECTED}")
            return forward(model, batch)

        def plan(number: int, _window: list[Any]) -> None:
            left[0] = 2 if number == BAD else 0

        session.task.forward = scarce
        try:
            rehearsal.fit(session, BAD, change=plan)
        except OutOfMemoryProblem as error:
            claims.show([("out of memory", f"the run would end: {error}"[:400])])
            return
        except torch.OutOfMemoryError:
            setting = rehearsal.config.guard.on_oom
            claims.show([("out of memory", f"the run would end: on_oom={setting!r}")])
            return
    part = session.micro.micro_batch
    claims.add(
        "pass",
        "a window that does not fit is split",
        actual=f"out of memory in window {BAD}: done in parts of {part} samples",
    )


def _judge_stop(probe: Probe, claims: Claims) -> None:
    """A request to stop: the window is finished, the run saved, and it returns."""
    with rehearsing(probe, mirror=None) as rehearsal:
        session = _session(probe, rehearsal, LAST)
        if session is None:
            return
        store = CheckpointStore.of(rehearsal.config, rehearsal.folder, _tell_nobody)
        saver = CheckpointCallback(
            store, rehearsal.config.checkpoint, session.task.model, session.parts
        )
        handlers: dict[int, Any] = {}

        def stop(number: int, _window: list[Any]) -> None:
            handlers[number] = _handler()
            if number == BAD:
                (rehearsal.folder / "STOP").touch()

        try:
            rehearsal.fit(session, LAST, saver, change=stop)
        except CheckpointError:
            return  # R12 tells what cannot be saved
        steps = [path.name for path in store.steps()]
        handlers[0] = handlers.get(1)
    _judge_handlers(handlers, claims)
    state = session.state
    if state.stop_reason == "stop file" and steps:
        claims.add(
            "pass",
            "a stop finishes the window and saves",
            expected=f"an end after window {BAD} or {BAD + 1}, saved",
            actual=f"ended after window {state.step} by '{state.stop_reason}', "
            f"saved as {steps[-1]}",
        )


def _handler() -> Any:
    """Who gets an interrupt now; nothing to compare outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.getsignal(signal.SIGINT)


def _judge_handlers(handlers: dict[int, Any], claims: Claims) -> None:
    if len({id(handler) for handler in handlers.values()}) == 1:
        return
    claims.add(
        "warn",
        "something takes the interrupt away from the run",
        expected="one handler of SIGINT for the whole run",
        actual="another handler after the first window",
        fix="Call signal.signal in no dataset, model or loss: the run saves when it is "
        "interrupted.",
    )


def _judge_validation_error(probe: Probe, claims: Claims) -> None:
    """An exception in validation ends the run; nobody may swallow it."""
    if not probe.data.has("val"):
        return
    steps = probe.config.schedule.warmup_steps + 1
    if steps > MAX_REFUSALS:
        return
    with rehearsing(probe, mirror=None, max_steps=steps) as rehearsal:
        session = rehearsal.session()

        def broken() -> dict[str, Any]:
            raise _Planted(INJECTED)

        try:
            rehearsal.fit(session, steps + 1, evaluate=broken)
        except _Planted:
            claims.add("pass", "an exception in validation ends the run")


def _session(probe: Probe, rehearsal: Rehearsal, num_windows: int) -> Session | None:
    """A session, if its plan has so many windows and its batches may be kept."""
    session = rehearsal.session()
    planned = session.plan.steps
    size = sum(t.numel() * t.element_size() for _, t in tensors(_first(probe)))
    if (planned is None or planned >= num_windows) and size <= MAX_BATCH_BYTES:
        return session
    session.close()
    return None


def _first(probe: Probe) -> Any:
    return probe.data.batch("train")


def _spoiler(session: Session, numbers: set[int]) -> Callable[[int, list[Any]], None]:
    """NaN into the floats of some windows; into the loss where there are no floats."""
    loss_terms = session.task.loss_terms
    is_due = [False]

    def spoiled(outputs: Any, batch: Any) -> dict[str, Tensor]:
        terms = loss_terms(outputs, batch)
        if not is_due[0]:
            return terms
        return {name: term * math.nan for name, term in terms.items()}

    def change(number: int, window: list[Any]) -> None:
        is_numbers = is_numeric(window[0])
        is_due[0] = number in numbers and not is_numbers
        if number in numbers and is_numbers:
            window[0] = copy.deepcopy(window[0])
            poison(window[0])

    session.task.loss_terms = spoiled  # of the session's own twin of the task
    return change


def _sum(part: Tensor) -> float:
    values = part.detach()
    values = values.abs() if values.is_complex() else values
    weight = torch.arange(1, values.numel() + 1, device=values.device) % 997
    return float((values.reshape(-1).float() * weight).sum())


def _is_finite(digest: list[float]) -> bool:
    return all(map(math.isfinite, digest))


def _tell_nobody(_text: str) -> None:
    """What does not go as planned raises, or shows in what was saved."""
