"""Execute the cells of a notebook one by one, past those that fail."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbutils.environment.card import Status
from nbutils.launch.titles import describe_cell
from nbutils.preflight.lints.names import CellNames, cell_names, needs_of
from nbutils.preflight.lints.secret_keys import redact
from nbutils.preflight.lints.source import Cell

__all__ = ["CellOutcome", "run_cells"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(r"Cell In\[\d+\], line (\d+)")
_NAME = re.compile(r"name '(\w+)' is not defined")
_OFFLINE = ("HF_HUB_OFFLINE", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
MAX_TRACE_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """How one cell went.

    Args:
        number: Its place among all cells, from 1.
        title: Its first line.
        status: ``pass``, ``fail``, ``warn`` (refused on purpose) or ``skip``.
        text: What happened, in one sentence; empty when it passed.
        seconds: How long it ran.
        trace: The end of the traceback, without colours and keys.
    """

    number: int
    title: str
    status: Status
    text: str = ""
    seconds: float = 0.0
    trace: str = ""


@dataclass(slots=True)
class _Missing:
    """Names that cells which failed, or were not run, did not give."""

    origin: dict[str, int] = field(default_factory=dict)
    inner: dict[str, dict[str, int]] = field(default_factory=dict)

    def blocks(self, names: CellNames) -> str:
        """Why a cell cannot run; empty when it can."""
        self.inner |= names.inner
        for name, (_, is_sure) in needs_of(names, self.inner).items():
            if is_sure and name in self.origin:
                return f"not reached: it needs {name} of cell {self.origin[name]}"
        return ""

    def lose(self, names: CellNames, kept: set[str], number: int, why: str) -> None:
        """Remember the names a cell would have bound, and the cell that failed."""
        at_fault = re.search(r"of cell (\d+)", why)
        for name in names.bound.keys() - kept:
            self.origin[name] = int(at_fault[1]) if at_fault else number


def run_cells(
    client: Any,
    cells: Mapping[int, Cell],
    timeout_s: int,
    announce: Callable[[int, str], None],
) -> Iterator[CellOutcome]:
    """Run the code cells of a client's notebook; its kernel is up.

    A cell that needs a name which a failed cell did not give is not run, and says so.

    Args:
        client: A ``nbclient.NotebookClient``.
        cells: The parsed cells by their number from 1.
        timeout_s: Seconds after which a cell is interrupted.
        announce: Told the number and the title of each cell before it runs.
    """
    missing = _Missing()
    is_dead = ""
    for index, record in enumerate(client.nb.cells):
        if record.cell_type != "code" or not record.source.strip():
            continue
        cell = cells[index + 1]
        title = describe_cell(record)
        names = cell_names(cell.tree)
        announce(cell.number, title)
        if why := is_dead or missing.blocks(names):
            missing.lose(names, set(), cell.number, why)
            yield CellOutcome(number=cell.number, title=title, status="skip", text=why)
            continue
        outcome, kept, is_over = _run_one(client, record, index, cell, title, timeout_s)
        if outcome.status == "pass":
            for name in names.bound:
                missing.origin.pop(name, None)
        else:
            outcome = _as_consequence(outcome, missing)
            missing.lose(names, kept, cell.number, outcome.text)
        if is_over:
            is_dead = f"not reached: the kernel died in cell {cell.number}"
        yield outcome


def _run_one(
    client: Any, record: Any, index: int, cell: Cell, title: str, timeout_s: int
) -> tuple[CellOutcome, set[str], bool]:
    """The outcome, names that it bound all the same, and whether the kernel died."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    start = time.monotonic()
    status: Status = "pass"
    text, trace, kept, is_over = "", "", set[str](), False
    try:
        client.execute_cell(record, index)
    except CellExecutionError as error:
        status, trace = "fail", _ANSI.sub("", error.traceback)
        text = redact(f"{error.ename}: {_ANSI.sub('', error.evalue)}").strip()
        kept = _bound_before(cell, trace, error.ename)
        if any(mark in trace for mark in _OFFLINE):
            status = "warn"
            text = f"a rehearsal does not reach the Hub; the rest of the cell: {text}"
    except DeadKernelError:
        status, is_over = "fail", True
        text = "the kernel died, most often for want of memory"
    seconds = time.monotonic() - start
    if seconds >= timeout_s and not is_over:
        status, kept = "fail", set()
        text = (
            f"it still ran after {timeout_s} s and was interrupted: only runs of "
            "nbutils are cut short in a rehearsal"
        )
    shown = "\n".join(redact(trace).splitlines()[-MAX_TRACE_LINES:])
    outcome = CellOutcome(
        number=cell.number,
        title=title,
        status=status,
        text=text,
        seconds=seconds,
        trace=shown,
    )
    return outcome, kept, is_over


def _as_consequence(outcome: CellOutcome, missing: _Missing) -> CellOutcome:
    """A name that a failed cell did not give is that cell's fault."""
    found = _NAME.search(outcome.text)
    if found is None or found[1] not in missing.origin:
        return outcome
    return CellOutcome(
        number=outcome.number,
        title=outcome.title,
        status="skip",
        text=f"stopped: it needs {found[1]} of cell {missing.origin[found[1]]}",
        seconds=outcome.seconds,
    )


def _bound_before(cell: Cell, trace: str, kind: str) -> set[str]:
    """Names bound by the statements above the one that failed."""
    found = _LINE.search(trace)
    if found is None or kind in ("SyntaxError", "IndentationError"):
        return set()
    line = cell.first_line + int(found[1]) - 1
    above = [node for node in cell.tree.body if (node.end_lineno or line) < line]
    return set(cell_names(ast.Module(above, [])).bound)
