"""Figures of host and device; what a driver does not tell is left out."""

from __future__ import annotations

import types
from typing import Any

import psutil
import pytest
import torch

from nbutils.monitor import device_stats
from nbutils.monitor.device_stats import DeviceStats, HostStats
from nbutils.monitor.peaks import peak_flops_per_s

MIB = 2**20


def test_host_stats_are_those_of_psutil() -> None:
    values = HostStats().read()
    assert values["host/rss_bytes"] == pytest.approx(
        psutil.Process().memory_info().rss, abs=64 * MIB
    )
    assert 0 < values["host/available_bytes"] <= psutil.virtual_memory().total
    assert values.get("host/swap_bytes", 0) >= 0


def test_cpu_utilization_is_the_busy_share_of_the_time_since_the_last_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Times = Any

    def times(user: float, idle: float, iowait: float = 0.0) -> Times:
        class Counted(tuple):  # type: ignore[type-arg]
            __slots__ = ()

        found = Counted((user, 0.0, idle, iowait, 0.0))
        Counted.idle, Counted.iowait, Counted.guest = idle, iowait, 0.0  # type: ignore[attr-defined]
        return found

    told = iter([times(10, 10), times(10.01, 10.01), times(13, 10.5, 0.5)])
    monkeypatch.setattr(device_stats.psutil, "cpu_times", lambda: next(told))
    stats = HostStats()
    assert "host/cpu_utilization" not in stats.read()  # too short to be told
    assert stats.read()["host/cpu_utilization"] == pytest.approx(0.75)


def test_device_stats_of_a_cpu_are_none() -> None:
    assert DeviceStats(torch.device("cpu")).read() == {}


class NVMLError(Exception):
    pass


NVMLError.__module__ = "pynvml"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A CUDA card that tells what a test says, and counts who asks."""
    told: dict[str, Any] = {"utilization": 50, "temperature": 61, "power_draw": 250_000}
    asked: list[str] = []

    def sensor(name: str) -> Any:
        def ask(device: Any) -> Any:
            asked.append(name)
            if isinstance(told[name], Exception):
                raise told[name]
            return told[name]

        return ask

    for name in ("utilization", "temperature", "power_draw"):
        monkeypatch.setattr(torch.cuda, name, sensor(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 15 * MIB)
    return {"told": told, "asked": asked}


def test_device_stats_of_a_card_have_their_units(card: dict[str, Any]) -> None:
    assert DeviceStats(torch.device("cuda", 0)).read() == {
        "device/allocated_bytes": 10 * MIB,
        "device/reserved_bytes": 20 * MIB,
        "device/peak_bytes": 15 * MIB,
        "device/utilization": 0.5,
        "device/temperature_c": 61.0,
        "device/power_w": 250.0,
    }


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("nvidia-ml-py does not seem to be installed"),
        RuntimeError("cuda driver can't be loaded, is cuda enabled?"),
        NVMLError("Not Supported"),
    ],
)
def test_sensor_that_is_not_there_is_left_out_and_asked_once(
    card: dict[str, Any], error: Exception
) -> None:
    card["told"]["power_draw"] = error
    stats = DeviceStats(torch.device("cuda", 0))
    for _ in range(3):
        values = stats.read()
        assert "device/power_w" not in values
        assert values["device/temperature_c"] == 61
    assert card["asked"].count("power_draw") == 1
    assert card["asked"].count("temperature") == 3


def test_sensor_that_fails_otherwise_raises(card: dict[str, Any]) -> None:
    card["told"]["power_draw"] = ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        DeviceStats(torch.device("cuda", 0)).read()


def test_apple_card_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = types.SimpleNamespace(
        current_allocated_memory=lambda: 3, driver_allocated_memory=lambda: 5
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "mps", mps)
    assert DeviceStats(torch.device("mps")).read() == {
        "device/allocated_bytes": 3,
        "device/reserved_bytes": 5,
    }


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "fp16", 756.5),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA L40", "bf16", None),
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A100-SXM4-80GB", "fp32", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bf16", None),
        ("Radeon", "bf16", None),
    ],
)
def test_peak_is_that_of_the_very_card(
    name: str, precision: str, tflops: float | None
) -> None:
    expected = None if tflops is None else tflops * 1e12
    assert peak_flops_per_s(name, precision) == expected
