"""A run as a screen of text: a bar, sparklines, the last epochs, what happened."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from nbutils.monitor.about import About
from nbutils.monitor.charts import smoothed
from nbutils.monitor.display import TextPanel
from nbutils.monitor.events import Event
from nbutils.monitor.facts import (
    best_of,
    headline,
    machine_facts,
    progress_facts,
    progress_fraction,
    status_of,
)
from nbutils.monitor.runview import RunView, columns, format_duration, format_number
from nbutils.monitor.sentences import mark, sentence

__all__ = ["ScreenThenLines", "epoch_table", "screen", "shows_blocks", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"
_EVENTS = 5
_NO_COLUMN = ("step", "lr")
_PLAIN = str.maketrans({"✓": "+", "•": "*", "·": "-", "…": "~", "°": "", "×": "x"})


class ScreenThenLines(TextPanel):
    """The run so far as one screen of text, then a line for what happens.

    Args:
        path: The run directory.
        num_epochs: Rows of the table.
        stream: Where to write; the standard output as it is at each line.
    """

    def __init__(
        self, path: Path, num_epochs: int = 8, stream: TextIO | None = None
    ) -> None:
        super().__init__(stream)
        self._path = path
        self._num_epochs = num_epochs
        self._is_shown = False

    def take(self, events: Iterable[Event]) -> None:
        """Take in the past for the screen, and what is new as lines."""
        for event in events:
            if self._is_shown:
                self.update(event)
            else:
                self.view.apply(event)

    def refresh(self, life: str = "") -> None:
        """Show the screen at the first look."""
        if self._is_shown:
            super().refresh(life)
            return
        self._is_shown = True
        out = self._stream or sys.stdout
        about, is_ascii = About.read(self._path), not shows_blocks(out)
        text = screen(
            self.view, about, life, num_epochs=self._num_epochs, is_ascii=is_ascii
        )
        out.write(text + "\n")
        out.flush()


def shows_blocks(stream: TextIO) -> bool:
    """Whether the signs of a sparkline can be written there."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        _BLOCKS.encode(encoding)
    except UnicodeError:
        return False
    return True


def screen(
    view: RunView,
    about: About,
    life: str = "",
    *,
    width: int = 100,
    num_epochs: int = 8,
    is_ascii: bool = False,
) -> str:
    """The run as it stands, no line wider than ``width`` characters.

    Args:
        view: The run so far.
        about: What stands beside its events.
        life: What :func:`life_of` says.
        width: Columns of the terminal.
        num_epochs: Rows of the table.
        is_ascii: Leave out what a plain terminal cannot show.
    """
    state, reason = status_of(view, life)
    start = view.start
    facts = [about.recipe or about.task, start.get("device"), start.get("precision")]
    facts.append(about.verdict)
    why = f": {reason}" if reason and not view.end else ""
    lines = [
        f"Run {about.name}  {state}{why}",
        " · ".join(str(fact) for fact in facts if fact),
        *([f"W&B {about.url}"] if about.url else []),
        _bar(view, width, is_ascii),
        "  ".join(progress_facts(view, life)),
    ]
    if view.last_step:
        lines += ["", *_wrapped(headline(view, about), width)]
        lines += _wrapped(machine_facts(view), width)
    lines += ["", *_curves(view, width, is_ascii)]
    if rows := view.rows[-num_epochs:]:
        dropped = len(view.rows_by_epoch) - len(rows)
        told = f"(the last {len(rows)} of {dropped + len(rows)} epochs)"
        lines += ["", *([told] if dropped else []), *epoch_table(rows).splitlines()]
    lines += ["", *_events(view)]
    if view.end:
        found = best_of(view, about)
        best = f", best {format_number(found['value'])}" if found else ""
        took = format_duration(view.end.get("seconds") or math.nan)
        lines.append(f"Ended after {took}: {view.end.get('reason')}{best}")
    text = "\n".join(_fitted(line, width) for line in _without_doubled_gaps(lines))
    return text.translate(_PLAIN) if is_ascii else text


def epoch_table(rows: Sequence[dict[str, object]]) -> str:
    """Rows as aligned text, one column for each number that any row has.

    Example:
        >>> print(epoch_table([{"epoch": 1, "train_loss": 0.5}]))
        epoch  train_loss
            1         0.5
    """
    names = list(dict.fromkeys(["epoch", *columns(rows)]))
    names = [name for name in names if name not in _NO_COLUMN]
    cells = [names] + [[format_number(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def sparkline(values: Sequence[float], width: int = 40, is_ascii: bool = False) -> str:
    """A curve as one line of characters, from its lowest to its highest value.

    Example:
        >>> sparkline([1, 2, 3, 4], width=4)
        '▁▃▆█'
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    num = min(width, len(finite))
    edges = [round(i * len(finite) / num) for i in range(num + 1)]
    means = [sum(finite[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, high = min(means), max(means)
    signs = _ASCII if is_ascii else _BLOCKS
    span = (high - low) or 1.0
    return "".join(signs[round((mean - low) / span * 7)] for mean in means)


def _curves(view: RunView, width: int, is_ascii: bool) -> list[str]:
    series = {"loss": smoothed(view.loss.points)}
    series |= {name: kept.points for name, kept in list(view.checked.items())[:4]}
    series["learning rate"] = view.lr.points
    if "amp/loss_scale" in view.monitored:
        series["loss scale"] = view.monitored["amp/loss_scale"].points
    shown = {name: points for name, points in series.items() if len(points) > 1}
    label = max((len(name) for name in shown), default=0)
    room = max(10, min(60, width - label - 28))
    return [
        f"{name.ljust(label)}  "
        f"{sparkline([y for _, y in points], room, is_ascii).ljust(room)}  "
        f"{format_number(points[0][1])} to {format_number(points[-1][1])}"
        for name, points in shown.items()
    ]


def _events(view: RunView) -> list[str]:
    kept = [e for e in view.notable[-50:] if e["kind"] not in ("checkpoint", "run_end")]
    kept = kept[-_EVENTS:]
    if view.last_checkpoint:
        kept.append({**view.last_checkpoint})
    lines = []
    for event in kept:
        at = time.strftime("%H:%M:%S", time.localtime(event.get("time_s", 0)))
        step = format_number(event.get("step"))
        text = sentence(event) or f"saved at step {step}"
        lines.append(f"{at} {mark(event)} {text}")
    return lines


def _bar(view: RunView, width: int, is_ascii: bool) -> str:
    fraction = progress_fraction(view)
    if math.isnan(fraction):
        return ""
    room = max(10, min(60, width - 2))
    done = round(fraction * room)
    full, empty = ("#", "-") if is_ascii else ("█", "░")
    return full * done + empty * (room - done)


def _wrapped(facts: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Facts in as few lines as they take."""
    lines = [""]
    for label, text in facts:
        word = f"{label} {text}"
        if lines[-1] and len(lines[-1]) + 3 + len(word) > width:
            lines.append("")
        lines[-1] += f"{'   ' if lines[-1] else ''}{word}"
    return [line for line in lines if line]


def _without_doubled_gaps(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _fitted(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
