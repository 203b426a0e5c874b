"""R14: pace, price, micro-batches and worker processes."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    get_worker_info,
)

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.monitor.memory import host_rss_bytes, swapped_bytes
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.run import micro_batches, pace, resources, workers
from nbutils.preflight.checks.update import step
from nbutils.preflight.session import run_checks


def data(count: int = 40):
    return torch.randn(count, 6), torch.arange(count) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes) -> Task:
    given = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": data()}
    return Task(**{**given, **changes})


def look(built: Task, depth: str = "standard", **settings):
    checks = [step.CHECK, resources.CHECK]
    found = run_checks(built, RunConfig(**settings), checks, depth)
    return next(f for f in found if f.id == "R14")


def test_r14_plan_pace_and_table_are_told():
    settings = {"batch_size": 8, "accumulation": 2, "epochs": 4}
    finding = look(task(val_data=data(9)), **settings)
    assert finding.severity == "pass"
    details = dict(finding.details)
    assert details["updates planned"] == "3 an epoch, 12 in all, each of 2 batches"
    assert " to " in details["time of the run"]
    assert "evaluation" in details["of which"]
    sizes = [line.split(":")[0] for line in details["micro-batches"].splitlines()]
    assert sizes == ["1", "2", "4", "8", "16"]
    assert "samples/s" in details["fastest micro-batch"]
    assert "quartiles" in finding.actual
    assert "cost" not in details


def test_r14_price_of_an_hour_gives_a_cost(monkeypatch):
    built = task(extras={"price_per_hour": 3600 * 24})
    cost = dict(look(built, epochs=100).details)["cost"]
    assert "at 86400 an hour" in cost
    monkeypatch.setenv(pace.PRICE, "0.5")
    assert "at 0.5 an hour" in dict(look(task()).details)["cost"]
    monkeypatch.setenv(pace.PRICE, "cheap")
    finding = look(task())
    assert finding.severity == "warn"
    assert "no number" in finding.title
    RunConfig()  # the variable is no setting, and no near miss of one


def test_r14_small_batches_that_are_faster_are_named():
    class Crowded(nn.Module):
        """Costs as the cube of the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x):
            time.sleep(0.002 * (len(x) / 4) ** 3)
            return self.net(x)

    finding = look(task(model=Crowded()), batch_size=16)
    assert finding.severity == "warn"
    assert "batch_size=16 is slower per sample than" in finding.title
    assert "accumulation=" in finding.fix
    declared = task(model=Crowded(), declares=("samples interact",))
    assert look(declared, batch_size=16).severity == "pass"


def test_r14_size_that_the_model_refuses_is_told_not_judged():
    class Even(nn.Linear):
        def forward(self, x):
            if len(x) % 2:
                raise ValueError("an even number of samples is expected")
            return super().forward(x)

    finding = look(task(model=Even(6, 3)), batch_size=8)
    assert finding.severity == "pass"
    assert "1: refused, ValueError" in dict(finding.details)["micro-batches"]


def test_r14_batches_that_cannot_be_split_are_not_compared():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(list(zip(*data(16), strict=True)))

    finding = look(task(train_data=Stream()), batch_size=8, max_steps=10)
    assert finding.severity == "pass"
    told = dict(finding.details)["micro-batches"]
    assert told.splitlines()[-1].startswith("8:")


def test_r14_swap_warns():
    claims = Claims()
    micro_batches._judge_swap(2**31, claims)
    assert claims.worst == "warn"
    assert "swaps" in claims.claims[0].title
    assert swapped_bytes() >= 0
    assert host_rss_bytes() > 2**20


# -- worker processes --------------------------------------------------------------


class Plain(Dataset):
    def __init__(self) -> None:
        self.x, self.y = data(24)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


class OnlyHere(Plain):
    """Fails in a worker, as an open handle or a tensor on a device does."""

    def __getitem__(self, index):
        if get_worker_info() is not None:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return super().__getitem__(index)


def test_r14_dataset_that_fails_in_workers_fails():
    finding = look(task(train_data=OnlyHere()), num_workers=2, batch_size=8)
    assert finding.severity == "fail"
    assert "worker processes cannot read" in finding.title
    assert "re-initialize CUDA" in finding.actual
    twin = look(task(train_data=Plain()), num_workers=2, batch_size=8)
    assert twin.severity == "pass"
    assert "first batch after" in dict(twin.details)["worker processes"]
    alone = look(task(train_data=OnlyHere()), batch_size=8)
    assert alone.severity == "pass"


def test_r14_dataset_that_cannot_be_pickled_fails_under_spawn():
    built = Plain()
    built.transform = lambda x: x
    loader = DataLoader(
        built, batch_size=8, num_workers=1, multiprocessing_context="spawn"
    )
    finding = look(task(train_data=loader))
    assert finding.severity == "fail"
    assert "cannot be sent to worker processes" in finding.title
    assert "lambdas" in finding.fix


class Numbers(IterableDataset):
    def __init__(self, *, shares: bool) -> None:
        self.shares = shares

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(32, 6, generator=generator)
        info = get_worker_info()
        start, jump = (0, 1)
        if self.shares and info is not None:
            start, jump = info.id, info.num_workers
        return iter([(x[n], n % 3) for n in range(start, 32, jump)])


@pytest.mark.parametrize(("shares", "severity"), [(False, "warn"), (True, "pass")])
def test_r14_stream_that_each_worker_reads_whole_warns(shares, severity):
    built = task(train_data=Numbers(shares=shares))
    finding = look(built, num_workers=2, batch_size=4, max_steps=20)
    assert finding.severity == severity
    if severity == "warn":
        assert "each worker process reads the whole stream" in finding.title
        assert "get_worker_info" in finding.fix


def test_r14_workers_that_hang_warn(monkeypatch):
    class Waiting(Plain):
        def __getitem__(self, index):
            if get_worker_info() is not None:
                time.sleep(60)
            return super().__getitem__(index)

    monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
    finding = look(task(train_data=Waiting()), num_workers=1, batch_size=8)
    assert finding.severity == "warn"
    assert "no batch in time" in finding.title


def test_r14_quadratic_loss_is_not_blamed_for_a_tiny_batch():
    def pairwise(outputs, batch):
        gap = torch.cdist(outputs, outputs)
        return F.cross_entropy(outputs, batch[1]) + gap.mean()

    assert look(task(loss=pairwise), batch_size=32).severity == "pass"
