"""Law 5: one Stop; every way out fires ``on_fit_end`` once and tidies up."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_laws import (
    StopAt,
    Watch,
    assert_equal,
    events_of,
    fresh_dir,
    law,
    net,
    read_newest,
    train,
    without_times,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import nbutils as nb

OPTIONS: dict[str, Any] = {"epochs": 4, "batch_size": 5, "lr": 0.05}
HOOKS = [
    "on_fit_start",
    "on_epoch_start",
    "on_step_end",
    "on_evaluate_end",
    "on_checkpoint",
    "on_epoch_end",
    "on_stop",
    "on_fit_end",
]


def make_task(loss: Any = None) -> nb.Task:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    return nb.Task(net(), loss or nn.CrossEntropyLoss(), (x, y), (x[:8], y[:8]))


class Act(nb.Callback):
    """Does something when a hook fires for the ``count``-th time."""

    def __init__(
        self, action: Callable[[Any], None], count: int = 1, hook: str = "on_step_end"
    ) -> None:
        self.action, self._left = action, count
        setattr(self, hook, self._tick)

    def _tick(self, state: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self.action(state)


def kick(number: int) -> Callable[[Any], None]:
    return lambda _state: os.kill(os.getpid(), number)


def touch(state: Any) -> None:
    (state.run_dir / "STOP").touch()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Fails if the block leaves another handler for a signal than it found."""

    def mine(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, mine) for number in numbers]
    try:
        yield
        assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# Way -> reason, what happens at the third step, settings.
WAYS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "interrupt": ("interrupt", [Act(kick(signal.SIGINT), 3)], {}),
    "terminated": ("terminated", [Act(kick(signal.SIGTERM), 3)], {}),
    "stop file": ("stop file", [Act(touch, 3)], {}),
    "time": ("time", [Act(lambda _: time.sleep(0.5), 3)], {"max_hours": 0.5 / 3600}),
    "target": ("target", [], {"target": 100.0}),
    "patience": ("patience", [], {"patience": 1, "lr": 3.0, "epochs": 40}),
    "requested": ("requested: enough", [StopAt(3)], {}),
    "completed": ("completed", [], {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_end_says_why_saves_and_tidies_up(way: str) -> None:
    reason, callbacks, more = WAYS[way]
    folder, watch = fresh_dir(), Watch()
    with handlers_kept():
        result = train(make_task(), folder, watch, *callbacks, **{**OPTIONS, **more})
    assert result.stop_reason == reason
    assert watch.ends == 1
    assert read_newest(folder)["parts"]["state"]["step"] == result.steps
    record = json.loads((folder / "run.json").read_text())
    is_finished = way in ("completed", "target", "patience")
    assert record["status"] == ("finished" if is_finished else "stopped")
    assert record["stop_reason"] == reason
    (end,) = events_of(folder, "run_end")
    assert end["reason"] == reason
    assert not (folder / "STOP").exists()
    if way in ("interrupt", "terminated", "stop file", "requested"):
        assert result.steps == 3  # the window was finished, and no other begun


@pytest.mark.parametrize("way", ["interrupt", "terminated", "stop file", "time"])
def test_stopped_run_continues_to_the_same_end(way: str) -> None:
    _reason, callbacks, more = WAYS[way]
    whole_dir, folder = fresh_dir(), fresh_dir()
    train(make_task(), whole_dir, **OPTIONS)
    kicks = [Act(callback.action, 2) for callback in callbacks]
    train(make_task(), folder, *kicks, **{**OPTIONS, **more})
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"
    assert_equal(
        without_times(read_newest(whole_dir)), without_times(read_newest(folder))
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_interrupt_in_any_hook_ends_well_and_continues(hook: str) -> None:
    whole_dir, folder, watch = fresh_dir(), fresh_dir(), Watch()
    train(make_task(), whole_dir, **OPTIONS)
    with handlers_kept():
        result = train(
            make_task(), folder, Act(kick(signal.SIGINT), 1, hook), watch, **OPTIONS
        )
    late = hook in ("on_stop", "on_fit_end")
    assert result.stop_reason == ("completed" if late else "interrupt")
    assert watch.ends == 1
    train(make_task(), folder, **OPTIONS)
    assert_equal(
        without_times(read_newest(whole_dir)), without_times(read_newest(folder))
    )


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("is_first", [True, False])
def test_callback_that_raises_ends_the_run_once(hook: str, is_first: bool) -> None:
    def fail(_state: Any) -> None:
        raise ZeroDivisionError("mine")

    folder, watch = fresh_dir(), Watch()
    broken = Act(fail, 1, hook)
    callbacks = [broken, watch] if is_first else [watch, broken]
    threads = threading.active_count()
    with handlers_kept(), pytest.raises(ZeroDivisionError, match="mine") as caught:
        train(make_task(), folder, *callbacks, **OPTIONS)
    assert watch.ends == 1
    assert f"in Act.{hook} at step" in str(getattr(caught.value, "__notes__", ""))
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert threading.active_count() == threads
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"


def test_callbacks_that_raise_at_the_end_do_not_hide_each_other() -> None:
    def fail(_state: Any) -> None:
        raise ZeroDivisionError("mine")

    watch = Watch()
    broken = [Act(fail, 1, "on_fit_end") for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        train(make_task(), None, broken[0], watch, broken[1], **OPTIONS)
    assert watch.ends == 1


@pytest.mark.parametrize("gap", ["same window", "later hook"])
def test_second_interrupt_raises_now_and_the_run_can_continue(gap: str) -> None:
    whole_dir, folder, watch = fresh_dir(), fresh_dir(), Watch()
    train(make_task(), whole_dir, **OPTIONS)
    second = Act(
        kick(signal.SIGINT), *((6,) if gap == "same window" else (1, "on_stop"))
    )
    first = Act(kick(signal.SIGINT), 6)
    with handlers_kept(), pytest.raises(KeyboardInterrupt):
        train(make_task(), folder, watch, first, second, **OPTIONS)
    assert watch.ends == 1
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"
    assert_equal(
        without_times(read_newest(whole_dir)), without_times(read_newest(folder))
    )


def test_interrupt_inside_a_forward_pass_finishes_the_window() -> None:
    calls = iter(range(10**6))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(outputs, batch[1])

    result = train(make_task(loss), None, **OPTIONS)
    assert (result.stop_reason, result.steps) == ("interrupt", 3)


class Kicker(nb.Callback):
    """Interrupts this process once, a time after the run began to listen."""

    def __init__(self, delay_s: float) -> None:
        self._is_off = threading.Event()
        self._thread = threading.Thread(target=self._wait, args=(delay_s,))

    def on_fit_start(self, state: Any) -> None:
        self._thread.start()

    def on_fit_end(self, state: Any) -> None:
        self._is_off.set()
        self._thread.join()

    def _wait(self, delay_s: float) -> None:
        if not self._is_off.wait(delay_s):
            os.kill(os.getpid(), signal.SIGINT)


@law(15)
@given(moment=st.floats(0, 1), workers=st.sampled_from([0, 0, 0, 0, 2]))
def test_interrupt_at_any_moment_leaves_a_run_that_continues(
    moment: float, workers: int
) -> None:
    options = {**OPTIONS, "num_workers": workers, "save_every_steps": 3}
    whole_dir, folder, watch = fresh_dir(), fresh_dir(), Watch()
    whole = train(make_task(), whole_dir, **options)
    with handlers_kept():
        kicker = Kicker(moment * whole.seconds)
        result = train(make_task(), folder, kicker, watch, **options)
    assert result.stop_reason in ("interrupt", "completed")
    assert watch.ends == 1
    train(make_task(), folder, **options)
    assert_equal(
        without_times(read_newest(whole_dir)), without_times(read_newest(folder))
    )


def test_stop_file_of_an_earlier_session_stops_the_next_at_once() -> None:
    folder = fresh_dir()
    train(make_task(), folder, StopAt(2), **OPTIONS)
    (folder / "STOP").touch()
    result = train(make_task(), folder, **OPTIONS)
    assert (result.stop_reason, result.steps) == ("stop file", 2)
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"


def test_first_reason_wins() -> None:
    watch = Watch()
    callbacks = [StopAt(3), Act(kick(signal.SIGINT), 3), Act(touch, 3)]
    assert train(make_task(), None, watch, *callbacks, **OPTIONS).stop_reason == (
        "requested: enough"
    )
    assert watch.ends == 1


def test_time_limit_counts_all_sessions_of_a_run() -> None:
    class Nap(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            time.sleep(0.03)

    folder, total = fresh_dir(), 0
    hours = 0.25 / 3600
    for _ in range(12):
        result = train(
            make_task(),
            folder,
            Nap(),
            StopAt(2),
            **{**OPTIONS, "epochs": 50},
            max_hours=hours,
        )
        total += 1
        if result.stop_reason == "time":
            break
    assert result.stop_reason == "time"
    assert 1 < total < 12
    assert result.seconds < 0.6


def test_finished_run_stays_finished_and_loses_no_hook() -> None:
    folder = fresh_dir()
    first = train(make_task(), folder, **OPTIONS, target=100.0)
    watch = Watch()
    again = train(make_task(), folder, watch, **OPTIONS, target=100.0)
    assert (again.stop_reason, again.steps) == (first.stop_reason, first.steps)
    assert (watch.ends, watch.losses) == (1, [])
    assert Path(folder / "report.html").exists()
