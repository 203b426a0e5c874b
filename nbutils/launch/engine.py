"""The papermill engine that says on the terminal which cell is running."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

from papermill.engines import NBClientEngine, papermill_engines

from nbutils.launch.titles import describe_cell

__all__ = ["NAME", "describe_cell", "register"]

NAME = "nbutils"


def register(out: TextIO) -> None:
    """Make the engine known to papermill; its progress lines go to ``out``."""

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(  # pyright: ignore[reportIncompatibleMethodOverride]
            cls, nb_man: Any, kernel_name: str, **kwargs: Any
        ) -> Any:
            nb_man.cell_start = _announcing(
                nb_man.cell_start, len(nb_man.nb.cells), out
            )
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register(NAME, Engine)


def _announcing(
    start: Callable[..., None], num_cells: int, out: TextIO
) -> Callable[..., None]:
    began_s = time.monotonic()

    def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began_s), 60)
        place = f"[{cell_index + 1:>{len(str(num_cells))}}/{num_cells}]"
        out.write(f"{place} {minutes}:{seconds:02}  {describe_cell(cell)}\n")
        out.flush()
        start(cell, cell_index, **more)

    return cell_start
