"""The task under test: its data, its model and its loss, run without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from nbutils.data.batch import batch_size, to_device
from nbutils.data.loader import Loader, OrderedLoader
from nbutils.data.loaders import make_loader
from nbutils.environment.device import resolve_device
from nbutils.errors import ContractError
from nbutils.preflight.check import Finding
from nbutils.preflight.frozen import Frozen, copy_lazy, seed_everything
from nbutils.preflight.scan import Scan, scan
from nbutils.preflight.watch import ModuleTrace, Recorder, trace_modules
from nbutils.train.precision import Precision, to_fp32

__all__ = ["Case", "Probe"]


@dataclass(frozen=True, slots=True)
class Case:
    """One batch to try.

    Args:
        split: Where it comes from.
        size: Batch size asked for; none: as the run makes it.
        number: Its position in the epoch.
        num_samples: Samples in it.
        is_met: Whether the run will meet such a batch.
    """

    split: str
    size: int | None
    number: int
    num_samples: int
    is_met: bool = True

    @property
    def name(self) -> str:
        """How the card calls it."""
        kind = "last batch" if self.number else "batch"
        return f"{self.split} {kind} of {self.num_samples}"


class Probe:
    """Gives checks batches, outputs and losses, and puts everything back.

    Args:
        task: The task under test.
        config: The effective configuration.

    Attributes:
        findings: Findings of the checks so far, by id.
        facts: What one check measured for a later one.
        home: The snapshot of the modules where the user keeps them.
        stopped: Ids of checks that failed, or that needed one which did.
    """

    def __init__(self, task: Any, config: Any) -> None:
        self.task = task
        self.config = config
        self.findings: dict[str, Finding] = {}
        self.facts: dict[str, Any] = {}
        self.stopped: set[str] = set()
        self.home: Frozen | None = None
        self.trace: ModuleTrace | None = None
        self._batches: dict[tuple[str, int | None, int], Any] = {}
        self._inner: Frozen | None = None
        self._model: nn.Module | None = None

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

    @cached_property
    def configured_size(self) -> int:
        """Samples in the first training batch, as the run will make it."""
        return batch_size(self.batch("train"))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.train.seed

    # -- data ---------------------------------------------------------------

    def has(self, split: str) -> bool:
        """Whether the task brings this split."""
        return getattr(self.task, f"{split}_data", None) is not None

    def loader(self, split: str, size: int | None = None) -> Loader:
        """The run's own loader of a split, read in this process."""
        config = self.config.replace(num_workers=0)
        if size is not None:
            config = config.replace(drop_last=False)
        return make_loader(self.task, split, config, batch_size=size)

    def samples(self, split: str) -> Any | None:
        """The split as something indexed, or none if it can only be iterated."""
        if not self.has(split) or not isinstance(self.loader(split), OrderedLoader):
            return None
        data = self.task.dataset(split)
        return data.dataset if isinstance(data, DataLoader) else data

    def scan(self, split: str) -> Scan | None:
        """Statistics over the samples of an indexed split, read once; none if not."""
        key = f"scan {split}"
        if key not in self.facts:
            data = self.samples(split)
            self.facts[key] = None if data is None else scan(data)
        return self.facts[key]

    def batch(self, split: str, size: int | None = None, number: int = 0) -> Any:
        """Batch ``number`` of the first epoch, on the host; read once.

        Args:
            split: Which data.
            size: Samples per batch; none: as the run will make it.
            number: Position within the epoch.

        Raises:
            ContractError: The split gives no such batch.
        """
        key = (split, size, number)
        if key not in self._batches:
            loader = self.loader(split, size)
            loader.set_position(0, number)
            batches = list(islice(loader, 1))
            if not batches:
                raise ContractError(
                    f"'{split}' gave no batch {number}; at least one batch is "
                    "expected. Check the data and drop_last."
                )
            self._batches[key] = batches[0]
        return self._batches[key]

    def collate(self, samples: list[Any]) -> Any:
        """Samples of an indexed train split as the run will batch them."""
        loader = self.loader("train")
        if not isinstance(loader, OrderedLoader):
            raise ContractError("a stream makes its own batches; it cannot collate.")
        return loader.plan.collate(samples)

    def fresh(self, batch: Any) -> Any:
        """A copy of a host batch on the device; the user's code may write into it."""
        return to_device(copy.deepcopy(batch), self.device)

    # -- model and loss -----------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model on the device, as it was found; a copy if it is lazy."""
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
        batch = self.fresh(self.batch("train"))
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

    def forward(self, batch: Any, *, training: bool) -> Any:
        """Outputs for a device batch, in the format of the run.

        After an exception, :attr:`trace` tells which module raised it.
        """
        model = self.model.train(training)
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

    def cases(self) -> list[Case]:
        """Every batch to try: as the run makes it, the tails, and sizes 1 and 2."""
        found = [Case("train", None, 0, self.configured_size)]
        for split in ("train", "val"):
            found += self._split_cases(split) if self.has(split) else []
        met = {case.num_samples for case in found}
        if self.samples("train") is not None and self.configured_size > 1:
            small = [size for size in (1, 2) if size not in met]
            found += [Case("train", size, 0, size, False) for size in small]
        return found

    def _split_cases(self, split: str) -> list[Case]:
        loader = self.loader(split)
        cases: list[Case] = []
        if split != "train":
            cases.append(Case(split, None, 0, batch_size(self.batch(split))))
        if isinstance(loader, OrderedLoader) and len(loader) > 1:
            last = len(loader) - 1
            num_last = len(loader.indices(last))
            if num_last != len(loader.indices(0)):
                cases.append(Case(split, None, last, num_last))
        return cases

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record losses and dropout, and refuse indices out of range."""
        _ = self.model  # a lazy model cannot be copied while calls are intercepted
        recorder = Recorder()
        with recorder:
            yield recorder

    def attempt(self, call: Callable[[], Any]) -> tuple[Any, Exception | None]:
        """The call's result, or the exception that it raised."""
        try:
            return call(), None
        except Exception as error:  # a user's code may raise anything; it is reported
            return None, error
