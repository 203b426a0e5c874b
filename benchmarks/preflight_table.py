"""The table of what preflight said about the gallery, as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

__all__ = ["as_markdown"]


def as_markdown(rows: list[Any], depth: str, sizes: list[tuple[str, ...]]) -> str:
    """Rates first, then costs, then each fault and each alarm on a healthy program."""
    faults = [row for row in rows if row.group == "fault"]
    fine = [row for row in rows if row.group != "fault"]
    parts = [
        "# What preflight catches, and what it costs",
        "",
        f"Written by `python benchmarks/preflight.py --save` at depth `{depth}`.",
        "",
        *_rates(faults, fine),
        "",
        "## Seconds of each check (median, 95th percentile, longest)",
        "",
        *_table(["check", "median", "95 %", "longest"], _costs(rows)),
    ]
    if sizes:
        head = ["model", "parameters", "seconds", "checks that ran", "skipped"]
        parts += ["", "## Seconds by size of the model", "", *_table(head, sizes)]
    head = ["fault", "data", "recorded as", "what is wrong", "caught by"]
    parts += ["", "## Each fault", "", *_table(head, map(_fault_cells, faults))]
    said = [cells for row in fine for cells in _false_cells(row)]
    if said:
        head = ["program", "severity", "what was said"]
        parts += ["", "## Alarms on healthy programs", "", *_table(head, said)]
    return "\n".join(parts) + "\n"


def _rates(faults: list[Any], fine: list[Any]) -> Iterator[str]:
    before = [r for r in faults if r.right and not _is_late(r)]
    caught = [r for r in faults if r.right]
    silent = [r for r in faults if not r.alarms and not r.right]
    fails = [r for r in fine if any(a.severity == "fail" for a in r.alarms)]
    warns = [r for r in fine if any(a.severity == "warn" for a in r.alarms)]
    slowest = max((r.seconds for r in (*faults, *fine)), default=0.0)
    yield from _table(
        ["", "number", "share"],
        [
            ["faults named before training", *_share(before, faults)],
            ["faults named by the end of the first epoch", *_share(caught, faults)],
            ["faults without any alarm", *_share(silent, faults)],
            ["healthy programs with a false `fail`", *_share(fails, fine)],
            ["healthy programs with a false `warn`", *_share(warns, fine)],
        ],
    )
    yield ""
    typical = statistics.median([r.seconds for r in (*faults, *fine)] or [0.0])
    yield f"A program takes {typical:.1f} s (median), the slowest {slowest:.1f} s."


def _share(some: list[Any], of: list[Any]) -> list[str]:
    return [f"{len(some)} of {len(of)}", f"{len(some) / max(len(of), 1):.1%}"]


def _is_late(row: Any) -> bool:
    return all(source.startswith("in training") for source in row.right)


def _costs(rows: list[Any]) -> Iterator[list[str]]:
    costs: dict[str, list[float]] = {}
    for row in rows:
        for name, seconds in row.before.get("costs", {}).items():
            costs.setdefault(name, []).append(seconds)
    for name, values in sorted(costs.items(), key=lambda item: -sum(item[1])):
        values = sorted(values)
        high = values[int(0.95 * (len(values) - 1))]
        yield [
            name,
            *(f"{v:.2f}" for v in (statistics.median(values), high, values[-1])),
        ]


def _fault_cells(row: Any) -> list[str]:
    by = "; ".join(row.right)
    if not by:
        others = Counter(f"{a.source} {a.severity}" for a in row.alarms)
        by = "**missed**" + (f" (said: {', '.join(others)})" if others else "")
    return [row.name, row.kind, ", ".join(row.seeds), row.text, by]


def _false_cells(row: Any) -> Iterator[list[str]]:
    for alarm in row.alarms:
        title = f"{alarm.source}: {alarm.title}"
        yield [row.name, alarm.severity, title]
    if row.error:
        yield [row.name, "error", row.error]


def _table(head: list[str], rows: Any) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from map(_line, rows)


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(c).replace("|", "/") for c in cells) + " |"
