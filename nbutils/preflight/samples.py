"""The splits side by side: their rows, and what the parts of a sample are for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch.utils.data import Subset

from nbutils.data.sources import columns_of
from nbutils.data.task import SPLITS
from nbutils.preflight.column import Column, as_array, digest, digests_of
from nbutils.preflight.probe import Probe
from nbutils.preflight.roles import Roles, find_roles
from nbutils.preflight.scan import Scan, leaves

__all__ = ["Samples", "share_text", "used_rows"]

LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "cls")
MAX_ROWS = 60_000
MAX_BYTES = 2**28
NUM_TWICE = 8


class Samples:
    """What the samples of a task hold.

    Args:
        probe: The task under test.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        # One after the other: samples made up while they are read would be equal if
        # the generators were seeded anew in between.
        self._tables = {split: probe.data.table(split) for split in SPLITS}
        self._fresh: dict[str, set[str]] = {}
        self.written: dict[str, dict[str, int]] = {split: {} for split in SPLITS}

    @cached_property
    def roles(self) -> Roles:
        """What the parts of a sample are for."""
        return find_roles(self.probe)

    def table(self, split: str) -> Scan | None:
        """Rows of a split, none if the task has none or they cannot be read."""
        found = self._tables[split]
        return found if found is not None and found.num_read else None

    def column(self, split: str, path: str) -> Column | None:
        """What a split holds at one path, if each sample that was read has it."""
        table = self.table(split)
        found = table.columns.get(path) if table else None
        return found if table and found and len(found) == table.num_read else None

    @cached_property
    def inputs(self) -> list[str]:
        """Paths that the model sees, as far as can be told."""
        table = self.table("train")
        if table is None:
            return []
        given = [path for path in self.roles.inputs if path in table.columns]
        if given:
            return given
        return [
            path
            for path, column in table.columns.items()
            if column.num_elements > 1 and path not in self.targets
        ]

    @cached_property
    def targets(self) -> list[str]:
        """Paths that the loss compares with outputs, as far as can be told."""
        table = self.table("train")
        columns = table.columns if table else {}
        known = [path for path in self.roles.targets if path in columns]
        if known:
            return known
        if self.roles.targets:
            return []
        named = [p for p in columns if p.rpartition(".")[2].lower() in LABEL_NAMES]
        is_pair = list(columns) == ["0", "1"]
        return named[:1] or (["1"] if is_pair and "1" not in self.roles.inputs else [])

    @property
    def label(self) -> str | None:
        """The path of the class of a sample, one whole number; none if there is none.

        Targets of an unknown loss count when they are integers.
        """
        if self.roles.targets:
            return self.roles.label
        found = [
            path
            for path in self.targets
            if (column := self.column("train", path)) and column.is_integer
        ]
        return found[0] if found else None

    def labels(self, split: str) -> torch.Tensor | None:
        """The class of each sample that was read, shape ``(N,)``."""
        column = self.column(split, self.label) if self.label else None
        return column.labels if column else None

    def keys(self, split: str, paths: list[str]) -> list[tuple[int, ...]]:
        """One key per row; equal for samples that are equal at all these paths."""
        columns = [self.column(split, path) for path in paths]
        if not columns or any(column is None for column in columns):
            return []
        return list(zip(*(column.digests for column in columns if column), strict=True))

    def all_keys(self, split: str, paths: list[str]) -> list[tuple[int, ...]]:
        """As :meth:`keys`, of every sample where the split lies in memory."""
        pool = self.probe.data.pool(split)
        found = columns_of(pool[0]) if pool and pool[1] is None else None
        if found is None:
            return self.keys(split, paths)
        columns, rows = found
        named = dict(columns) if isinstance(columns, dict) else _numbered(columns)
        chosen = [named[path] for path in paths if path in named]
        size = sum(c.numel() * c.element_size() for c in chosen)
        if len(chosen) != len(paths) or not chosen:
            return self.keys(split, paths)
        if len(chosen[0]) > MAX_ROWS or size > MAX_BYTES:
            return self.keys(split, paths)
        keys = list(zip(*(digests_of(column) for column in chosen), strict=True))
        return keys if rows is None else [keys[row] for row in rows]

    def is_varied(self, paths: list[str], *, floats_only: bool = False) -> bool:
        """Whether inputs are too rich to repeat by chance.

        Codes, sparse rows and grids repeat; measured values, pictures and texts do not.
        """
        for path in paths:
            column = self.column("train", path)
            if column is None or column.num_elements < 4 or column.table is None:
                continue
            if floats_only and not column.is_float:
                continue
            first = dict(zip(column.digests, range(len(column)), strict=True))
            rows = [row for row in first.values() if not column.flat[row]][:64]
            if len(rows) < 4:
                continue
            values = column.table[rows]
            levels = min(column.num_elements, 8)
            own = sorted(len(torch.unique(row[:4096])) for row in values)
            is_rich = own[len(own) // 2] >= 0.6 * levels
            if is_rich and len(torch.unique(values)) >= 12:
                return True
        return False

    @property
    def is_made_up(self) -> bool:
        """Whether training samples are drawn anew on each reading, with no rows.

        What they look like hangs on the seed alone, here as in the user's own cells.
        """
        table = self.table("train")
        return table is not None and self.changing("train") >= set(table.columns)

    def changing(self, split: str) -> set[str]:
        """Paths whose values change when a sample is read a second time.

        :attr:`written` then holds those where the second reading wrote into what
        the first one had given, with an index of such a sample.
        """
        if split not in self._fresh:
            self._fresh[split] = self._read_twice(split)
        return self._fresh[split]

    def _read_twice(self, split: str) -> set[str]:
        pool, table = self.probe.data.pool(split), self.table(split)
        if pool is None or table is None or table.unreadable:
            return set()
        changed: set[str] = set()
        for position in range(min(NUM_TWICE, table.num_read)):
            index = next(iter(table.columns.values())).indices[position]
            # Twice in a row: the generators were seeded when the table was read.
            first = dict(leaves(pool[0][index]))
            prints = {p: digest(v) for p, v in first.items() if not _is_odd(v)}
            second = dict(leaves(pool[0][index]))
            for path, value in prints.items():
                if path in second and value != digest(second[path]):
                    changed.add(path)
                if value != digest(first[path]):
                    self.written[split].setdefault(path, index)
        return changed


def _is_odd(value: Any) -> bool:
    """Whether it has no digest of its own: no text, number or plain array."""
    if isinstance(value, (str, bytes)):
        return False
    array = as_array(value)
    return array is None or array.layout != torch.strided


def _numbered(columns: Any) -> dict[str, Any]:
    return {str(number): column for number, column in enumerate(columns)}


def used_rows(probe: Probe, split: str) -> tuple[Any, set[int]] | None:
    """The dataset at the bottom of subsets, and the rows of it that are used."""
    pool = probe.data.pool(split)
    if pool is None:
        return None
    data, rows = pool
    chosen = list(range(len(data))) if rows is None else rows
    while isinstance(data, Subset):
        chosen = [int(data.indices[row]) for row in chosen]
        data = data.dataset
    return data, set(chosen)


def share_text(part: int, whole: int) -> str:
    """``"8 of 100 (8 %)"``."""
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.0%})"
