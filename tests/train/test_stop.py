"""The watch over signals, the STOP file and the clock, apart from any run."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nbutils.train.state import RunState
from nbutils.train.stop import StopWatch


def kick(number: int) -> None:
    os.kill(os.getpid(), number)


def mine(_number: int, _frame: Any) -> None:
    raise RuntimeError("the handler from before")


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "terminated")]
)
def test_watch_first_signal_is_a_reason_and_the_second_raises(
    number: int, reason: str
) -> None:
    state, watch = RunState(), StopWatch(None, None)

    def hear_twice() -> None:
        with watch.listening(state):
            watch.poll(state)
            assert state.stop_reason is None
            kick(number)
            assert state.stop_reason is None  # the window is finished first
            watch.poll(state)
            assert state.stop_reason == reason
            kick(number)

    with pytest.raises(KeyboardInterrupt):
        hear_twice()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_watch_second_signal_of_another_kind_raises_too(first: int) -> None:
    second = ({signal.SIGINT, signal.SIGTERM} - {first}).pop()
    heard = []

    def hear_both() -> None:
        with StopWatch(None, None).listening(RunState()):
            kick(first)
            heard.append(first)
            kick(second)

    with pytest.raises(KeyboardInterrupt):
        hear_both()
    assert heard == [first]


def test_watch_leaves_a_handler_alone_that_it_could_not_give_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = signal.getsignal(signal.SIGTERM)
    known = {signal.SIGTERM: None}  # set by compiled code: Python cannot set it again
    monkeypatch.setattr(signal, "getsignal", lambda n: known.get(n, usual))
    set_for: list[int] = []
    install = signal.signal
    monkeypatch.setattr(
        signal, "signal", lambda n, h: (set_for.append(n), install(n, h))[1]
    )
    with StopWatch(None, None).listening(RunState()):
        assert set_for == [signal.SIGINT]
    assert set_for == [signal.SIGINT, signal.SIGINT]


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_watch_gives_back_whatever_handlers_there_were(error: Any) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    kinds: list[Any] = [mine, signal.SIG_IGN]
    before = [signal.signal(n, kind) for n, kind in zip(numbers, kinds, strict=True)]
    try:
        try:
            with StopWatch(None, None).listening(RunState()):
                assert signal.getsignal(signal.SIGINT) is not mine
                if error is not None:
                    raise error
        except (ZeroDivisionError, KeyboardInterrupt):
            pass
        assert [signal.getsignal(number) for number in numbers] == kinds
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_watch_outside_the_main_thread_leaves_signals_alone(tmp_path: Path) -> None:
    stop, found = tmp_path / "STOP", []
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        state, watch = RunState(), StopWatch(stop, None)
        with watch.listening(state):
            found.append(signal.getsignal(signal.SIGINT))
            stop.touch()
            watch.poll(state)
            found.append(state.stop_reason)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before, "stop file"]


def test_watch_stop_file_is_taken_away_and_its_absence_is_no_stop(
    tmp_path: Path,
) -> None:
    state, watch = RunState(), StopWatch(tmp_path / "STOP", None)
    with watch.listening(state):
        watch.poll(state)
        assert state.stop_reason is None
        (tmp_path / "STOP").touch()
        watch.poll(state)
    assert state.stop_reason == "stop file"
    assert not (tmp_path / "STOP").exists()


def test_watch_clock_counts_earlier_sessions() -> None:
    state = RunState(seconds=59.0)
    watch = StopWatch(None, 60.05 / 3600)
    with watch.listening(state):
        watch.poll(state)
        assert state.stop_reason is None
        assert 59.0 <= state.seconds < 60.0
        time.sleep(1.1)
        watch.poll(state)
    assert state.stop_reason == "time"
    assert state.seconds > 60.05


def test_watch_signal_goes_before_file_and_file_before_clock(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    state, watch = RunState(), StopWatch(tmp_path / "STOP", 1e-9)
    with watch.listening(state):
        kick(signal.SIGTERM)
        watch.poll(state)
    assert state.stop_reason == "terminated"
    later, again = RunState(), StopWatch(tmp_path / "STOP", 1e-9)
    with again.listening(later):
        again.poll(later)
    assert later.stop_reason == "stop file"


def test_watch_forked_child_does_not_act_for_its_parent() -> None:
    state, watch = RunState(), StopWatch(None, None)
    with watch.listening(state):
        pid = os.fork()
        if pid == 0:  # a loader worker that gets the interrupt of its group
            try:
                kick(signal.SIGINT)
                kick(signal.SIGINT)
                watch.poll(state)
                os._exit(0 if state.stop_reason is None else 3)
            except BaseException:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        watch.poll(state)
    assert state.stop_reason is None


def test_watch_looks_seldom_where_a_look_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = [0.0], []

    def look(path: str, mode: int) -> bool:
        looks.append(clock[0])
        clock[0] += 0.001  # as on a mounted drive
        return is_there(path, mode)

    is_there = os.access
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "access", look)
    state, watch = RunState(), StopWatch(tmp_path / "STOP", None)
    with watch.listening(state):
        while clock[0] < 1:
            clock[0] += 0.0002  # a short window
            watch.poll(state)
        assert 45 <= len(looks) <= 65  # each 20 ms, after the first eight
        (tmp_path / "STOP").touch()
        touched = clock[0]
        while state.stop_reason is None:
            clock[0] += 0.0002
            watch.poll(state)
    assert state.stop_reason == "stop file"
    assert clock[0] - touched < 0.025
