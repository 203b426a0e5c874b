"""What a run took: time, energy where it was measured, money where it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbutils.environment.price import PRICE, price_of
from nbutils.monitor.events import Event
from nbutils.monitor.reporting.course import sittings
from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section, table
from nbutils.monitor.runview import format_duration, format_number

__all__ = ["cost_section", "energy_wh"]

_MAX_GAP_S = 300.0
"""Between two readings; a longer gap is a pause, over which nothing is known."""


def cost_section(ground: Ground) -> Section:
    """Duration, energy and money, each with how it is known."""
    events, view = ground.record.events, ground.record.view
    found = sittings(events)
    if not found:
        return Section("cost", "Cost", "", "a duration: no process left a start")
    active_s = sum(s.seconds for s in found if math.isfinite(s.seconds))
    rows: list[tuple[str, str, str]] = [
        ("time of all processes", format_duration(active_s), "first to last event"),
        ("from first start to end", format_duration(view.seconds), "with pauses"),
    ]
    if view.step and active_s > 0:
        pace = format_number(view.step / active_s)
        rows.append(("steps per second", pace, "start-up and validation included"))
    energy, covered_s = energy_wh(events)
    if energy is not None:
        share = min(covered_s / active_s, 1.0) if active_s > 0 else 0.0
        told = f"{energy:,.1f} Wh" if energy < 1000 else f"{energy / 1000:,.2f} kWh"
        how = f"power readings of the device over {share:.0%} of that time; the rest "
        rows.append(("energy of the device", told, how + "of the machine is not in it"))
    else:
        rows.append(("energy", "not measured", "the device gave no power readings"))
    if ground.price_per_hour is None:
        how = f"set {PRICE}, or nbutils report RUN_DIR --price 0.40"
        rows.append(("money", "not known", how))
    else:
        paid = price_of(active_s, ground.price_per_hour)
        how = f"at {ground.price_per_hour:g} an hour, pauses not counted"
        rows.append(("money", f"{paid:,.2f}", how))
    return Section(
        "cost", "Cost", table(("", "", "how it is known"), rows, numeric=(1,))
    )


def energy_wh(events: Sequence[Event]) -> tuple[float | None, float]:
    """Watt-hours of the device and the seconds they cover, by the trapezoid rule.

    Example:
        >>> readings = [
        ...     {"kind": "monitor", "time_s": t, "values": {"device/power_w": 360.0}}
        ...     for t in (0.0, 10.0)
        ... ]
        >>> energy_wh(readings)
        (1.0, 10.0)
    """
    total_j = covered_s = 0.0
    before: tuple[float, float] | None = None
    has_any = False
    for event in events:
        if event["kind"] in ("run_start", "resume", "run_end"):
            before = None
        values = event.get("values") if event["kind"] == "monitor" else None
        power = values.get("device/power_w") if isinstance(values, dict) else None
        time_s = event.get("time_s")
        if not isinstance(power, (int, float)) or not isinstance(time_s, (int, float)):
            continue
        if not math.isfinite(power):
            continue
        if before is not None and 0 < time_s - before[0] <= _MAX_GAP_S:
            total_j += (time_s - before[0]) * (power + before[1]) / 2
            covered_s += time_s - before[0]
            has_any = True
        before = (time_s, float(power))
    return (total_j / 3600, covered_s) if has_any else (None, 0.0)
