"""Law 3: stopped anywhere and continued, a run ends as one that was never stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_laws import (
    Augmented,
    Endless,
    Rows,
    StopAt,
    Stream,
    assert_equal,
    copied,
    events_of,
    fresh_dir,
    law,
    net,
    read_newest,
    train,
    without_times,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import nbutils as nb

HOOKS = ["on_epoch_start", "on_evaluate_end", "on_checkpoint", "on_epoch_end"]


def columns(length: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(length, 6, generator=torch.Generator().manual_seed(11))
    return x, (x[:, 0] > 0).long()


def make_task(data: str = "augmented", length: int = 22) -> nb.Task:
    x, y = columns(length)
    kinds = {
        "tensors": lambda: (x, y),
        "augmented": lambda: Augmented(x, y),
        "stream": lambda: Stream(x, y),
        "endless": lambda: Endless(x, y),
    }
    return nb.Task(net(), nn.CrossEntropyLoss(), kinds[data](), (x[:9], y[:9]))


def allowed(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a warm-up that ends before the run does."""
    batch_size, accumulation = options["batch_size"], options["accumulation"]
    assume(22 % batch_size != 1)  # BatchNorm refuses a batch of one
    steps = options["epochs"] * math.ceil(math.ceil(22 / batch_size) / accumulation)
    return {**options, "warmup_steps": min(options["warmup_steps"], steps - 1)}


def table(result: nb.TrainResult) -> list[dict[str, Any]]:
    return result.history.drop(columns="seconds").to_dict("records")


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, optimizer, schedule, averages, counters, history, random states."""
    assert_equal(without_times(read_newest(one)), without_times(read_newest(other)))


OPTIONS = st.fixed_dictionaries(
    {
        "epochs": st.integers(2, 4),
        "batch_size": st.sampled_from([3, 4, 5, 8]),
        "accumulation": st.sampled_from([1, 1, 2, 3, 7]),
        "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
        "optimizer": st.sampled_from(["sgd", "adamw", "adam"]),
        "schedule": st.sampled_from(
            ["constant", "onecycle", "cosine", "linear", "plateau"]
        ),
        "warmup_steps": st.sampled_from([0, 3]),
        "ema_decay": st.sampled_from([None, 0.9]),
        "shuffle": st.booleans(),
        "patience": st.sampled_from([None, None, 1, 2]),
        "clip_value": st.sampled_from([None, 0.05]),
        "save_every_steps": st.sampled_from([None, 1, 2]),
        "seed": st.integers(0, 3),
        "lr": st.sampled_from([0.003, 0.3]),
    }
)


@law(30)
@given(
    options=OPTIONS,
    data=st.sampled_from(["tensors", "augmented", "stream", "endless"]),
    stops=st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_stop_at_any_step_then_continue_is_bit_identical(
    options: dict[str, Any], data: str, stops: list[int]
) -> None:
    options = allowed(options)
    assume(data != "endless" or options["schedule"] in ("constant", "plateau"))
    whole_dir, part_dir = fresh_dir(), fresh_dir()
    whole = train(make_task(data), whole_dir, **options)
    for stop in stops:
        train(make_task(data), part_dir, StopAt(stop), **options)
    task = make_task(data)
    result = train(task, part_dir, **options)
    assert table(result) == table(whole)
    assert result.stop_reason == whole.stop_reason
    assert_same_end(whole_dir, part_dir)
    steps = [event["step"] for event in events_of(part_dir, "epoch")]
    assert steps == [event["step"] for event in events_of(whole_dir, "epoch")]


@law(12)
@given(
    hook=st.sampled_from(HOOKS),
    count=st.integers(1, 4),
    options=OPTIONS,
)
def test_stop_between_epochs_then_continue_is_bit_identical(
    hook: str, count: int, options: dict[str, Any]
) -> None:
    options = allowed(options)
    whole_dir, part_dir = fresh_dir(), fresh_dir()
    whole = train(make_task(), whole_dir, **options)
    train(make_task(), part_dir, StopAt(count, hook), **options)
    result = train(make_task(), part_dir, **options)
    assert table(result) == table(whole)
    assert_same_end(whole_dir, part_dir)


class Crash(nb.Callback):
    """Raises when ``hook`` fires for the ``count``-th time."""

    def __init__(self, hook: str, count: int) -> None:
        self._left = count
        setattr(self, hook, self._tick)

    def _tick(self, state: Any) -> None:
        self._left -= 1
        if self._left == 0:
            raise ZeroDivisionError("the end of the world")


@law(15)
@given(
    hook=st.sampled_from(["on_step_end", *HOOKS]),
    count=st.integers(1, 5),
    options=OPTIONS,
)
@example(
    hook="on_evaluate_end",
    count=1,
    options={
        "epochs": 2,
        "batch_size": 8,
        "accumulation": 1,
        "warmup_steps": 0,
        "schedule": "onecycle",
        "save_every_steps": 1,  # one lies between the last step and the evaluation
    },
)
def test_crash_at_any_moment_then_continue_is_bit_identical(
    hook: str, count: int, options: dict[str, Any]
) -> None:
    options = allowed(options)
    whole_dir, part_dir = fresh_dir(), fresh_dir()
    whole = train(make_task(), whole_dir, **options)
    with suppress(ZeroDivisionError):  # unless the run is over before
        train(make_task(), part_dir, Crash(hook, count), **options)
    result = train(make_task(), part_dir, **options)
    assert table(result) == table(whole)
    assert_same_end(whole_dir, part_dir)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_stop_with_loader_workers_is_bit_identical_to_none_at_all(stop: int) -> None:
    options = {"epochs": 3, "batch_size": 6, "accumulation": 2, "lr": 0.05}
    dirs = [fresh_dir(), fresh_dir()]
    train(make_task(), dirs[0], **options)
    train(make_task(), dirs[1], StopAt(stop), **options, num_workers=2)
    train(make_task(), dirs[1], **options)
    assert_same_end(*dirs)


@pytest.mark.parametrize("data", ["stream", "endless"])
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_stop_of_a_stream_with_a_worker_is_bit_identical(data: str, stop: int) -> None:
    options = {"epochs": 3, "batch_size": 6, "accumulation": 2, "num_workers": 1}
    dirs = [fresh_dir(), fresh_dir()]
    train(make_task(data), dirs[0], **options)
    train(make_task(data), dirs[1], StopAt(stop), **options)
    train(make_task(data), dirs[1], **options)
    assert_same_end(*dirs)


def test_stop_on_the_step_that_ends_patience_stays_ended() -> None:
    options = {"epochs": 30, "batch_size": 8, "patience": 1, "lr": 3.0}
    whole_dir, part_dir = fresh_dir(), fresh_dir()
    whole = train(make_task(), whole_dir, **options)
    assert whole.stop_reason == "patience"
    train(make_task(), part_dir, StopAt(whole.steps), **options)
    again = train(make_task(), part_dir, **options)
    assert again.steps == whole.steps
    assert again.stop_reason == "patience"
    assert_same_end(whole_dir, part_dir)


@law(8)
@given(stop=st.integers(1, 29), workers=st.sampled_from([0, 0, 0, 2]))
@example(stop=27, workers=0)
def test_resume_inside_an_epoch_reads_no_sample_again(stop: int, workers: int) -> None:
    x, y = columns(120)
    numbers = torch.arange(120)
    seen: list[int] = []

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        seen.extend(batch[2].tolist())
        return nn.functional.cross_entropy(outputs, batch[1])

    options = {"epochs": 1, "batch_size": 4, "num_workers": workers}
    folder = fresh_dir()
    train(nb.Task(net(), loss, Rows(x, y, numbers)), folder, StopAt(stop), **options)
    before, data = list(seen), Rows(x, y, numbers)
    assert len(before) == 4 * stop
    train(nb.Task(net(), loss, data), folder, **options)
    assert sorted(seen) == list(range(120))
    if not workers:  # sample 0 alone may be read to tell the data by
        assert set(data.reads) - {0} <= set(range(120)) - set(before)
        assert len(data.reads) <= 120 - len(before) + 3


def test_order_and_augmentation_are_those_of_any_number_of_workers() -> None:
    folders = []
    for workers in (0, 1, 2):
        folders.append(fresh_dir())
        train(make_task(), folders[-1], epochs=2, batch_size=5, num_workers=workers)
    assert_same_end(folders[0], folders[1])
    assert_same_end(folders[0], folders[2])


def test_another_seed_is_another_run() -> None:
    folders = [fresh_dir(), fresh_dir()]
    for seed, folder in enumerate(folders):
        train(make_task(), folder, epochs=2, batch_size=5, seed=seed)
    with pytest.raises(AssertionError):
        assert_same_end(*folders)


def test_callers_randomness_before_a_run_changes_nothing() -> None:
    folders = [fresh_dir(), fresh_dir()]
    for draws, folder in enumerate(folders):
        task = make_task()
        torch.rand(draws + 1)
        train(task, folder, epochs=2, batch_size=5)
    assert_same_end(*folders)


CHILD = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from test_law03_resume import make_task, train
for folder, data, options in json.load(open("todo.json")):
    train(make_task(data), folder, **options)
"""


def test_continue_in_a_new_process_is_bit_identical() -> None:
    base = {"epochs": 3, "batch_size": 6, "lr": 0.02}
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (1, "augmented", {"ema_decay": 0.9, "schedule": "onecycle"}),
        (7, "augmented", {"precision": "fp16", "accumulation": 2, "patience": 2}),
        (4, "stream", {"precision": "bf16", "optimizer": "sgd", "schedule": "plateau"}),
        (6, "augmented", {"num_workers": 2, "schedule": "cosine", "warmup_steps": 2}),
    ]
    pairs, todo = [], []
    for stop, data, more in cases:
        whole, part = fresh_dir(), fresh_dir()
        train(make_task(data), whole, **base, **more)
        train(make_task(data), part, StopAt(stop), **base, **more)
        pairs.append((whole, part))
        todo.append((str(part), data, {**base, **more}))
    Path("todo.json").write_text(json.dumps(todo))
    code = CHILD.format(here=str(Path(__file__).parent))
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    for whole, part in pairs:
        assert events_of(part, "resume")
        assert_same_end(whole, part)


def test_stopped_run_is_told_apart_from_a_finished_one() -> None:
    folder, options = fresh_dir(), {"epochs": 2, "batch_size": 8}
    task = make_task()
    assert train(task, folder, StopAt(1), **options).stop_reason == "requested: enough"
    before = copied(task.model)
    assert train(task, folder, **options).stop_reason == "completed"
    with pytest.raises(AssertionError):
        assert_equal(before, copied(task.model))
