"""Test numbers: a plain dict to read, with intervals and baselines behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from nbutils.monitor.intervals import Interval
from nbutils.monitor.runview import format_number

__all__ = ["Baseline", "Difference", "Measured"]

_CELL = "padding:2px 10px;text-align:left"
_HEAD = ("", "this run", "95 % interval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """This run minus a baseline, on the same samples.

    Attributes:
        value: The difference itself.
        interval: Of it, paired by sample; or a sentence that says why there is none.
        p_value: McNemar's exact test, where both answers are right or wrong.
        verdict: ``"better"``, ``"worse"``, ``"different"``, ``"not told apart"`` or
            ``"unknown"``.
    """

    value: float
    interval: Interval | str
    p_value: float | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a trivial predictor reaches on the same test data.

    Attributes:
        name: Short.
        how: What it does, in a sentence.
        metrics: Its numbers.
        differences: This run minus it, by metric.
    """

    name: str
    how: str
    metrics: Mapping[str, float]
    differences: Mapping[str, Difference]


class Measured(dict[str, Any]):
    """Metrics of a test set: metric -> number, as of a plain dict.

    Attributes:
        intervals: Metric -> :class:`Interval`, or a sentence that says why not.
        baselines: Trivial predictors on the same data.
        notes: What a reader must know of these numbers.
        num_samples: Samples that were evaluated.
        answers: Outputs and targets, for figures; None where they were not kept.
        extras: The task's facts, for figures.

    Example:
        >>> found = Measured({"accuracy": 0.9})
        >>> found["accuracy"], found
        (0.9, {'accuracy': 0.9})
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        super().__init__(metrics)
        self.intervals: dict[str, Interval | str] = {}
        self.baselines: Sequence[Baseline] = ()
        self.notes: list[str] = []
        self.num_samples: int | None = None
        self.answers: Any = None
        self.extras: Mapping[str, Any] = {}

    def to_record(self) -> dict[str, Any]:
        """Everything but the answers, as plain values for ``run.json``."""
        return {
            "metrics": dict(self),
            "num_samples": self.num_samples,
            "intervals": {n: _plain(found) for n, found in self.intervals.items()},
            "baselines": [_record(baseline) for baseline in self.baselines],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """A table as text: each metric, its interval, the baselines, the notes."""
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        head, rows = self._table()
        top = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in head)
        body = "".join(
            "<tr>"
            + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row)
            + "</tr>"
            for row in rows
        )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return (
            f"<div><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
            f'<div style="font-size:90%;opacity:.85">{notes}</div></div>'
        )

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        head = (*_HEAD, *(baseline.name for baseline in self.baselines))
        rows = []
        for name, value in self.items():
            found = self.intervals.get(name, "")
            has = isinstance(found, Interval)
            told = f"{_short(found.low)} … {_short(found.high)}" if has else "none"
            cells = [_against(baseline, name) for baseline in self.baselines]
            rows.append((name, _short(value), told, *cells))
        return head, rows


def _against(baseline: Baseline, name: str) -> str:
    if name not in baseline.metrics:
        return "–"
    text = _short(baseline.metrics[name])
    found = baseline.differences.get(name)
    return f"{text} ({found.verdict})" if found is not None else text


def _short(value: Any) -> str:
    return format_number(value) if isinstance(value, (int, float)) else "a list"


def _plain(found: Interval | str) -> dict[str, Any]:
    return {"reason": found} if isinstance(found, str) else found.to_json()


def _record(baseline: Baseline) -> dict[str, Any]:
    differences = {
        name: {**asdict(item), "interval": _plain(item.interval)}
        for name, item in baseline.differences.items()
    }
    return {
        "name": baseline.name,
        "how": baseline.how,
        "metrics": dict(baseline.metrics),
        "differences": differences,
    }
