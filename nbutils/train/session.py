"""A session: the moving parts of one run in one process, built from its config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.environment.imports import collector_paused
from nbutils.monitor.events import EventLog
from nbutils.train.buffers import LiveBuffers
from nbutils.train.callback import Callback
from nbutils.train.careful import CarefulUpdate
from nbutils.train.ema import Ema
from nbutils.train.facts import run_facts
from nbutils.train.guard import SkipBudget
from nbutils.train.landing import make_landing
from nbutils.train.loop import Loop
from nbutils.train.loss_weights import LossWeights
from nbutils.train.modes import enter_training
from nbutils.train.notifier import Notifier
from nbutils.train.oom import MicroBatches, Pieces
from nbutils.train.optim import SavedOptimizer, build_optimizer, explain_optimizer
from nbutils.train.plan import make_plan
from nbutils.train.precision import Precision
from nbutils.train.readback import Readback
from nbutils.train.recorder import Recorder
from nbutils.train.refusals import Refusals
from nbutils.train.result import TrainResult
from nbutils.train.rollback import give_up
from nbutils.train.schedule import build_schedule
from nbutils.train.state import RunState
from nbutils.train.step import TrainStep
from nbutils.train.stop import StopWatch
from nbutils.train.update import make_update
from nbutils.train.validation import Validation
from nbutils.train.watchdogs import Watchdogs
from nbutils.train.watchers.defaults import attach_watchers
from nbutils.train.watchers.taps import Taps
from nbutils.train.watchers.watcher import Parts, Watcher

__all__ = ["Session"]


class Session:
    """Optimizer, schedule, precision, loaders and state of a run.

    Attributes:
        parts: What a snapshot holds beside the model, by name.
        taps: Where watchers look into the loop, once they are installed there.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        device: torch.device,
        run_dir: Path,
        events: EventLog,
    ) -> None:
        self.task = task
        self.config = config
        self.device = device
        self.events = events
        self.run_dir = run_dir
        self.loader = make_loader(task, "train", config, device=device)
        self.plan = make_plan(config, self.loader.num_batches)
        self._add_optimizer(task, config)
        self.precision = Precision.of(config, device)
        decay = config.optim.ema_decay
        self.ema = None if decay is None else Ema(task.model, decay)
        self.update, self.update_reason = make_update(
            self.optimizer, self.precision, config.guard, device, self.ema
        )
        self.state = RunState(model=task.model, run_dir=run_dir)
        _enter_training(task.model, events)
        self.parts: dict[str, Any] = {
            "state": self.state,
            "optimizer": SavedOptimizer(self.optimizer),
            "schedule": self.schedule,
            "precision": self.precision,
        }
        if self.landing is not None:
            self.parts["landing"] = self.landing  # after the schedule, which it bends
        if self.ema is not None:
            self.parts["ema"] = self.ema
        if isinstance(task.loss, nn.Module) and task.loss.state_dict():
            self.parts["loss"] = task.loss
        self._buffers = LiveBuffers(*_modules(task))
        self._add_splitting()
        self._val_loader: Any = None
        self.taps = Taps()
        self._watchers: list[Watcher] = []

    def _add_optimizer(self, task: Task, config: Any) -> None:
        """What moves the weights, and what moves its settings over the run."""
        with collector_paused():
            self.optimizer = build_optimizer(task.model, config, task)
        self.optimizer_choice = explain_optimizer(task.model, config, task)
        if self.optimizer_choice.is_other:
            self._warn(self.optimizer_choice.reason)
        self.schedule = build_schedule(self.optimizer, config, self.plan.steps, task)
        self.loss_weights = LossWeights.of(task, config, self.plan.steps)
        self.landing = make_landing(
            config, self.plan, self.schedule, self.loss_weights, self.events.write
        )

    def _add_splitting(self) -> None:
        """What runs out-of-memory batches in parts: of training and of validation."""
        splits = self.config.guard.on_oom == "split"
        self.micro = self.parts["micro_batches"] = MicroBatches(
            self.task.model,
            self.device,
            self._buffers,
            enabled=splits,
            on_split=partial(self._on_split, "train"),
            task=self.task,
            optimizer=self.optimizer,
            on_repeat=partial(_tell_repeat, self.state, self.events, "train"),
        )
        self._pieces = self.parts["validation_pieces"] = Pieces(
            self.device,
            self.task,
            enabled=splits,
            on_split=partial(self._on_split, "evaluate"),
            on_repeat=partial(_tell_repeat, self.state, self.events, "evaluate"),
        )

    def recorder(self, run_id: str) -> Recorder:
        """The watcher that writes this run's events."""
        every = self.config.display.log_every_steps
        facts = {"run_id": run_id, **run_facts(self)}
        return Recorder(self.events, every, facts, self.loss_weights)

    def watchdogs(self) -> list[Watchdogs]:
        """What looks for a run that looks healthy and is not; none if switched off."""
        if self.config.guard.watchdogs == "off":
            return []
        parts = self.optimizer, self.precision, self.events
        return [Watchdogs(self.config, self.task, *parts)]

    def watchers(self, callbacks: Sequence[Any]) -> Callback:
        """What measures the run by default, attached; so are those in ``callbacks``."""
        board, self._watchers = attach_watchers(Parts.of(self), callbacks)
        return board

    def checkpoint_bytes(self) -> int:
        """What the kept checkpoints need at most, the best and one more included."""
        model = list(self.task.model.parameters())
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        weights = sum(p.numel() * p.element_size() for p in model)
        moments = 2 * sum(p.numel() * p.element_size() for p in trained)
        average = weights if self.ema is not None else 0
        return (self.config.checkpoint.keep_last + 2) * (weights + moments + average)

    def loop(
        self, notify: Notifier, rollback: Callable[[RunState, str], None] = give_up
    ) -> Loop:
        """The loop over these parts; ``rollback``: what follows on a spent budget."""
        config = self.config
        step = TrainStep(
            task=self.task,
            model=self.task.model,
            update=CarefulUpdate(self.update),
            precision=self.precision,
            device=self.device,
            loss_weights=self.loss_weights.current,
            buffers=self._buffers,
            micro=self.micro,
        )
        return Loop(
            step=step,
            loader=self.loader,
            schedule=self.schedule,
            plan=self.plan,
            train=config.train,
            tell=self._warn,
            budget=SkipBudget(
                config.guard, self.plan.steps_per_epoch, config.train.accumulation
            ),
            readback=Readback(self.device),
            watch=StopWatch(self.run_dir / "STOP", config.train.max_hours),
            notify=notify,
            evaluate=self._evaluator(),
            save_refused=Refusals.of(self),
            rollback=rollback,
            phases=self.loss_weights if self.loss_weights.has_phases else None,
            landing=self.landing,
        )

    def close(self) -> RunState:
        """End worker processes and threads; gives the state the run ended in."""
        for watcher in self._watchers:
            watcher.close()
        for loader in (self.loader, self._val_loader):
            if loader is not None:
                loader.close()
        return self.state

    def result(self) -> TrainResult:
        """What the run has reached."""
        state = self.state
        numbers = state.history[-1] if state.history else {}
        return TrainResult(
            stop_reason=str(state.stop_reason),
            metrics={k: v for k, v in numbers.items() if isinstance(v, (int, float))},
            rows=list(state.history),
            best=state.best or {},
            steps=state.step,
            skipped=state.skipped,
            run_dir=self.run_dir,
            seconds=state.seconds,
            alarms=list(state.alarms),
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the model, if the run keeps an average."""
        with nullcontext() if self.ema is None else self.ema.applied():
            yield

    def _evaluator(self) -> Validation | None:
        if self.task.val_data is None:
            return None
        loader = make_loader(self.task, "val", self.config, device=self.device)
        self._val_loader = loader
        if self.landing is not None and loader.num_batches is not None:
            self.landing.expect_pause(
                loader.num_batches / self.config.train.accumulation
            )
        return Validation(
            self.task,
            self.config,
            self.device,
            self.precision,
            loader=loader,
            pieces=self._pieces,
            averaged=self.averaged,
        )

    def _on_split(self, where: str, micro_batch: int) -> None:
        step = self.state.step + (where == "train")
        self.events.write("oom", step=step, micro_batch=micro_batch, where=where)

    def _warn(self, text: str) -> None:
        self.events.write("message", level="warning", text=text)


def _modules(task: Task) -> list[nn.Module]:
    return [part for part in (task.model, task.loss) if isinstance(part, nn.Module)]


def _tell_repeat(state: RunState, events: EventLog, where: str, is_first: bool) -> None:
    step = state.step + (where == "train")
    events.write("oom", step=step, micro_batch=None, where=where, is_repeated=True)
    if not is_first:
        return
    text = (
        f"out of memory ({where}, step {step}); memory is freed, and the same samples "
        "are tried once more before fewer are. If this happens again with as many "
        "samples, it is counted, and not explained again."
    )
    events.write("message", level="warning", text=text)


def _enter_training(model: Any, events: EventLog) -> None:
    """Train mode; a model that was in eval mode as a whole is told."""
    if not enter_training(model):
        return
    text = (
        "the model was in eval mode; training put all of it into train mode. To keep a "
        "layer frozen, call model.train() and then layer.eval()."
    )
    events.write("message", level="warning", text=text)
