"""S7: saved outputs that come from another order than the cells stand in."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.preflight.lints.names import cell_names
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    """Cells that were run before the cell above which they take a name from."""
    read = [
        (cell, cell_names(cell.tree), cell.execution_count)
        for cell in source.cells
        if cell.execution_count is not None
    ]
    for index, (cell, names, count) in enumerate(read):
        for above, given, above_count in read[:index]:
            shared = [n for n in names.needed if n in given.bound]
            if (above_count or 0) > (count or 0) and shared:
                yield Hit(
                    line=cell.first_line,
                    title="the saved outputs come from another order of the cells",
                    expected="outputs of one run from the first cell to the last",
                    actual=f"cell {cell.number} [{count}] uses {shared[0]}, and ran "
                    f"before cell {above.number} [{above_count}] above gave it its "
                    "present value",
                    fix="Restart the kernel and run all cells, then save.",
                    severity="warn",
                )
                return


RULE = Rule(
    "S7.executed-order",
    "What is shown was not made by the code that stands there.",
    _run,
)
