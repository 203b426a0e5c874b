"""Means are weighted by counts; rates leave pauses out."""

from __future__ import annotations

import math

import pytest
import torch

from nbutils.monitor.memory import (
    device_memory_bytes,
    host_rss_bytes,
    reset_peak_memory,
)
from nbutils.monitor.meters import MeanMeter, Throughput

CPU = torch.device("cpu")


def test_mean_meter_of_ragged_batches_equals_the_mean_over_samples() -> None:
    values = torch.arange(10.0)
    meter = MeanMeter(CPU)
    for part in values.split(4):
        meter.update(part.mean(), len(part))
    assert meter.read() == pytest.approx(values.mean().item())
    assert meter.weight == 10


def test_mean_meter_without_values_is_nan_and_reset_starts_anew() -> None:
    meter = MeanMeter(CPU)
    meter.update(torch.tensor(3.0, requires_grad=True), 2)
    meter.reset()
    assert math.isnan(meter.read())


def test_mean_meter_over_many_batches_keeps_its_precision() -> None:
    meter = MeanMeter(CPU)
    for _ in range(20_000):
        meter.update(torch.tensor(0.1), 4096)
    assert meter.read() == pytest.approx(0.1, rel=1e-6)


class Clock:
    """Time that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_throughput_at_a_steady_rate_is_that_rate() -> None:
    clock = Clock()
    meter = Throughput(clock=clock)
    meter.start()
    for _ in range(20):
        clock.now_s += 0.5
        meter.tick(16)
    assert meter.samples_per_s == pytest.approx(32)
    assert meter.eta_s(10) == pytest.approx(5)
    assert meter.eta_s(-1) == 0


def test_throughput_leaves_a_pause_out() -> None:
    clock = Clock()
    meter = Throughput(clock=clock)
    for _ in range(10):
        meter.start()
        clock.now_s += 1
        meter.tick(8)
        meter.pause()
        clock.now_s += 100
    assert meter.samples_per_s == pytest.approx(8)


def test_throughput_follows_a_new_rate() -> None:
    clock = Clock()
    meter = Throughput(window_s=10, clock=clock)
    meter.start()
    for seconds in [1.0] * 100 + [0.1] * 1000:
        clock.now_s += seconds
        meter.tick(1)
    assert meter.samples_per_s == pytest.approx(10, rel=0.01)


def test_throughput_before_the_first_step_knows_nothing() -> None:
    meter = Throughput()
    assert meter.samples_per_s == 0
    assert math.isnan(meter.eta_s(3))


def test_memory_of_host_is_positive_and_of_cpu_is_empty() -> None:
    assert host_rss_bytes() > 1_000_000
    assert device_memory_bytes(CPU) == {}
    reset_peak_memory(CPU)
