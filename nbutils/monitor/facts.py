"""The numbers of a run that are worth a look, named and formatted for any view."""

from __future__ import annotations

import math
import time
from typing import Any

from nbutils.monitor.about import About
from nbutils.monitor.record import best_row
from nbutils.monitor.runview import NO_METRIC, RunView, format_duration, format_number

__all__ = [
    "best_of",
    "format_bytes",
    "headline",
    "machine_facts",
    "progress_facts",
    "progress_fraction",
    "status_of",
]

Fact = tuple[str, str]

_LIVES = {"starting": "• starting", "killed": "! killed"}
_ENDS = {"finished": "✓ finished", "failed": "! failed"}
_WAITS_MUCH = 0.3
"""Share of the time spent waiting for data from which it is worth a sign."""


def status_of(view: RunView, life: str = "") -> tuple[str, str]:
    """How the run stands: a sign and a word, and the reason where there is one.

    Args:
        view: The run so far.
        life: ``"killed"``: no end is recorded and no process holds the run.
    """
    if view.end:
        status = str(view.end.get("status"))
        reason = str(view.end.get("reason") or "")
        return _ENDS.get(status, f"• {status}"), reason
    if life == "killed":
        return _LIVES["killed"], "its process ended without a word; train() resumes it"
    if not view.start and not view.num_resumes:
        return _LIVES["starting"], ""
    if view.stop:
        return "• stopping", str(view.stop.get("reason") or "")
    return "• training", ""


def progress_fraction(view: RunView) -> float:
    """Share of the planned steps that is done, 0 to 1; NaN without a plan."""
    planned = view.start.get("planned_steps") or 0
    return min(view.step / planned, 1.0) if planned else math.nan


def progress_facts(view: RunView, life: str = "") -> list[str]:
    """Percent, step, epoch and time, each as a few words."""
    start, fraction = view.start, progress_fraction(view)
    planned, epochs = start.get("planned_steps"), start.get("epochs")
    of = f" of {planned:,}" if planned else ""
    parts = [] if math.isnan(fraction) else [f"{100 * fraction:.0f} %"]
    parts.append(f"step {view.step:,}{of}")
    if epochs:
        epoch = min(int(view.last_step.get("epoch", 0)) + 1, int(epochs))
        parts.append(f"epoch {epoch} of {epochs}")
    if view.end:
        parts.append(f"took {format_duration(view.end.get('seconds') or math.nan)}")
        return parts
    elapsed_s, eta_s = view.last_time_s - view.base[1], view.eta_s()
    if math.isfinite(elapsed_s):
        parts.append(f"{format_duration(elapsed_s)} so far")
    if math.isfinite(eta_s) and life != "killed":
        ends = time.localtime(view.last_time_s + eta_s)
        shape = "%H:%M" if eta_s < 72_000 else "%a %H:%M"
        parts.append(f"{format_duration(eta_s)} left")
        parts.append(f"ends about {time.strftime(shape, ends)}")
    return parts


def headline(view: RunView, about: About) -> list[Fact]:
    """Loss, metrics, the best, learning rate, pace, refusals and loss scale."""
    last, monitor = view.last_step, view.monitor
    facts = [("loss", format_number(last.get("loss")))]
    names = [name for name in view.metrics if name not in NO_METRIC]
    names.sort(key=lambda name: name != about.monitor)  # the monitored one first
    facts += [(name, format_number(view.metrics[name])) for name in names[:3]]
    if found := best_of(view, about):
        facts.append((f"best, step {found['step']:,}", format_number(found["value"])))
    if view.num_refused:
        facts.append(("! refused", str(view.num_refused)))
    if last.get("lr") is not None:
        facts.append(("learning rate", f"{last['lr']:.2g}"))
    rate = monitor.get("throughput/samples_per_s") or last.get("samples_per_s")
    if rate:
        facts.append(("samples/s", format_number(_rounded(rate))))
    if tokens := monitor.get("throughput/tokens_per_s"):
        facts.append(("tokens/s", format_number(_rounded(tokens))))
    if mfu := monitor.get("throughput/mfu"):
        facts.append(("of peak FLOP/s", f"{100 * mfu:.0f} %"))
    if "amp/loss_scale" in monitor:
        facts.append(("loss scale", format_number(_rounded(monitor["amp/loss_scale"]))))
    return facts


def best_of(view: RunView, about: About) -> dict[str, Any]:
    """Metric, value and step of the best row so far; may be empty."""
    name = about.monitor
    if not any(name in row for row in view.rows):
        name = f"val_{name}"
    found = best_row(view.rows, name, about.mode)
    return found if found.get("step") is not None else {}


def machine_facts(view: RunView) -> list[Fact]:
    """Memory of device and host, load, temperature; empty where nothing is told."""
    values, facts = view.monitor, list[Fact]()
    if "device/allocated_bytes" in values:
        text = format_bytes(values["device/allocated_bytes"])
        peak = values.get("device/peak_bytes")
        more = f", peak {format_bytes(peak)}" if peak else ""
        facts.append(("device memory", text + more))
    for name, label, shape in (
        ("device/utilization", "device busy", "percent"),
        ("device/temperature_c", "temperature", " °C"),
        ("device/power_w", "power", " W"),
    ):
        if name in values:
            number = values[name]
            text = f"{100 * number:.0f} %" if shape == "percent" else f"{number:.0f}"
            facts.append((label, text + ("" if shape == "percent" else shape)))
    if "host/rss_bytes" in values:
        text = format_bytes(values["host/rss_bytes"])
        free = values.get("host/available_bytes")
        more = f", {format_bytes(free)} free" if free is not None else ""
        facts.append(("host memory", text + more))
    if values.get("host/swap_bytes"):
        facts.append(("! swapped out", format_bytes(values["host/swap_bytes"])))
    if (waits := values.get("loader/wait_fraction")) is not None:
        sign = "! " if waits >= _WAITS_MUCH else ""
        facts.append((f"{sign}waits for data", f"{100 * waits:.0f} %"))
    if skipped := values.get("amp/skipped_steps"):
        facts.append(("skipped by the loss scale", format_number(_rounded(skipped))))
    return facts


def format_bytes(number: float) -> str:
    """Bytes in the unit that leaves three digits at most.

    Example:
        >>> format_bytes(512), format_bytes(3.2e9), format_bytes(16e9)
        ('512 B', '3.2 GB', '16 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        del units[0]
    unit = units[0]
    digits = 0 if unit == "B" or number >= 10 else 1
    return f"{number:.{digits}f} {unit}"


def _rounded(value: float) -> float | int:
    """Whole numbers from ten on: decimals of a pace tell nothing."""
    return round(value) if abs(value) >= 10 else value
