"""Tasks that once passed preflight and then failed or lied; each beside a twin."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from nbutils.data.task import Task
from nbutils.preflight import preflight


def data(count: int = 24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


def task(**changes) -> Task:
    model, loss = nn.Linear(6, 3), nn.CrossEntropyLoss()
    return Task(**{"model": model, "loss": loss, "train_data": data(), **changes})


def look(built: Task, check: str, **settings):
    report = preflight(built, on_failure="return", **settings)
    return next(f for f in report.findings if f.id == check)


def regression(loss) -> Task:
    x, _ = data()
    return task(model=nn.Linear(6, 1), loss=loss, train_data=(x, x[:, 0] * 3))


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss()])
def test_r5_column_against_row_fails(loss):
    finding = look(regression(loss), "R5")
    assert finding.severity == "fail"
    assert "(24, 24)" in finding.actual

    def squeezed(outputs, batch):
        return loss(outputs.squeeze(1), batch[1])

    assert look(regression(squeezed), "R5").severity == "pass"


def test_r5_ignored_targets_without_a_count_warn():
    x, y = torch.randn(12, 6, 4), torch.randint(3, (12, 4))
    for row in range(12):
        y[row, : row % 4] = -100
    given = {"model": nn.Conv1d(6, 3, 1), "train_data": (x, y)}
    finding = look(task(**given), "R5", accumulation=2)
    assert finding.severity == "warn"
    assert "count_targets" in finding.fix
    counted = task(**given, count_targets=lambda batch: (batch[1] != -100).sum())
    assert look(counted, "R5", accumulation=2).severity == "pass"


def test_r5_high_start_of_a_tied_head_is_told_and_no_alarm():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(100, 64)

        def forward(self, ids):
            return self.embed(ids) @ self.embed.weight.T

    ids = torch.arange(24) % 100
    built = task(model=Tied(), train_data=(ids, ids.roll(1)))
    finding = look(built, "R5")
    assert finding.severity == "pass"
    assert "start" in str(finding.details)


def test_r3_stream_that_cannot_start_anew_fails_unread():
    class Once(IterableDataset):
        def __init__(self) -> None:
            self.rows = iter(list(zip(*data(), strict=True)))

        def __iter__(self):
            return self.rows

    class Anew(IterableDataset):
        def __iter__(self):
            self.rows = iter(list(zip(*data(), strict=True)))
            return self

        def __next__(self):
            return next(self.rows)

    once = Once()
    finding = look(task(train_data=once), "R3")
    assert finding.severity == "fail"
    assert "cannot start anew" in finding.title
    assert len(list(once.rows)) == 24
    assert look(task(train_data=Anew()), "R3").severity == "pass"


def test_r6_curve_without_an_end_fails():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(list(zip(*data(), strict=True)))

    finding = look(task(train_data=Stream()), "R6", schedule="cosine")
    assert finding.severity == "fail"
    assert "max_steps" in finding.actual


def test_r14_gradient_checkpointing_without_a_switch_fails():
    class Switched(nn.Linear):
        def set_grad_checkpointing(self, enable=True):
            return None

    settings = {"gradient_checkpointing": True, "depth": "static"}
    finding = look(task(), "R14", **settings)
    assert finding.severity == "fail"
    assert "checkpoint_blocks" in finding.fix
    assert look(task(model=Switched(6, 3)), "R14", **settings).severity == "pass"


def test_r4_metric_of_one_value_a_sample_fails():
    def hits(outputs, batch):
        return (outputs.argmax(1) == batch[1]).float()

    finding = look(task(metrics={"acc": hits}), "R4")
    assert finding.severity == "fail"
    assert ".mean()" in finding.fix or ".mean()" in finding.actual
    mean = {"acc": lambda outputs, batch: hits(outputs, batch).mean()}
    assert look(task(metrics=mean), "R4").severity == "pass"
