"""Law 2: what is not finite is refused, and the run is as if it had been skipped."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers_laws import (
    StopAt,
    Watch,
    assert_equal,
    batches_of,
    copied,
    events_of,
    fresh_dir,
    law,
    net,
    plain_train,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import nbutils as nb

PATIENT = {"max_consecutive_refusals": 1000, "max_refused_fraction": 1.0}
LENGTH, BATCH, EPOCHS = 24, 4, 3


class Poison(torch.autograd.Function):
    """Passes values on; the gradient of rows that carry the mark is NaN."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, marks: Tensor) -> Tensor:
        ctx.save_for_backward(marks)
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (marks,) = ctx.saved_tensors
        return torch.where(marks[:, None] > 0, torch.nan, grad), None


def loss_of(outputs: Tensor, batch: Any) -> Tensor:
    _x, y, marks, factor = batch
    outputs = Poison.apply(outputs, marks)
    return (F.cross_entropy(outputs, y, reduction="none") * factor).mean()


def poisoned(where: dict[int, str]) -> tuple[Tensor, ...]:
    """Data whose samples ``where`` are bad in their own way."""
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(LENGTH, 6, generator=rng)
    y, marks, factor = (x[:, 0] > 0).long(), torch.zeros(LENGTH), torch.ones(LENGTH)
    for index, kind in where.items():
        if kind == "gradient":
            marks[index] = 1
        elif kind == "loss":
            factor[index] = math.nan
        elif kind == "overflow":
            factor[index] = 1e38  # finite, but the norm of its gradient is not
        else:
            x[index, 1] = float(kind)
    return x, y, marks, factor


KINDS = ["nan", "inf", "-inf", "gradient", "loss", "overflow"]
MATRIX: dict[str, Any] = {
    "where": st.dictionaries(
        st.integers(0, LENGTH - 1), st.sampled_from(KINDS), min_size=1, max_size=4
    ),
    "accumulation": st.sampled_from([1, 1, 2, 4]),
    "optimizer": st.sampled_from(["sgd", "adamw"]),
    "dropout": st.sampled_from([0.0, 0.3]),
}


@law(24)
@given(**MATRIX)
def test_bad_windows_are_as_if_skipped_bit_for_bit(
    where: dict[int, str], accumulation: int, optimizer: str, dropout: float
) -> None:
    columns = poisoned(where)
    batches = batches_of(LENGTH, BATCH)
    starts = range(0, len(batches), accumulation)
    windows = [batches[s : s + accumulation] for s in starts]
    planned = EPOCHS * len(windows)
    model = net(dropout=dropout)
    twin = copy.deepcopy(model)
    watch = Watch()
    result = train(
        nb.Task(model, loss_of, columns),
        None,
        watch,
        **PATIENT,
        epochs=EPOCHS,
        batch_size=BATCH,
        accumulation=accumulation,
        shuffle=False,
        optimizer=optimizer,
        lr=0.05,
        weight_decay=0.01,
        schedule="linear",
    )
    family = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    more: Any = {"momentum": 0.9} if optimizer == "sgd" else {}

    def lr(applied: int) -> float:
        return 0.05 * (1 - min(applied / (planned - 1), 1.0))

    def window_loss(window: list[list[int]]) -> Tensor:
        shares = [len(idx) / sum(map(len, window)) for idx in window]
        losses = []
        for idx, share in zip(window, shares, strict=True):
            batch = tuple(column[idx] for column in columns)
            losses.append(loss_of(twin(batch[0]), batch) * share)
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    losses = plain_train(
        twin,
        family(twin.parameters(), lr=0.05, weight_decay=0.01, fused=True, **more),
        window_loss,
        [windows] * EPOCHS,
        lrs=lr,
    )
    bad = [any(i in where for batch in w for i in batch) for w in windows] * EPOCHS
    assert watch.refused == bad
    assert result.skipped == sum(bad)
    # the schedule waits: the n-th applied update has the n-th learning rate
    applied = [
        rate for rate, refused in zip(watch.lrs, bad, strict=True) if not refused
    ]
    assert applied == pytest.approx([lr(n) for n in range(len(applied))], abs=1e-12)
    assert all(value.isfinite().all() for value in copied(model).values())
    if accumulation == 1:
        assert_equal(copied(model), copied(twin))
        assert [v for v in watch.losses if v == v] == [v for v in losses if v == v]
    else:
        for name, value in copied(model).items():
            torch.testing.assert_close(
                value, twin.state_dict()[name], rtol=1e-4, atol=1e-5
            )


@law(12)
@given(**MATRIX, stop=st.integers(1, 8))
def test_stop_among_bad_windows_changes_nothing(
    where: dict[int, str], accumulation: int, optimizer: str, dropout: float, stop: int
) -> None:
    columns = poisoned(where)
    options = {
        **PATIENT,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "accumulation": accumulation,
        "optimizer": optimizer,
        "schedule": "onecycle",
        "ema_decay": 0.9,
        "precision": "fp16",
    }
    models = [net(dropout=dropout) for _ in range(3)]
    tasks = [nb.Task(model, loss_of, columns, columns) for model in models]
    whole = train(tasks[0], None, **options)
    folder = fresh_dir()
    train(tasks[1], folder, StopAt(stop), **options)
    result = train(tasks[2], folder, **options)
    assert result.skipped == whole.skipped
    assert_equal(copied(models[0]), copied(models[2]))


def test_refused_window_is_named_saved_and_not_averaged_in() -> None:
    columns = poisoned({5: "nan"})
    folder, watch = fresh_dir(), Watch()
    task = nb.Task(net(), loss_of, columns)
    result = train(task, folder, watch, epochs=1, batch_size=BATCH, shuffle=False)
    (event,) = events_of(folder, "refused")
    assert event["step"] == 2
    assert event["indices"] == [4, 5, 6, 7]
    (batch,) = torch.load(event["batch_file"], weights_only=True)
    assert_equal(batch[0][0], columns[0][4])
    assert batch[0][1].isnan().sum() == 1
    applied = [v for v, bad in zip(watch.losses, watch.refused, strict=True) if not bad]
    mean = sum(applied) / len(applied)
    assert result.history["train_loss"].tolist() == pytest.approx([mean])


def test_healthy_run_refuses_nothing() -> None:
    watch = Watch()
    task = nb.Task(net(), loss_of, poisoned({}))
    assert train(task, None, watch, epochs=2, batch_size=BATCH).skipped == 0
    assert not any(watch.refused)


def test_nan_parameter_gradient_of_one_layer_alone_is_seen() -> None:
    model = net(dropout=0.0)
    before = copied(model)
    model[0].weight.register_hook(lambda grad: torch.full_like(grad, math.nan))
    task = nb.Task(model, nn.CrossEntropyLoss(), poisoned({})[:2])
    result = train(task, None, **PATIENT, epochs=1, batch_size=BATCH)
    assert result.skipped == result.steps
    assert_equal(before, copied(model))
