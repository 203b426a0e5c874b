"""The loader that fits a task's data and its configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from nbutils.data.collate import collate
from nbutils.data.loader import Loader, LoadPlan
from nbutils.data.map_loader import MapLoader
from nbutils.data.sources import columns_of
from nbutils.data.stream_loader import StreamLoader
from nbutils.data.task import Task
from nbutils.data.tensor_loader import TensorLoader
from nbutils.errors import ContractError

__all__ = ["Loader", "make_loader"]


def make_loader(
    task: Task,
    split: str,
    config: Any,
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
) -> Loader:
    """A loader of one split.

    Training data is drawn in an order made from (seed, epoch); validation and test data
    keep theirs. A ``DataLoader`` over map-style data gives its dataset, collate_fn,
    batch_size, drop_last, shuffle and num_workers, save for those that the config sets
    (``config.origin(key)`` is not ``"default"``). One with a sampler of its own, and an
    ``IterableDataset``, are read as streams.

    Args:
        task: What is trained.
        split: ``"train"``, ``"val"`` or ``"test"``.
        config: A ``RunConfig``.
        batch_size: Goes before config and ``DataLoader``, for a probe or a split batch.
        device: Where batches go later; for CUDA they are made in pinned memory.

    Raises:
        ContractError: No data for the split, an epoch without a batch, or a setting
            that the given ``DataLoader`` does not allow.
    """
    data = task.dataset(split)
    pin = device is not None and torch.device(device).type == "cuda"
    if isinstance(data, DataLoader):
        if not _can_reorder(data):
            return _from_stream(task, split, data, config, batch_size)
        plan = _plan_of_loader(task, split, data, config, batch_size, pin)
        return _from_map(plan, data.dataset)
    plan = _plan_of_config(task, split, config, batch_size, pin)
    if isinstance(data, IterableDataset):
        return StreamLoader(split, _stream(data, plan), plan.seed)
    return _from_map(plan, data)


def _from_map(plan: LoadPlan, data: Any) -> Loader:
    found = columns_of(data) if plan.collate in (collate, default_collate) else None
    if found is None:
        return MapLoader(plan, data)
    columns, rows = found
    # torch's collate makes lists of tuples; what the user's loader gave is kept.
    return TensorLoader(plan, columns, rows, tuple if plan.collate is collate else list)


def _plan_of_config(
    task: Task, split: str, config: Any, batch_size: int | None, pin: bool
) -> LoadPlan:
    is_train = split == "train"
    return LoadPlan(
        split=split,
        batch_size=_positive(batch_size or config.data.batch_size, batch_size),
        seed=config.train.seed,
        shuffle=is_train and config.data.shuffle,
        drop_last=is_train and config.data.drop_last,
        num_workers=config.data.num_workers,
        pin_memory=pin,
        collate=task.collate or collate,
    )


def _positive(size: int, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise ContractError(
            f"batch_size is {asked}; it must be >= 1. Leave it out to use the config's."
        )
    return size


def _plan_of_loader(
    task: Task,
    split: str,
    given: DataLoader[Any],
    config: Any,
    batch_size: int | None,
    pin: bool,
) -> LoadPlan:
    def choose(key: str, own: Any) -> Any:
        is_set = config.origin(key) != "default"
        return getattr(config.data, key) if is_set else own

    is_train = split == "train"
    size = batch_size or choose("batch_size", given.batch_size)
    drops = choose("drop_last", given.drop_last) if is_train else given.drop_last
    shuffles = choose("shuffle", isinstance(given.sampler, RandomSampler))
    return LoadPlan(
        split=split,
        batch_size=_positive(size, batch_size),
        seed=config.train.seed,
        shuffle=is_train and shuffles,
        drop_last=drops,
        num_workers=choose("num_workers", given.num_workers),
        pin_memory=pin,
        collate=task.collate or given.collate_fn,
        worker_options=_worker_options(given),
    )


def _worker_options(given: DataLoader[Any]) -> tuple[tuple[str, Any], ...]:
    """What a DataLoader with workers says about them, beside their number."""
    keys = ("worker_init_fn", "multiprocessing_context", "prefetch_factor", "timeout")
    if given.num_workers == 0:
        keys = ("worker_init_fn",)
    return tuple((key, getattr(given, key)) for key in keys if getattr(given, key))


def _can_reorder(given: DataLoader[Any]) -> bool:
    """Whether the loader reads a map-style dataset, in order or plainly shuffled."""
    kind = type(given)
    own_iteration = any(
        getattr(kind, name, None) is not getattr(DataLoader, name, None)
        for name in ("__iter__", "_get_iterator")
    )
    if own_iteration or isinstance(given.dataset, IterableDataset):
        return False
    sampler = given.sampler
    if type(given.batch_sampler) is not BatchSampler or given.batch_size is None:
        return False
    if type(sampler) is RandomSampler:
        covers = sampler.num_samples == len(given.dataset)  # type: ignore[arg-type]
        return covers and not sampler.replacement
    return type(sampler) is SequentialSampler


def _from_stream(
    task: Task,
    split: str,
    given: DataLoader[Any],
    config: Any,
    batch_size: int | None,
) -> Loader:
    """The user's loader as it is; settings that it cannot take are refused."""
    wanted = batch_size
    if wanted is None and given.batch_size is not None:
        is_set = config.origin("batch_size") != "default"
        wanted = config.data.batch_size if is_set else None
    if wanted is not None and wanted != given.batch_size:
        raise ContractError(
            f"batch_size is {wanted}, and the DataLoader of '{split}' has "
            f"{given.batch_size or 'no fixed size'} by a sampler of its own; they "
            "must agree. Set the size on that DataLoader, or give its dataset to the "
            "task."
        )
    if task.collate is not None:
        raise ContractError(
            f"the task has a collate=, and the DataLoader of '{split}' batches by "
            "itself; one of them is expected. Set collate_fn on that DataLoader, or "
            "give its dataset to the task."
        )
    return StreamLoader(split, given, config.train.seed)


def _stream(data: IterableDataset[Any], plan: LoadPlan) -> DataLoader[Any]:
    return DataLoader(
        data,
        batch_size=plan.batch_size,
        drop_last=plan.drop_last,
        collate_fn=plan.collate,
        num_workers=plan.num_workers,
        # Workers that lived on would take their random state into the next epoch.
        persistent_workers=False,
        pin_memory=plan.pin_memory,
    )
