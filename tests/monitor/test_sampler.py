"""The thread that reads figures: it begins, ends and fails without the main one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from nbutils.errors import ConfigError
from nbutils.monitor.sampler import Sampler


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_sampler_reads_at_once_at_an_interval_and_at_the_end() -> None:
    step = 0
    sampler = Sampler(lambda: {"a": 1.0}, lambda: step, every_s=0.01)
    sampler.start()
    sampler.start()  # a second one would be a leak
    assert names().count("nbutils sampler") == 1
    wait_until(lambda: len(sampler.samples) >= 3)
    step = 7
    sampler.stop()
    assert not sampler.is_running
    assert "nbutils sampler" not in names()
    last = sampler.samples[-1]
    assert (last.step, last.values) == (7, {"a": 1.0})
    times = [sample.time_s for sample in sampler.samples]
    assert times == sorted(times)
    count = len(times)
    sampler.stop()
    assert len(sampler.samples) == count


def test_sampler_that_stops_at_once_has_a_first_and_a_last_sample() -> None:
    sampler = Sampler(lambda: {"a": 1.0}, lambda: 0, every_s=3600)
    sampler.start()
    begun = time.monotonic()
    sampler.stop()
    assert time.monotonic() - begun < 2  # it does not sleep its interval out
    assert len(sampler.samples) == 2


def test_sampler_can_be_started_again() -> None:
    sampler = Sampler(lambda: {"a": 1.0}, lambda: 0, every_s=3600)
    for _ in range(2):
        sampler.start()
        sampler.stop()
    assert len(sampler.samples) == 4


def test_sampler_whose_reading_raises_ends_and_keeps_the_error() -> None:
    calls = []

    def read() -> dict[str, float]:
        calls.append(1)
        raise ValueError("no such sensor")

    sampler = Sampler(read, lambda: 0, every_s=0.001)
    sampler.start()
    wait_until(lambda: not sampler.is_running)
    sampler.stop()
    assert str(sampler.error) == "no such sensor"
    assert len(calls) == 1
    assert not sampler.samples


@pytest.mark.parametrize("every_s", [0, -1.0, float("nan")])
def test_sampler_refuses_an_interval_that_is_none(every_s: float) -> None:
    with pytest.raises(ConfigError, match="seconds above 0 are expected"):
        Sampler(dict, lambda: 0, every_s)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_has_no_sampler_and_ends() -> None:
    sampler = Sampler(lambda: {"a": 1.0}, lambda: 0, every_s=0.001)
    sampler.start()
    wait_until(lambda: sampler.samples)
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        os._exit(3 if sampler.is_running or "nbutils sampler" in names() else 0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert sampler.is_running
    sampler.stop()
