"""R8: the real loop does the work that the plan states, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe
from nbutils.preflight.rehearsal import Rehearsal, StepCounter, rehearsing
from nbutils.train.callback import Callback
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["CHECK"]

NUM_WINDOWS = 3


class _Backwards(TorchFunctionMode):
    """Counts calls of ``Tensor.backward``, whoever makes them.

    Args:
        model: Calls that reach none of its gradients are counted apart: a part of the
            loss may train itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count = self.own_count = 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not Tensor.backward:
            return func(*args, **(kwargs or {}))
        before = self._versions()
        done = func(*args, **(kwargs or {}))
        if self._versions() == before:
            self.own_count += 1
        else:
            self.count += 1
        return done

    def _versions(self) -> list[tuple[int, int]]:
        return [_version(parameter.grad) for parameter in self._parameters]


def _version(grad: Tensor | None) -> tuple[int, int]:
    """What changes when a backward pass writes into a gradient."""
    if grad is None:
        return -1, 0
    is_plain = grad.layout is torch.strided
    return (grad.data_ptr() if is_plain else grad._nnz()), grad._version


class _FirstPass(Callback):
    """Notes how many windows the first pass had, once it is over."""

    num_windows: int | None = None

    def on_epoch_end(self, state: RunState) -> None:
        if self.num_windows is None:
            self.num_windows = state.step


@dataclass
class _Work:
    """What was counted, and what of it the loop itself asked for."""

    steps: StepCounter
    forwards: int
    backwards: int
    own_backwards: int
    updates: int
    scheduler_steps: int | None
    first_pass: int | None


def run(probe: Probe, claims: Claims) -> None:
    """Run three windows and compare what was done with what was planned."""
    with rehearsing(probe) as rehearsal:
        session = rehearsal.session()
        work = _count(rehearsal, session)
    _judge_windows(session, work, claims)
    _judge_passes(work, claims)
    _judge_updates(session, work, claims)
    _judge_samples(session, work, claims)


def _count(rehearsal: Rehearsal, session: Session) -> _Work:
    """The windows, with a counter at every place where work is done."""
    counts = {"forward": 0, "update": 0}
    forward = session.task.forward

    def counted(model: nn.Module, batch: Any) -> Any:
        counts["forward"] += torch.is_grad_enabled()
        return forward(model, batch)

    def note(*_: Any) -> None:
        counts["update"] += 1

    session.task.forward = counted  # of the session's own twin of the task
    session.optimizer.register_step_post_hook(note)
    before = _scheduler_epoch(session)
    first_pass = _FirstPass()
    with _Backwards(session.task.model) as backwards:
        steps = rehearsal.fit(session, NUM_WINDOWS, first_pass)
    after = _scheduler_epoch(session)
    moved = None if before is None or after is None else after - before
    return _Work(
        steps,
        counts["forward"],
        backwards.count,
        backwards.own_count,
        counts["update"],
        moved,
        first_pass.num_windows,
    )


def _scheduler_epoch(session: Session) -> int | None:
    """Where a scheduler of the task's own stands; none if it does not tell.

    One for plateaus counts evaluations, not updates.
    """
    if session.task.make_schedule is None:
        return None
    state = session.schedule.state_dict().get("torch", {})
    return None if "num_bad_epochs" in state else state.get("last_epoch")


def _judge_windows(session: Session, work: _Work, claims: Claims) -> None:
    plan = session.plan
    due = min(NUM_WINDOWS, plan.steps or NUM_WINDOWS)
    done = work.steps.num_windows
    if done != due:
        claims.add(
            "fail",
            f"{done} windows were trained, {due} were due",
            expected=f"{due} windows",
            actual=f"{done}, then the run ended: {session.state.stop_reason}",
            fix="Look for what asks the run to stop.",
        )
    per_epoch = plan.steps_per_epoch
    first = work.first_pass
    if per_epoch is not None and first is not None and first != per_epoch:
        claims.add(
            "fail",
            "the data gives fewer batches than its length says",
            expected=f"{per_epoch} windows in a pass",
            actual=f"{first} windows, then the data ended",
            fix="Correct __len__ of the data: the schedule ends where it says.",
        )


def _judge_passes(work: _Work, claims: Claims) -> None:
    """One forward and one backward for each batch that has targets."""
    batches = work.steps.num_batches
    if work.own_backwards:
        text = f"{work.own_backwards} that reach no weight of the model"
        claims.show([("other backward passes", text)])
    for name, count in (("forward", work.forwards), ("backward", work.backwards)):
        if count == batches:
            claims.add("pass", f"{count} {name} passes for {batches} batches")
            continue
        claims.add(
            "fail",
            f"{count} {name} passes for {batches} batches",
            expected=f"{batches}: one for each batch",
            actual=f"{count} {name} passes",
            fix=f"Let forward and loss do no {name} pass of their own: the run does "
            "it, scaled and accumulated; for a gradient inside a loss use "
            "torch.autograd.grad.",
        )


def _judge_updates(session: Session, work: _Work, claims: Claims) -> None:
    """The optimizer moves once a window, the schedule once an applied update."""
    windows, refused = work.steps.num_windows, session.state.skipped
    if windows - refused <= work.updates <= windows:
        claims.add("pass", f"{work.updates} optimizer steps for {windows} windows")
    else:
        claims.add(
            "fail",
            f"{work.updates} optimizer steps for {windows} windows",
            expected=f"{windows}, of which {refused} may be refused",
            actual=f"{work.updates} optimizer steps",
            fix="Let no hook, forward or loss call optimizer.step(): the run does.",
        )
    moved = work.scheduler_steps
    position = session.schedule.position
    if moved is None:
        moved = position
    if moved == position == windows - refused:
        claims.add("pass", f"{moved} scheduler steps")
        return
    claims.add(
        "fail",
        f"{moved} scheduler steps for {windows - refused} applied updates",
        expected=f"{windows - refused}",
        actual=f"{moved}",
        fix="Let nothing else call scheduler.step(): the run does, once an update.",
    )


def _judge_samples(session: Session, work: _Work, claims: Claims) -> None:
    """Samples in the batches against those that the order names."""
    found = _planned_samples(session, work.steps.num_windows)
    seen = work.steps.num_samples
    if found is None:
        claims.add("skip", "samples against the plan: a stream does not name them")
    elif found == seen:
        claims.add(
            "pass",
            f"{seen} samples",
            expected=f"{found} samples in {work.steps.num_windows} windows",
            actual=f"{seen} samples, {work.forwards} forward and {work.backwards} "
            f"backward passes, {work.updates} optimizer steps",
        )
    else:
        claims.add(
            "warn",
            f"batches hold {seen} samples, the order names {found}",
            expected=f"{found} samples in {work.steps.num_windows} windows",
            actual=f"{seen} samples",
            fix="Look at collate: it drops or repeats samples, or the first axis of a "
            "batch is not the sample; then give count_targets.",
        )


def _planned_samples(session: Session, num_windows: int) -> int | None:
    loader, accumulation = session.loader, session.config.train.accumulation
    total = 0
    epoch = batch = 0
    for _ in range(num_windows):
        loader.set_position(epoch)
        for _ in range(accumulation):
            indices = loader.indices(batch)
            if indices is None or loader.num_batches is None:
                return None
            total += len(indices)
            batch += 1
            if batch == loader.num_batches:
                epoch, batch = epoch + 1, 0
                break
    return total


CHECK = Check(
    id="R8",
    title="The loop does the work of the plan",
    why="A step taken twice or a batch left out changes the run without an error.",
    run=run,
    depth="rehearsal",
    needs=("R6",),
)
