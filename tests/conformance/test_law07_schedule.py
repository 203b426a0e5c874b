"""Law 7: a schedule ends where the run ends, and moves only with the optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers_laws import StopAt, Watch, batches_of, fresh_dir, law, net, train
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import nbutils as nb

PEAK = 0.1
ENDS = {"cosine": 0.0, "linear": 0.0, "onecycle": 1e-4 / 25}


def task(length: int) -> nb.Task:
    x = torch.randn(length, 6, generator=torch.Generator().manual_seed(1))
    return nb.Task(net(norm=False), nn.CrossEntropyLoss(), (x, (x[:, 0] > 0).long()))


def curve(kind: str, n: int, planned: int, warmup: int, floor: float) -> float:
    """The learning rate of the n-th applied update, from the textbook."""
    last = planned - 1
    if planned == 1 and kind != "constant":
        return PEAK  # a single update is the peak itself

    def cosine(start: float, end: float, done: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * min(done, 1))) / 2

    if kind == "onecycle":
        rise, end = warmup or 0.3 * last, max(1e-4 / 25, floor / PEAK)
        if n >= last:
            return PEAK * end
        if n <= rise:
            return PEAK * cosine(1 / 25, 1, n / rise)
        return PEAK * cosine(1, end, (n - rise) / (last - rise))
    if n < warmup and (n < last or kind == "constant"):
        return PEAK * (n + 1) / (warmup + 1)
    if kind == "constant":
        return PEAK
    done = 1.0 if n >= last else (n - warmup) / (last - warmup)
    if kind == "cosine":
        return cosine(PEAK, floor, done)
    return PEAK + (floor - PEAK) * done


@law(40)
@given(
    kind=st.sampled_from(["cosine", "linear", "onecycle", "constant"]),
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 17),
    epochs=st.sampled_from([None, 1, 2, 3]),
    max_steps=st.none() | st.integers(1, 25),
    drop_last=st.booleans(),
    warmup=st.sampled_from([0, 0, 1, 4]),
    floor=st.sampled_from([0.0, 0.01]),
)
def test_last_update_is_at_the_end_of_the_curve(
    kind: str,
    length: int,
    batch_size: int,
    accumulation: int,
    epochs: int | None,
    max_steps: int | None,
    drop_last: bool,
    warmup: int,
    floor: float,
) -> None:
    num_batches = len(batches_of(length, batch_size, drop_last))
    assume(num_batches and (epochs or max_steps))
    per_epoch = math.ceil(num_batches / accumulation)
    planned = min(epochs * per_epoch if epochs else 10**9, max_steps or 10**9)
    assume(warmup < planned)  # refused, and rightly so
    limits: dict[str, Any] = {"epochs": epochs, "max_steps": max_steps}
    watch = Watch()
    result = train(
        task(length),
        None,
        watch,
        **{key: value for key, value in limits.items() if value is not None},
        batch_size=batch_size,
        accumulation=accumulation,
        drop_last=drop_last,
        schedule=kind,
        warmup_steps=warmup,
        min_lr=floor,
        lr=PEAK,
    )
    assert result.steps == planned
    expected = [curve(kind, n, planned, warmup, floor) for n in range(planned)]
    assert watch.lrs == pytest.approx(expected, abs=1e-9)
    if kind != "constant" and planned > max(warmup + 1, 4):
        end = max(ENDS[kind] * PEAK, floor)
        assert watch.lrs[-1] == pytest.approx(end, abs=1e-9)
        assert max(watch.lrs) > 0.5 * PEAK


@pytest.mark.parametrize("kind", ["cosine", "linear", "onecycle"])
def test_resume_goes_on_where_the_curve_stood(kind: str) -> None:
    options = {"schedule": kind, "lr": PEAK, "epochs": 3, "batch_size": 4}
    whole, first, second = Watch(), Watch(), Watch()
    train(task(30), None, whole, **options)
    folder = fresh_dir()
    train(task(30), folder, first, StopAt(10), **options)
    train(task(30), folder, second, **options)
    assert first.lrs + second.lrs == whole.lrs


def test_refused_update_leaves_the_schedule_where_it_is() -> None:
    given = task(32)
    given.train_data.tensors[0][8:12] = math.nan
    watch = Watch()
    options = {"schedule": "linear", "lr": PEAK, "epochs": 2, "batch_size": 4}
    train(given, None, watch, **options, shuffle=False)
    assert watch.refused == [step in (3, 11) for step in range(1, 17)]
    assert watch.lrs[2] == watch.lrs[3]  # the refused one did not use its rate up
    assert watch.lrs[10] == watch.lrs[11]
    drops = [a - b for a, b in zip(watch.lrs, watch.lrs[1:], strict=False)]
    moved = [drop for drop in drops if drop > 0]
    assert moved == pytest.approx([PEAK / 15] * 13)


def test_plateau_falls_after_the_third_evaluation_without_a_gain() -> None:
    x = torch.randn(16, 6)
    y = (x[:, 0] > 0).long()
    flat = {"flat": lambda _outputs, _batch: torch.tensor(1.0)}
    data = (x, y)
    given = nb.Task(net(), nn.CrossEntropyLoss(), data, data, metrics=flat)
    watch = Watch()
    options = {"schedule": "plateau", "epochs": 9, "batch_size": 16, "min_lr": 0.003}
    train(given, None, watch, **options, lr=PEAK, monitor="flat")
    # the first evaluation is the best; then patience of two, and a tenth
    assert watch.lrs == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.003] * 2)


def test_schedule_of_the_user_gets_the_planned_steps_and_waits_too() -> None:
    seen: list[int] = []

    def make(optimizer: Any, planned_steps: int) -> Any:
        seen.append(planned_steps)
        return torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.5, total_iters=planned_steps
        )

    x = torch.randn(12, 6)
    x[4] = math.nan
    given = nb.Task(
        net(norm=False),
        nn.CrossEntropyLoss(),
        (x, torch.zeros(12).long()),
        make_schedule=make,
    )
    watch = Watch()
    options = {"epochs": 2, "batch_size": 4, "lr": PEAK, "shuffle": False}
    train(given, None, watch, **options)
    assert seen == [6]
    assert watch.lrs[1] == pytest.approx(watch.lrs[2])
    assert watch.lrs[0] > watch.lrs[1]
