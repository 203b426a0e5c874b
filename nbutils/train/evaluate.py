"""Evaluation and prediction: the model is borrowed and given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import to_device
from nbutils.data.rng import seed_rng
from nbutils.data.sources import as_source
from nbutils.data.task import Task
from nbutils.errors import ConfigError, ContractError
from nbutils.train.draws import Draws
from nbutils.train.memory_errors import OutOfMemoryProblem, is_out_of_memory
from nbutils.train.oom import Pieces
from nbutils.train.precision import Precision
from nbutils.train.step import forward_loss

__all__ = [
    "Counted",
    "Meters",
    "evaluate",
    "evaluating",
    "predict",
    "told_pieces",
    "with_test_data",
]


@contextmanager
def evaluating(model: nn.Module, device: torch.device, seed: int = 0) -> Iterator[None]:
    """No gradients, eval mode, a random stream of its own; all restored on exit."""
    was_training = {module: module.training for module in model.modules()}
    devices = [device] if device.type == "cuda" else []
    draws = Draws(device)
    kept = draws.keep()  # of NumPy and ``random`` too, and of a device that is no CUDA
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        seed_rng(seed)
        model.eval()
        try:
            yield
        finally:
            for module, training in was_training.items():
                module.training = training
            draws.restore(kept)


def evaluate(
    task: Task,
    batches: Iterable[Any],
    precision: Precision,
    device: torch.device,
    *,
    loss_weights: Mapping[str, float],
    seed: int = 0,
    pieces: Pieces | None = None,
    watch: Callable[[Any, Any], None] | None = None,
) -> dict[str, Any]:
    """Loss, its terms and the task's metrics, each weighted by counted targets.

    A batch that does not fit into memory is evaluated in pieces; each sample counts
    once.

    Args:
        task: What is evaluated.
        batches: Host batches.
        precision: Format of the forward pass.
        device: Where the model is.
        loss_weights: Weight of each loss term.
        seed: Of the random numbers drawn meanwhile.
        pieces: How batches are split; by default with a printed line.
        watch: Gets outputs and batch, on the device, of all that was counted.

    Returns:
        ``loss``, each term's mean if there are several, and each metric; floats,
        or lists where a torchmetrics metric gives more than one number.

    Raises:
        ContractError: Not one sample was evaluated.
        OutOfMemoryProblem: Not even one sample at a time fits.
    """
    pieces = pieces or told_pieces(device, task)
    meters = Meters(task, device)

    def attempt(host_batch: Any) -> Counted | None:
        count = task.num_targets(host_batch)
        if not count:
            return None
        batch = to_device(host_batch, device)
        outputs, terms, loss = forward_loss(
            task, task.model, batch, precision, loss_weights
        )
        values = meters.measure(outputs, batch, terms, loss)
        return Counted(outputs, batch, values, count)

    def commit(result: Counted | None) -> None:
        meters.add(result)
        if watch is not None and result is not None:
            watch(result.outputs, result.batch)

    with evaluating(task.model, device, seed):
        for host_batch in batches:
            pieces.run(host_batch, attempt, commit)
        return meters.read()


def told_pieces(
    device: torch.device,
    task: Task,
    *,
    on_oom: str = "split",
    has_targets: bool = True,
) -> Pieces:
    """Pieces that print a line when they have to become smaller.

    Args:
        on_oom: ``"split"`` or ``"raise"``, as the config says.
        has_targets: Whether batches hold targets.
    """

    def tell(num_samples: int, say: Callable[[str], None] = print) -> None:
        say(f"out of memory in evaluation; at most {num_samples} samples at once now")

    enabled = on_oom == "split"
    return Pieces(device, task, enabled=enabled, on_split=tell, has_targets=has_targets)


@dataclass(frozen=True)
class Counted:
    """What one batch gave, to be counted once."""

    outputs: Any
    batch: Any
    values: dict[str, Tensor]
    count: int


class Meters:
    """Loss, terms and metrics over batches: sums on the device, read at the end."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._num_targets = 0
        given = task.metrics or {}
        metrics: dict[str, Any] = {}
        self._whole: Callable[..., Any] | None = None
        if callable(given):  # one function for all metrics gives a dict at each call
            self._whole = given
        else:
            metrics = dict(given)
        self._stateful = {n: m for n, m in metrics.items() if hasattr(m, "compute")}
        self._simple = {n: m for n, m in metrics.items() if n not in self._stateful}
        for metric in self._stateful.values():
            metric.to(device).reset()

    def measure(
        self, outputs: Any, batch: Any, terms: dict[str, Tensor], loss: Tensor
    ) -> dict[str, Tensor]:
        """The batch's means by name; nothing is counted yet."""
        values = {**terms, "loss": loss}
        for name, value in (self._whole(outputs, batch) if self._whole else {}).items():
            _refuse_twin(name, values)
            values[name] = _scalar(name, value)
        for name, metric in self._simple.items():
            _refuse_twin(name, values)
            values[name] = _scalar(name, metric(outputs, batch))
        return values

    def add(self, result: Counted | None) -> None:
        """Count one batch, or a piece of one; None has no targets."""
        if result is None:
            return
        self._num_targets += result.count
        for name, value in result.values.items():
            wide = value.detach().to(self._dtype) * result.count
            self._sums[name] = self._sums[name] + wide if name in self._sums else wide
        for name, metric in self._stateful.items():
            _refuse_twin(name, result.values)
            try:
                metric.update(result.outputs, _target(result.batch, name))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemoryProblem(
                    f"out of memory in metric {name!r}, which may have counted a part "
                    "of this batch, so it is not tried again. Use a smaller "
                    "batch_size, or a metric that keeps sums instead of all outputs "
                    "(compute_on_cpu=True, or thresholds=100 where it has them)."
                ) from error

    def read(self) -> dict[str, Any]:
        """Means over all that was counted, and what the stateful metrics computed."""
        if not self._num_targets:
            raise ContractError(
                "0 samples were evaluated; expected at least 1. Check that this split "
                "has data and that count_targets is not always 0."
            )
        values = {
            n: _number(total / self._num_targets) for n, total in self._sums.items()
        }
        for name, metric in self._stateful.items():
            values[name] = _number(metric.compute())
            metric.reset()
        loss = values.pop("loss")
        return {"loss": loss, **values}


def _target(batch: Any, name: str) -> Any:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[1]
    raise ContractError(
        f"metric {name!r} is updated with (outputs, targets), but the batch is a "
        f"{type(batch).__name__}, not a pair. Pass a function (outputs, batch) instead."
    )


def _scalar(name: str, value: Any) -> Tensor:
    """A metric of one batch; vectors would be added up across samples unseen."""
    tensor = torch.as_tensor(value)
    if tensor.numel() != 1:
        raise ContractError(
            f"metric {name!r} has shape {tuple(tensor.shape)}; a scalar, the mean over "
            "the batch, is expected. Add .mean()."
        )
    return tensor.reshape(())


def _refuse_twin(name: str, values: Mapping[str, Tensor]) -> None:
    if name in values:
        raise ContractError(
            f"metric {name!r} has the name of a loss term or of another metric; one of "
            "the numbers would hide the other. Give it a name of its own."
        )


def _number(value: Tensor) -> Any:
    return value.item() if value.numel() == 1 else value.tolist()


def predict(
    task: Task,
    batches: Iterable[Any],
    precision: Precision,
    device: torch.device,
    seed: int = 0,
    pieces: Pieces | None = None,
) -> Any:
    """Outputs over all batches, on the CPU, joined along the sample axis.

    A batch that does not fit into memory is computed in pieces.

    Raises:
        ContractError: There is no batch, or the outputs do not join.
        OutOfMemoryProblem: Not even one sample at a time fits.
    """
    pieces = pieces or told_pieces(device, task, has_targets=False)
    parts: list[Any] = []

    def attempt(host_batch: Any) -> Any:
        batch = to_device(host_batch, device)
        with precision.autocast():
            outputs = task.forward(task.model, batch)
        return _to_cpu(outputs)

    with evaluating(task.model, device, seed):
        for host_batch in batches:
            pieces.run(host_batch, attempt, parts.append)
    if not parts:
        raise ContractError("there is nothing to predict: the data gave no batch.")
    return _join(parts)


def _to_cpu(outputs: Any) -> Any:
    return _map(
        outputs,
        lambda t: (
            t.detach().float().cpu() if t.is_floating_point() else t.detach().cpu()
        ),
    )


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {key: _map(item, fn) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map(item, fn) for item in value]
    return value


def _join(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        _demand_one_shape(parts)
        return torch.cat(parts) if first.ndim else torch.stack(parts)
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, list):
        return [_join(list(items)) for items in zip(*parts, strict=True)]
    return parts


def _demand_one_shape(parts: list[Tensor]) -> None:
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise ContractError(
            f"the outputs of the batches have the shapes (B, ...) with {shapes[0]} and "
            f"{shapes[-1]} behind the first axis, so they cannot be joined; one shape "
            "is expected. Pad every batch to the same length in collate."
        )


def with_test_data(task: Task, data: Any) -> Task:
    """A twin of ``task`` whose test data is ``data``.

    Raises:
        ConfigError: ``data`` is nothing that can be read sample by sample.
    """
    problems: list[str] = []
    twin = copy.copy(task)
    twin.test_data = as_source(data, "data", problems)
    if problems:
        raise ConfigError(problems)
    return twin
