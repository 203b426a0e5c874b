"""The task under test: its data, its model and its loss, run without a trace."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils.data.batch import to_device
from nbutils.environment.device import resolve_device
from nbutils.preflight.check import Finding
from nbutils.preflight.data_probe import DataProbe
from nbutils.preflight.fake import TooLarge
from nbutils.preflight.frozen import Frozen, copy_lazy, seed_everything
from nbutils.preflight.watch import ModuleTrace, Recorder, trace_modules
from nbutils.train.modes import enter_training
from nbutils.train.precision import Precision, to_fp32

__all__ = ["Probe", "attempt"]


class Probe:
    """Gives checks batches, outputs and losses, and puts everything back.

    Args:
        task: The task under test.
        config: The effective configuration.

    Attributes:
        data: Its samples and batches.
        findings: Findings of the checks so far, by id.
        facts: What one check measured for a later one.
        home: The snapshot of the modules where the user keeps them.
        obstacle: Why this machine cannot run the model; empty if it can.
        deadline_s: When the running check ends what it can leave out, on the clock of
            ``time.perf_counter``.
        stopped: Ids of checks that failed, or that needed one which did.
    """

    def __init__(self, task: Any, config: Any) -> None:
        self.task = task
        self.config = config
        self.data = DataProbe(task, config)
        self.findings: dict[str, Finding] = {}
        self.facts: dict[str, Any] = {}
        self.stopped: set[str] = set()
        self.home: Frozen | None = None
        self.obstacle = ""
        self.deadline_s = float("inf")
        self.trace: ModuleTrace | None = None
        self._inner: Frozen | None = None
        self._model: nn.Module | None = None
        self._modes: list[tuple[nn.Module, bool]] = []

    @property
    def seconds_left(self) -> float:
        """What the running check may still take; below 0 when its time is over."""
        return self.deadline_s - time.perf_counter()

    @property
    def is_lazy(self) -> bool:
        """Whether the first forward pass will create some of the parameters."""
        parts = [*self.task.model.parameters(), *self.task.model.buffers()]
        return any(is_lazy(part) for part in parts)

    @cached_property
    def device(self) -> torch.device:
        """Where the run will take place."""
        return resolve_device(self.config.train.device)[0]

    @cached_property
    def precision(self) -> Precision:
        """The format of the run."""
        settings = self.config.precision
        return Precision(settings.precision, self.device, loss_fp32=settings.loss_fp32)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.train.seed

    def fresh(self, batch: Any) -> Any:
        """A copy of a host batch on the device; the user's code may write into it."""
        return to_device(copy.deepcopy(batch), self.device)

    @property
    def model(self) -> nn.Module:
        """The model on the device, as it was found; a copy if it is lazy.

        Raises:
            TooLarge: This machine cannot run it.
        """
        if self.obstacle:
            raise TooLarge(self.obstacle)
        if self._model is None:
            model = self._prepare()
            loss = self.task.loss
            modules = [model, *([loss] if isinstance(loss, nn.Module) else [])]
            is_home = not self.is_lazy and all(map(self._is_on_device, modules))
            for module in modules:
                module.to(self.device)
            has_home = is_home and self.home is not None
            self._inner = self.home if has_home else Frozen(modules, whole=True)
            self._model = model
            self._modes = [(m, m.training) for m in model.modules()]
        return self._model

    def _is_on_device(self, module: nn.Module) -> bool:
        tensors = (*module.parameters(), *module.buffers())
        return all(is_lazy(t) or t.device == self.device for t in tensors)

    def _prepare(self) -> nn.Module:
        model = self.task.model
        if not self.is_lazy:
            # A compiled wrapper shares its weights; compiling is not what is tested.
            return getattr(model, "_orig_mod", model)
        model = copy_lazy(model).to(self.device).eval()
        batch = self.fresh(self.data.batch("train"))
        with torch.no_grad():
            self.task.forward(model, batch)
        return model.train(self.task.model.training)

    def rewind(self) -> None:
        """Model and loss as they were, gradients cleared, generators seeded."""
        if self._inner is not None:
            self._inner.restore()
        if self._model is not None:
            for parameter in self._model.parameters():
                parameter.grad = None
        seed_everything(self.seed)

    def set_mode(self, *, training: bool) -> None:
        """Train mode as the run will enter it, layers that rest included; or eval."""
        model = self.model
        if not training:
            model.eval()
            return
        for module, is_training in self._modes:
            module.training = is_training
        enter_training(model)

    def forward(self, batch: Any, *, training: bool) -> Any:
        """Outputs for a device batch, in the format of the run.

        After an exception, :attr:`trace` tells which module raised it.
        """
        model = self.model
        self.set_mode(training=training)
        with trace_modules(model) as trace:
            self.trace = trace
            with self.precision.autocast():
                outputs = self.task.forward(model, batch)
            trace.running.clear()
        return outputs

    def terms(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """Named loss terms of outputs."""
        if self.precision.loss_fp32:
            outputs = to_fp32(outputs)
        with self.precision.loss_context():
            return self.task.loss_terms(outputs, batch)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of named terms."""
        return self.task.total(terms, self.config.loss.loss_weights)

    def loss(self, batch: Any, *, training: bool) -> Tensor:
        """Forward and loss of a host batch."""
        moved = self.fresh(batch)
        return self.total(self.terms(self.forward(moved, training=training), moved))

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record losses and dropout, and refuse indices out of range."""
        _ = self.model  # a lazy model cannot be copied while calls are intercepted
        recorder = Recorder(lambda: self.trace.name() if self.trace else "")
        with recorder:
            yield recorder


def attempt(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The call's result, or the exception that it raised.

    Raises:
        TooLarge: This machine cannot run the model.
    """
    try:
        return call(), None
    except TooLarge:
        raise  # no fault of the user's code: what needs the model is skipped
    except Exception as error:  # a user's code may raise anything; it is reported
        return None, error
