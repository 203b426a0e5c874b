"""Law 6: out of memory frees, splits and continues with the same samples."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers_laws import (
    StopAt,
    assert_close,
    assert_equal,
    batches_of,
    events_of,
    fresh_dir,
    law,
    plain_train,
    read_newest,
    train,
    windows_of,
    without_times,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import nbutils as nb

LENGTH = 30
PLACES = ["first layer", "last layer", "loss", "backward"]
SPELLINGS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    MemoryError(),
]


class Limit:
    """Lets at most ``rows`` samples pass ``place``, as a full memory would."""

    def __init__(self, rows: int, place: str, error: BaseException) -> None:
        self.rows, self.place, self.error = rows, place, error
        self.num_hits = 0

    def check(self, place: str, tensor: Tensor) -> None:
        if place == self.place and len(tensor) > self.rows and torch.is_grad_enabled():
            self.num_hits += 1
            raise self.error


class _Back(torch.autograd.Function):
    """Passes values on; meets the limit on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: Limit) -> Tensor:
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            ctx.limit.check("backward", grad)
        return grad, None


class Hungry(nn.Module):
    """Two layers with the limit at each stage; no sample sees another."""

    def __init__(self, limit: Limit, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.limit = limit
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        self.limit.check("first layer", x)
        hidden = _Back.apply(torch.tanh(self.first(x)), self.limit)
        outputs = self.last(self.drop(hidden))
        self.limit.check("last layer", outputs)
        return outputs

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        self.limit.check("loss", outputs)
        return F.cross_entropy(outputs, batch[1])


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(LENGTH, 6, generator=torch.Generator().manual_seed(9))
    return x.double(), (x[:, 0] > 0).long()


@law(18)
@given(
    rows=st.integers(1, 12),
    place=st.sampled_from(PLACES),
    error=st.sampled_from(SPELLINGS),
    batch_size=st.integers(2, 12),
    accumulation=st.integers(1, 3),
)
def test_split_run_has_the_weights_of_one_with_room(
    rows: int, place: str, error: BaseException, batch_size: int, accumulation: int
) -> None:
    x, y = data()
    limit = Limit(rows, place, error)
    model = Hungry(limit).double()
    twin = copy.deepcopy(model)
    twin.limit = Limit(LENGTH, "nowhere", error)
    folder = fresh_dir()
    options = {"batch_size": batch_size, "accumulation": accumulation}
    result = train(
        nb.Task(model, model.loss, (x, y)),
        folder,
        **options,
        epochs=2,
        shuffle=False,
        optimizer="adamw",
        lr=0.05,
    )
    batches = batches_of(LENGTH, batch_size)
    windows = windows_of(batches, accumulation)
    plain_train(
        twin,
        torch.optim.AdamW(twin.parameters(), lr=0.05, weight_decay=0.01),
        lambda idx: F.cross_entropy(twin(x[idx]), y[idx]),
        [windows, windows],
    )
    assert result.steps == 2 * len(windows)
    assert_close(model, twin, rtol=1e-8, atol=1e-9)
    assert bool(events_of(folder, "oom")) == (batch_size > rows)
    assert limit.num_hits <= 5  # learnt, not met again and again


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stop", [1, 4])
def test_stop_after_a_split_changes_nothing(place: str, stop: int) -> None:
    def run(folder: Any, *callbacks: Any) -> None:
        model = Hungry(Limit(3, place, MemoryError()), dropout=0.3)
        x, y = data()
        task = nb.Task(model, model.loss, (x.float(), y))
        train(task, folder, *callbacks, batch_size=8, epochs=2, lr=0.05)

    whole, part = fresh_dir(), fresh_dir()
    run(whole)
    run(part, StopAt(stop))
    run(part)
    assert_equal(without_times(read_newest(whole)), without_times(read_newest(part)))


def test_batch_that_fits_is_never_split() -> None:
    folder, limit = fresh_dir(), Limit(8, "loss", MemoryError())
    model = Hungry(limit)
    x, y = data()
    train(nb.Task(model, model.loss, (x.float(), y)), folder, batch_size=8, epochs=2)
    assert limit.num_hits == 0
    assert events_of(folder, "oom") == []


def test_one_sample_that_does_not_fit_raises() -> None:
    model = Hungry(Limit(0, "last layer", MemoryError()))
    x, y = data()
    task = nb.Task(model, model.loss, (x.float(), y))
    with pytest.raises(torch.OutOfMemoryError, match="not even one sample at a time"):
        train(task, batch_size=8, epochs=1)


def test_another_error_is_no_lack_of_memory() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    limit = Limit(3, "last layer", error)
    model = Hungry(limit)
    x, y = data()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(nb.Task(model, model.loss, (x.float(), y)), batch_size=8, epochs=1)
    assert limit.num_hits == 1
