"""A look at a table in a text file: rows, columns, gaps, and a likely label."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nbutils.data.looks.look import DataLook

__all__ = ["look_at_table"]

MAX_ROWS = 20_000
MAX_KINDS = 50
"""Values up to which a column may hold classes."""
MAX_CELL = 10 * 2**20
LABEL_NAMES = ("label", "labels", "target", "class", "y", "category")
GAPS = {"", "na", "nan", "null", "none", "?"}
MANY_TIMES = 10
"""Ratio of the largest class to the smallest that is worth a remark."""


@dataclass
class _Column:
    """Running facts of one column."""

    name: str
    num_gaps: int = 0
    num_numbers: int = 0
    num_texts: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    values: Counter[str] = field(default_factory=Counter)

    def take(self, text: str) -> None:
        """One more cell."""
        text = text.strip()
        if len(self.values) <= MAX_KINDS or text in self.values:
            self.values[text] += 1
        if text.lower() in GAPS:
            self.num_gaps += 1
            return
        try:
            number = float(text)
        except ValueError:
            self.num_texts += 1
            return
        self.num_numbers += 1
        self.low, self.high = min(self.low, number), max(self.high, number)

    def describe(self) -> str:
        """Its kind and range."""
        if self.num_texts:
            count = len(self.values)
            kinds = f"{count}" if count <= MAX_KINDS else f"over {MAX_KINDS}"
            text = f"text, {kinds} different"
        elif self.num_numbers:
            text = f"numbers, {self.low:g} to {self.high:g}"
        else:
            text = "empty"
        return f"{text}, {self.num_gaps:,} missing" if self.num_gaps else text


class _Seen:
    """Lines of a file, with the bytes that they took."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.num_bytes = 0
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.num_bytes += len(line.encode())
            yield line


def look_at_table(path: Path) -> DataLook:
    """Columns, rows and classes of a CSV or TSV file; of the first rows if it is long.

    Raises:
        ValueError: It has no rows, or rows of different lengths.
    """
    mark = "\t" if path.suffix.lower() == ".tsv" else ","
    limit = csv.field_size_limit(MAX_CELL)
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            seen = _Seen(file)
            rows = csv.reader(seen, delimiter=mark)
            header = next(rows, [])
            columns, num_rows, num_ragged = _read(header, rows)
            read, is_partial = seen.num_bytes, next(rows, None) is not None
    except csv.Error as error:
        raise ValueError(f"it is no table: {error}") from error
    finally:
        csv.field_size_limit(limit)  # of the whole process
    if not num_rows:
        raise ValueError("it has a header and no rows" if header else "it has no rows")
    whole = _guess_rows(path, num_rows, read) if is_partial else num_rows
    label = _label(columns)
    counts = dict(label.values.most_common()) if label else {}
    return DataLook(
        title=f"{'about ' if is_partial else ''}{whole:,} rows, {len(columns)} columns",
        facts=_facts(columns, num_rows, is_partial, label),
        remarks=_remarks(columns, num_rows, num_ragged, counts),
        num_samples=whole,
        is_partial=is_partial,
        class_counts=counts,
    )


def _read(
    header: list[str], rows: Iterable[list[str]]
) -> tuple[list[_Column], int, int]:
    """Columns of the first rows; how many rows, and how many of another length."""
    columns = [
        _Column(name.strip() or f"column {i + 1}") for i, name in enumerate(header)
    ]
    num_rows = num_ragged = 0
    for row in itertools.islice(rows, MAX_ROWS):
        if not row:
            continue
        num_rows += 1
        num_ragged += len(row) != len(columns)
        for column, text in zip(columns, row, strict=False):
            column.take(text)
    return columns, num_rows, num_ragged


def _guess_rows(path: Path, num_rows: int, read: int) -> int:
    """Rows of the whole file, from its size and that of the rows read; two digits."""
    guess = int(num_rows * path.stat().st_size / max(read, 1))
    unit = 10 ** max(len(str(guess)) - 2, 0)
    return max(num_rows, guess // unit * unit)


def _label(columns: list[_Column]) -> _Column | None:
    """The column that is called like a label and has few values."""
    named = [c for c in columns if c.name.lower() in LABEL_NAMES]
    few = [c for c in named if 1 < len(c.values) <= MAX_KINDS]
    return few[-1] if few else None


def _facts(
    columns: list[_Column], num_rows: int, is_partial: bool, label: _Column | None
) -> list[tuple[str, str]]:
    facts = [(c.name, c.describe()) for c in columns[:12]]
    if len(columns) > 12:
        facts.append(("more columns", f"{len(columns) - 12}"))
    if is_partial:
        facts.insert(0, ("looked at", f"the first {num_rows:,} rows"))
    if label is not None:
        facts.append(("label by its name", label.name))
    return facts


def _remarks(
    columns: list[_Column], num_rows: int, num_ragged: int, counts: dict[str, int]
) -> list[str]:
    remarks: list[str] = []
    if num_ragged:
        remarks.append(
            f"{num_ragged:,} of {num_rows:,} rows have another number of cells than "
            "the header; check the separator and the quotes."
        )
    if gaps := [c.name for c in columns if c.num_gaps]:
        remarks.append(
            f"Missing values in {', '.join(gaps[:6])}"
            f"{', …' if len(gaps) > 6 else ''}: fill or drop them before training."
        )
    constant = [c.name for c in columns if len(c.values) == 1 and num_rows > 1]
    if constant:
        remarks.append(f"Constant: {', '.join(constant[:6])}; nothing to learn there.")
    if counts and max(counts.values()) >= MANY_TIMES * min(counts.values()):
        rare = min(counts, key=lambda name: counts[name])
        remarks.append(
            f"The classes are uneven: {max(counts.values()):,} of the largest, "
            f"{counts[rare]:,} of {rare!r}."
        )
    return remarks
