"""Memory of process and device."""

from __future__ import annotations

import torch

from nbutils.monitor.memory import (
    device_memory_bytes,
    host_rss_bytes,
    reset_peak_memory,
)

CPU = torch.device("cpu")


def test_memory_of_host_is_positive_and_of_cpu_is_empty() -> None:
    assert host_rss_bytes() > 1_000_000
    assert device_memory_bytes(CPU) == {}
    reset_peak_memory(CPU)
