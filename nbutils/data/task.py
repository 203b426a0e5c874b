"""What is trained: a model, its loss and its data, checked when they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from nbutils.data.batch import batch_size
from nbutils.data.contract import Contract
from nbutils.data.fingerprint import (
    describe_code,
    describe_data,
    describe_model,
    hash_parts,
)
from nbutils.data.loss import adapt_loss, checked_terms, smoothed, weighted_total
from nbutils.data.sources import as_source
from nbutils.data.task_checks import find_problems
from nbutils.errors import ConfigError, ContractError

__all__ = ["SPLITS", "Task"]

SPLITS = ("train", "val", "test")


class Task:
    """What is trained. The one object that preflight and the coordinator need.

    Data may be a map-style ``Dataset`` or any sequence of samples, an
    ``IterableDataset``, a ``DataLoader``, a tuple ``(X, y)`` or a dict of equally long
    tensors, a PyTorch Geometric dataset or a list of graphs. A bare tensor ``X`` is the
    tuple ``(X,)``: its batches are tuples of one.

    More than eight parameters, since this is the whole public description of a task;
    all but the first five are keywords.

    Args:
        model: The network.
        loss: ``loss(outputs, batch)``: a mean as a scalar tensor, or a dict of named
            terms. A loss of ``torch.nn`` or ``torch.nn.functional`` is called as
            ``loss(outputs, batch[1])``.
        train_data: What the model learns from.
        val_data: What decides which weights are best.
        test_data: What the final numbers come from.
        forward: ``forward(model, batch)``; by default the model gets the first element
            of a tuple batch, and any other batch whole.
        collate: ``collate(samples)``; by default ``nbutils.data.collate``.
        metrics: ``metrics(outputs, batch)``, or a dict of such functions.
        contract: A :class:`Contract`, or a dict path -> ``"float32 (B, 3, H, W)"``.
        count_targets: ``count_targets(batch)``: over how many targets the loss is a
            mean; by default the batch size.
        make_optimizer: ``make_optimizer(model)``.
        make_schedule: ``make_schedule(optimizer, planned_steps)``.
        oracle: What a perfect model would reach, for preflight.
        baselines: What trivial predictors reach, for preflight.
        declares: Facts that sharpen the checks, such as ``"samples interact"``.
        loss_weights: Weight of each named term, 1 where absent.
        name: Name of the task; by default the class of the model.
        config: The configuration that a recipe built the task from.
        extras: Facts for reports, such as ``class_names``.

    Raises:
        ConfigError: With every problem found, in one message.

    Example:
        >>> import torch
        >>> x, y = torch.randn(8, 3), torch.randint(2, (8,))
        >>> task = Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, y))
        >>> task.name, len(task.dataset("train"))
        ('Linear', 8)
    """

    _smoothing = 0.0

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any],
        train_data: Any,
        val_data: Any = None,
        test_data: Any = None,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        collate: Callable[[Sequence[Any]], Any] | None = None,
        metrics: Any = None,
        contract: Contract | Mapping[str, str] | None = None,
        count_targets: Callable[[Any], int | Tensor] | None = None,
        make_optimizer: Callable[[nn.Module], Any] | None = None,
        make_schedule: Callable[[Any, int], Any] | None = None,
        oracle: Any = None,
        baselines: Any = None,
        declares: Sequence[str] = (),
        loss_weights: Mapping[str, float] | None = None,
        name: str | None = None,
        config: Any = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.forward_function = forward
        self.collate = collate
        self.metrics = metrics
        self.count_targets = count_targets
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.oracle = oracle
        self.baselines = baselines
        self.declares = declares
        self.loss_weights: Any = loss_weights
        problems = find_problems(self)
        self.train_data = as_source(train_data, "train_data", problems)
        self.val_data = _optional(val_data, "val_data", problems)
        self.test_data = _optional(test_data, "test_data", problems)
        self.contract = _as_contract(contract, problems)
        if problems:
            raise ConfigError(problems)
        self.declares = tuple(declares)
        self.loss_weights = dict(loss_weights or {})
        self.name = name or type(model).__name__
        self.config = config
        self.extras = dict(extras or {})
        self.verdict: dict[str, Any] | None = None
        self.report: Any = None
        self._loss = adapt_loss(loss)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, model={type(self.model).__name__})"

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Outputs of ``model``, which may be a wrapped twin of ``task.model``."""
        if self.forward_function is not None:
            return self.forward_function(model, batch)
        if isinstance(batch, (tuple, list)) and len(batch) > 0:
            return model(batch[0])
        return model(batch)

    def loss_terms(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """Named scalar terms of the loss; a bare scalar is named ``"loss"``.

        Raises:
            ContractError: The loss returned anything else.
        """
        return checked_terms(self._loss(outputs, batch))

    def smooth_labels(self, amount: float) -> bool:
        """Let torch's cross-entropy smooth its labels by ``amount``, 0 for not at all.

        Returns:
            Whether the loss could be told: a loss of your own smooths by itself.
        """
        if amount == self._smoothing:
            return True
        loss = smoothed(self.loss, amount) if amount else self.loss
        if loss is not None:
            self._loss, self._smoothing = adapt_loss(loss), amount
        return loss is not None

    def total(
        self,
        terms: Mapping[str, Tensor],
        loss_weights: Mapping[str, float] | None = None,
    ) -> Tensor:
        """Weighted sum of the terms; ``loss_weights`` go before the task's own.

        Raises:
            ContractError: A weight is for a term that the loss does not return.
        """
        if not loss_weights and not self.loss_weights:
            return weighted_total(terms, {})
        return weighted_total(terms, {**self.loss_weights, **(loss_weights or {})})

    def num_targets(self, batch: Any) -> int:
        """Number of targets that the loss of this batch is a mean over.

        Raises:
            ContractError: ``count_targets`` returned no whole number >= 0.
        """
        if self.count_targets is None:
            return batch_size(batch)
        return _whole(self.count_targets(batch))

    def dataset(self, split: str) -> Any:
        """The data of ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            ContractError: No such split, or the task has no data for it.
        """
        if split not in SPLITS:
            near = get_close_matches(str(split), SPLITS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ContractError(
                f"there is no split {split!r}; it must be 'train', 'val' or "
                f"'test'{hint}"
            )
        data = getattr(self, f"{split}_data")
        if data is None:
            raise ContractError(
                f"the task has no data for '{split}'; give nb.Task(..., "
                f"{split}_data=...)."
            )
        return data

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the model's form, the code or the data.

        Reads the first sample of each split; draws no randomness.
        """
        return hash_parts(self._identity())

    def _identity(self) -> Iterator[str]:
        yield from describe_model(self.model)
        yield from describe_code("loss", self.loss)
        yield from describe_code("forward", self.forward_function)
        yield from describe_code("collate", self.collate)
        for split in SPLITS:
            yield from describe_data(split, getattr(self, f"{split}_data"))


def _optional(data: Any, name: str, problems: list[str]) -> Any:
    return None if data is None else as_source(data, name, problems)


def _as_contract(contract: Any, problems: list[str]) -> Contract | None:
    if contract is None or isinstance(contract, Contract):
        return contract
    if not isinstance(contract, Mapping):
        problems.append(
            f"contract is {type(contract).__name__}; it must be a Contract or a dict "
            'such as {"0": "float32 (B, 3, H, W)"}.'
        )
        return None
    try:
        return Contract(contract)
    except ContractError as error:
        problems.append(str(error))
        return None


def _whole(count: Any) -> int:
    number: Any = None
    if isinstance(count, Tensor):
        # A sum over a float mask is a whole number in a float tensor.
        number = count.item() if count.numel() == 1 else None
    elif hasattr(count, "__index__") and not isinstance(count, bool):
        number = int(count)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or number % 1 != 0 or number < 0:
        raise ContractError(
            f"count_targets returned {count!r:.80}; a whole number >= 0 is expected, "
            "such as mask.sum()."
        )
    return int(number)
