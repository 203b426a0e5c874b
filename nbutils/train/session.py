"""A session: the moving parts of one run in one process, built from its config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.monitor.events import EventLog
from nbutils.train.buffers import LiveBuffers
from nbutils.train.ema import Ema
from nbutils.train.evaluate import evaluate
from nbutils.train.guard import SkipBudget
from nbutils.train.loop import Loop
from nbutils.train.notifier import Notifier
from nbutils.train.oom import MicroBatches
from nbutils.train.optim import build_optimizer
from nbutils.train.plan import make_plan
from nbutils.train.precision import Precision
from nbutils.train.prepare import count_parameters
from nbutils.train.readback import Readback
from nbutils.train.recorder import Recorder
from nbutils.train.result import TrainResult
from nbutils.train.schedule import build_schedule
from nbutils.train.state import Reading, RunState
from nbutils.train.step import TrainStep
from nbutils.train.stop import StopWatch
from nbutils.train.update import make_update

__all__ = ["Session"]

MAX_SAVED_BATCHES = 10


class Session:
    """Optimizer, schedule, precision, loaders and state of a run.

    Attributes:
        parts: What a snapshot holds beside the model, by name.
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
        self.optimizer = build_optimizer(task.model, config, task)
        self.schedule = build_schedule(self.optimizer, config, self.plan.steps, task)
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
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "precision": self.precision,
        }
        if self.ema is not None:
            self.parts["ema"] = self.ema
        if isinstance(task.loss, nn.Module) and task.loss.state_dict():
            self.parts["loss"] = task.loss
        self._num_saved = 0
        self._val_loader: Any = None

    def recorder(self, run_id: str) -> Recorder:
        """The watcher that writes this run's events."""
        every = self.config.display.log_every_steps
        return Recorder(self.events, every, {"run_id": run_id, **self.facts()})

    def facts(self) -> dict[str, Any]:
        """What the ``run_start`` event tells about this run."""
        return {
            "epochs": self.plan.epochs,
            "precision": self.precision.kind,
            "precision_reason": self.precision.reason,
            "device": str(self.device),
            "num_parameters": count_parameters(self.task.model),
            "update": self.update_reason,
        }

    def checkpoint_bytes(self) -> int:
        """What the kept checkpoints need at most, the best and one more included."""
        model = list(self.task.model.parameters())
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        weights = sum(p.numel() * p.element_size() for p in model)
        moments = 2 * sum(p.numel() * p.element_size() for p in trained)
        average = weights if self.ema is not None else 0
        return (self.config.checkpoint.keep_last + 2) * (weights + moments + average)

    def loop(self, notify: Notifier) -> Loop:
        """The loop over these parts."""
        config = self.config
        buffers = LiveBuffers(self.task.model)
        step = TrainStep(
            task=self.task,
            model=self.task.model,
            update=self.update,
            precision=self.precision,
            device=self.device,
            loss_weights=config.loss.loss_weights,
            buffers=buffers,
            micro=MicroBatches(
                self.task.model,
                self.device,
                buffers,
                enabled=config.guard.on_oom == "split",
                on_split=self._on_split,
            ),
        )
        return Loop(
            step=step,
            loader=self.loader,
            schedule=self.schedule,
            plan=self.plan,
            train=config.train,
            budget=SkipBudget(config.guard, self.plan.steps_per_epoch),
            readback=Readback(self.device),
            watch=StopWatch(self.run_dir / "STOP", config.train.max_hours),
            notify=notify,
            evaluate=self._evaluator(),
            save_refused=self._save_refused,
        )

    def close(self) -> RunState:
        """End the loaders' worker processes; gives the state the run ended in."""
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
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the model, if the run keeps an average."""
        with nullcontext() if self.ema is None else self.ema.applied():
            yield

    def _evaluator(self) -> Any:
        if self.task.val_data is None:
            return None
        loader = make_loader(self.task, "val", self.config, device=self.device)
        self._val_loader = loader

        def run() -> dict[str, Any]:
            with self.averaged():
                return evaluate(
                    self.task,
                    loader,
                    self.precision,
                    self.device,
                    loss_weights=self.config.loss.loss_weights,
                    seed=self.config.train.seed,
                )

        return run

    def _on_split(self, micro_batch: int) -> None:
        self.events.write("oom", step=self.state.step + 1, micro_batch=micro_batch)

    def _save_refused(
        self, reading: Reading, first_batch: int, window: Sequence[Any]
    ) -> Path | None:
        """Keep the batches of a refused window; at most ten a run."""
        path = None
        if self._num_saved < MAX_SAVED_BATCHES:
            self._num_saved += 1
            path = self.run_dir / "refused" / f"step-{reading.step:08d}.pt"
            path.parent.mkdir(exist_ok=True)
            torch.save(list(window), path)
        self.events.write(
            "refused",
            step=reading.step,
            epoch=self.state.epoch,
            loss=reading.loss,
            grad_norm=reading.grad_norm,
            indices=self._indices(first_batch, len(window)),
            batch_file=str(path) if path else None,
        )
        return path

    def _indices(self, first: int, num_batches: int) -> list[int] | None:
        """Sample indices of a window of this epoch; none for a stream of data."""
        found: list[int] = []
        for number in range(first, first + num_batches):
            indices = self.loader.indices(number)
            if indices is None:
                return None
            found += indices
        return found


def _enter_training(model: Any, events: EventLog) -> None:
    """Train mode, unless the model is in it: single layers in eval mode stay so."""
    if model.training:
        return
    model.train()
    text = (
        "the model was in eval mode; training put all of it into train mode. To keep a "
        "layer frozen, call model.train() and then layer.eval()."
    )
    events.write("message", level="warning", text=text)
