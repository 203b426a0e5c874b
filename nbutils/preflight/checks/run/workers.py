"""Part of R14: the worker processes start, read, and share a stream among them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from nbutils.data.batch import batch_size, tensors
from nbutils.data.loader import Loader
from nbutils.data.loaders import make_loader
from nbutils.data.map_loader import MapLoader
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_workers"]

MAX_WORKERS = 2
MAX_READ_S = 4.0
"""A batch that takes longer to read here is not waited for in another process."""

PATIENCE_S = 30.0
MAX_BATCHES = 64
STREAM_S = 3.0
OWN_OPTIONS = ("timeout", "prefetch_factor")


def judge_workers(probe: Probe, claims: Claims) -> None:
    """One batch through worker processes as the run starts them, where it does."""
    count = _num_workers(probe)
    if count == 0:
        return
    start = time.perf_counter()
    batch, error = attempt(lambda: _first(probe.data.loader("train")))
    took = time.perf_counter() - start
    if error is not None or probe.seconds_left < took or took > MAX_READ_S:
        reason = "slow to read" if error is None else "not readable here"
        claims.show([("worker processes", f"not started: a batch is {reason}")])
        return
    loader = _loader(probe, min(count, MAX_WORKERS), took)
    if loader is None:
        return
    start = time.perf_counter()
    try:
        found, error = attempt(lambda: _first(loader))
    finally:
        loader.close()
    if error is not None:
        _note_failure(count, error, claims)
        return
    seconds = time.perf_counter() - start
    claims.show([("worker processes", f"first batch after {seconds:.1f} s")])
    _judge_size(batch, found, claims)
    if not isinstance(loader, MapLoader) and count > 1:
        _judge_stream(probe, loader, count, claims)


def _num_workers(probe: Probe) -> int:
    """Processes that the run will read the training data with."""
    data = probe.task.dataset("train")
    is_set = probe.config.origin("num_workers") != "default"
    if isinstance(data, DataLoader) and not is_set:
        return data.num_workers
    if isinstance(data, DataLoader) and not isinstance(
        probe.data.loader("train"), MapLoader
    ):
        return data.num_workers  # its own order is kept, and so are its workers
    return probe.config.data.num_workers


def _loader(probe: Probe, count: int, read_s: float) -> Loader | None:
    """The run's loader with few workers; none for tensors, which need no workers."""
    config = probe.config.replace(num_workers=count)
    loader = make_loader(probe.task, "train", config, device=probe.device)
    if isinstance(loader, MapLoader):
        kept = [o for o in loader.plan.worker_options if o[0] not in OWN_OPTIONS]
        options = (*kept, ("prefetch_factor", 1), ("timeout", PATIENCE_S + 4 * read_s))
        plan = replace(loader.plan, worker_options=tuple(options))
        return MapLoader(plan, probe.data.samples("train"))
    is_stream = isinstance(probe.task.dataset("train"), (DataLoader, IterableDataset))
    return loader if is_stream and probe.data.samples("train") is None else None


def _first(loader: Loader) -> Any:
    loader.set_position(0)
    iterator = iter(loader)
    try:
        return next(iterator)
    finally:
        _end(iterator)


def _end(iterator: Iterator[Any]) -> None:
    """Let a generator go, and with it the workers that it holds."""
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


def _note_failure(count: int, error: Exception, claims: Claims) -> None:
    text = str(error)
    if "timed out" in text:
        claims.add(
            "warn",
            "the worker processes gave no batch in time",
            expected="a batch, as one is read in this process",
            actual=quote(error),
            fix="Look for locks, threads or open connections that the dataset takes "
            "along into its workers; open them in __getitem__, or set num_workers=0.",
        )
        return
    cannot_pickle = "pickle" in text.lower() or "Can't get" in text
    title = "the dataset cannot be sent to worker processes"
    claims.add(
        "fail",
        title if cannot_pickle else "the worker processes cannot read the data",
        expected=f"a first batch from num_workers={count}",
        actual=quote(error),
        fix="Define dataset, collate and worker_init_fn at the top of a module, "
        "without lambdas and open files; or set num_workers=0."
        if cannot_pickle
        else "In this process the same batch could be read. Keep tensors on the CPU, "
        "and open files in __getitem__; or set num_workers=0.",
    )


def _judge_size(here: Any, there: Any, claims: Claims) -> None:
    sizes, error = attempt(lambda: (batch_size(here), batch_size(there)))
    if error is None and sizes[0] != sizes[1]:
        claims.show([("first batch", f"{sizes[0]} samples here, {sizes[1]} there")])


def _judge_stream(probe: Probe, loader: Loader, count: int, claims: Claims) -> None:
    """Workers that do not share a stream give each sample once a worker."""
    if probe.config.data.num_workers > MAX_WORKERS:
        count = min(count, MAX_WORKERS)
    alone = _read(probe.data.loader("train"))
    together = _read(loader)
    loader.close()
    if alone is None or together is None or len(alone) < 2 or len(together) < 2:
        return
    is_repeated = len(together) > len(alone) and all(
        _are_equal(together[k], together[0]) for k in range(1, min(count, 2))
    )
    if not is_repeated or _are_equal(alone[0], alone[1]):
        return
    claims.add(
        "warn",
        "each worker process reads the whole stream",
        expected=f"{len(alone)} batches in a pass, as without workers",
        actual=f"{len(together)} batches with workers; the first ones are equal, so "
        "each sample is seen once a worker",
        fix="In __iter__, ask torch.utils.data.get_worker_info() and give each worker "
        "its share; or set num_workers=0.",
    )


def _read(loader: Loader) -> list[Any] | None:
    """The first batches of a pass; none if they take too long."""
    loader.set_position(0)
    iterator, found = iter(loader), []
    until = time.perf_counter() + STREAM_S
    try:
        for batch in islice(iterator, MAX_BATCHES):
            found.append(batch)
            if time.perf_counter() > until:
                return None
    finally:
        _end(iterator)
    return found


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors, of which there is at least one."""
    a, b = dict(tensors(one)), dict(tensors(other))
    if not a or a.keys() != b.keys():
        return False
    return all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)
