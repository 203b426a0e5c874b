"""A rehearsal as text for a terminal and as one HTML page without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from nbutils.environment.card import Row, Status, render_card, render_text
from nbutils.launch.cells import CellOutcome
from nbutils.monitor.rundir import write_atomic
from nbutils.preflight.lints import LintReport

__all__ = ["NotebookRehearsal", "write_page"]

MAX_FILES = 30
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;
padding:0 1em;background:Canvas;color:CanvasText}}</style></head><body>
<h1>{title}</h1>
"""


@dataclass(frozen=True, kw_only=True)
class NotebookRehearsal:
    """What a rehearsal of a notebook showed.

    Args:
        name: The notebook.
        lints: What reading it found.
        cells: One outcome per code cell, in their order.
        written: Files that the cells wrote, relative to their folder; thrown away.
        reached: Files of the user that were changed all the same, through a link.
        num_steps: Windows that each run had at most.
        seconds: How long it took.
        page: The HTML report; none before it is written.
    """

    name: str
    lints: LintReport
    cells: Sequence[CellOutcome]
    written: Sequence[Path] = ()
    reached: Sequence[Path] = ()
    num_steps: int = 0
    seconds: float = 0.0
    page: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether no lint and no cell failed, and nothing of the user was changed."""
        is_whole = all(cell.status in ("pass", "warn") for cell in self.cells)
        return is_whole and self.lints.passed and not self.reached

    @property
    def failures(self) -> list[CellOutcome]:
        """The cells that would fail."""
        return [cell for cell in self.cells if cell.status == "fail"]

    @property
    def text(self) -> str:
        """The card of the cells for a terminal."""
        return render_text(*self._heading(), self._rows())

    def __str__(self) -> str:
        return self.text

    @property
    def html(self) -> str:
        """Both cards as an HTML fragment."""
        return f"{render_card(*self._heading(), self._rows())}\n{self.lints.html}"

    def _repr_html_(self) -> str:
        return self.html

    def _heading(self) -> tuple[str, Status, str]:
        words = {"fail": "failed", "skip": "not reached", "warn": "refused"}
        counts = {
            status: sum(cell.status == status for cell in self.cells)
            for status in ("fail", "skip", "warn", "pass")
        }
        said = [f"{counts[k]} {word}" for k, word in words.items() if counts[k]]
        said.append(f"{counts['pass']} passed")
        verdict: Status = "pass" if self.passed else "fail"
        outcome = (
            f"{', '.join(said)} of {len(self.cells)} cells in {self.seconds:.0f} s"
        )
        if not self.lints.passed:
            outcome += "; a lint failed"
        return f"Rehearsal of {self.name}", verdict, outcome

    def _rows(self) -> list[Row]:
        rows = [_row(cell) for cell in self.cells]
        for path in self.reached:
            title = f"{path} was changed through a link"
            rows.append(Row("fail", title, [("fix", "restore it from a copy")]))
        if self.written:
            shown = [str(path) for path in self.written[:MAX_FILES]]
            more = len(self.written) - len(shown)
            shown += [f"and {more} more"] if more > 0 else []
            files = "1 file" if len(self.written) == 1 else f"{len(self.written)} files"
            title = f"the cells wrote {files}, thrown away since"
            rows.append(Row("info", title, [("files", "\n".join(shown))], folded=True))
        return rows


def write_page(rehearsal: NotebookRehearsal, path: Path) -> Path:
    """Write the report as one file; every text of the notebook in it is escaped."""
    title = escape(f"Rehearsal of {rehearsal.name}")
    steps = f"Each run of nbutils was cut short after {rehearsal.num_steps} windows."
    body = (
        f"{_HEAD.format(title=title)}<p>{steps}</p>\n{rehearsal.html}\n</body></html>\n"
    )
    return write_atomic(path, body.encode("utf-8"))


def _row(cell: CellOutcome) -> Row:
    shown = [("what", cell.text)] if cell.text else []
    hidden = [("traceback", cell.trace)] if cell.trace else []
    title = f"cell {cell.number} ({cell.seconds:.1f} s)  {cell.title}"
    return Row(cell.status, title, hidden, folded=True, shown_pairs=shown)
