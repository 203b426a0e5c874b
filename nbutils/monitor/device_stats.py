"""What a device and its host say about themselves, under the names of the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from nbutils.environment.limits import available_memory_bytes
from nbutils.monitor.memory import host_rss_bytes, swapped_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceStats", "HostStats"]

STATUS = Path("/proc/self/status")
MIN_CPU_S = 0.2  # of all cores together: their clocks tick each hundredth
# Packages that torch asks about a card; their errors mean that it does not tell.
_DRIVERS = ("pynvml", "amdsmi")


class DeviceStats:
    """Memory, load, heat and power of an accelerator; of a CPU, nothing.

    What the driver does not tell, for lack of a package, of rights or of a sensor, is
    left out and not asked for again.

    Args:
        device: Which one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sensors: dict[str, tuple[Callable[[Any], float], float]] = {}
        if device.type == "cuda":
            import torch

            self._sensors = {
                "device/utilization": (torch.cuda.utilization, 0.01),
                "device/temperature_c": (torch.cuda.temperature, 1.0),
                "device/power_w": (torch.cuda.power_draw, 0.001),
            }

    def read(self) -> dict[str, float]:
        """Bytes, a share of 1, degrees Celsius, watts."""
        values = self._memory()
        for name, (sensor, unit) in list(self._sensors.items()):
            try:
                values[name] = float(sensor(self._device)) * unit
            except Exception as error:
                if not _is_absence(error):
                    raise
                del self._sensors[name]
        return values

    def _memory(self) -> dict[str, float]:
        import torch

        device = self._device
        if device.type == "cuda" and torch.cuda.is_available():
            return {
                "device/allocated_bytes": torch.cuda.memory_allocated(device),
                "device/reserved_bytes": torch.cuda.memory_reserved(device),
                "device/peak_bytes": torch.cuda.max_memory_allocated(device),
            }
        if device.type == "mps" and torch.backends.mps.is_available():
            return {
                "device/allocated_bytes": torch.mps.current_allocated_memory(),
                "device/reserved_bytes": torch.mps.driver_allocated_memory(),
            }
        return {}


class HostStats:
    """Memory of this process and of the machine, and the load of its processors.

    ``rss`` and ``swap`` are this process's; ``available`` is what the container or the
    machine can still give; ``cpu_utilization`` is the share of all the machine's cores
    that was busy since the last reading, by whomever, so the first one has none.
    """

    def __init__(self) -> None:
        self._times = _cpu_times()

    def read(self) -> dict[str, float]:
        """Bytes, and a share of 1."""
        values: dict[str, float] = {
            "host/rss_bytes": host_rss_bytes(),
            "host/available_bytes": available_memory_bytes(),
        }
        if STATUS.exists():
            values["host/swap_bytes"] = swapped_bytes()
        (busy, total), (busy_before, total_before) = _cpu_times(), self._times
        if total - total_before >= MIN_CPU_S:
            share = (busy - busy_before) / (total - total_before)
            values["host/cpu_utilization"] = min(max(share, 0.0), 1.0)
            self._times = busy, total
        return values


def _cpu_times() -> tuple[float, float]:
    """Seconds that all cores together were busy, and that have passed for them."""
    times = psutil.cpu_times()
    # Linux counts the time of guests as the user's too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - guests
    idle = times.idle + getattr(times, "iowait", 0.0)
    return total - idle, total


def _is_absence(error: Exception) -> bool:
    """Whether a sensor, its driver or its package is not there."""
    home = type(error).__module__.partition(".")[0]
    return home in _DRIVERS or isinstance(error, (ImportError, RuntimeError))
