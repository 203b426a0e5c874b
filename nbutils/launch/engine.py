"""The papermill engine that tells where it is, and stops when it is asked to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nbclient.exceptions import CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from nbutils.launch.pulse import Pulse
from nbutils.launch.terminal import Terminal
from nbutils.launch.titles import describe_cell

__all__ = ["NAME", "Course", "describe_cell", "register"]

NAME = "nbutils"
TOLD_S = 2.0
STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Course:
    """Where the execution of a notebook is.

    Args:
        place: The cell that runs, or ran last, as ``cell 4 of 9, 'run.train()'``.
        stopped_by: The signal that ended it early; none while nothing did.
    """

    place: str = "no cell"
    stopped_by: signal.Signals | None = None


def register(out: Terminal, course: Course) -> None:
    """Make the engine known to papermill; lines go to ``out``, places to ``course``."""

    class Client(PapermillNotebookClient):
        def papermill_execute_cells(self) -> None:
            announce = _Announcer(out, course, len(self.nb.cells))
            with Pulse(out) as pulse, _stopping(self, course, out):
                for index, cell in enumerate(self.nb.cells):
                    if course.stopped_by is not None:
                        break
                    announce.start(cell, index)
                    pulse.cell_start()
                    if not self._run(cell, index):
                        break
                    announce.end()

        def _run(self, cell: Any, index: int) -> bool:
            """Execute a cell; whether it did not raise."""
            manager = self.nb_man
            try:
                manager.cell_start(cell, index)
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                manager.cell_exception(
                    self.nb.cells[index], cell_index=index, exception=error
                )
                return False
            finally:
                manager.cell_complete(self.nb.cells[index], cell_index=index)
            return True

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(  # pyright: ignore[reportIncompatibleMethodOverride]
            cls, nb_man: Any, kernel_name: str, **kwargs: Any
        ) -> Any:
            known = {key: kwargs[key] for key in _CLIENT_ARGUMENTS if key in kwargs}
            return Client(nb_man, kernel_name=kernel_name, **known).execute()

    papermill_engines.register(NAME, Engine)


_CLIENT_ARGUMENTS = (
    "log_output",
    "stdout_file",
    "stderr_file",
    "coalesce_streams",
    "store_widget_state",
    "extra_arguments",
)


class _Announcer:
    """One line for each cell when it starts, and its time where that is long."""

    def __init__(self, out: Terminal, course: Course, num_cells: int) -> None:
        self._out, self._course, self._num_cells = out, course, num_cells
        self._began_s = self._cell_s = time.monotonic()

    def start(self, cell: Any, index: int) -> None:
        self._cell_s = time.monotonic()
        minutes, seconds = divmod(int(self._cell_s - self._began_s), 60)
        title = describe_cell(cell)
        place = f"[{index + 1:>{len(str(self._num_cells))}}/{self._num_cells}]"
        self._course.place = f"cell {index + 1} of {self._num_cells}, {title!r}"
        self._out.line(f"{place} {minutes}:{seconds:02}  {title}")

    def end(self) -> None:
        took_s = time.monotonic() - self._cell_s
        if took_s >= TOLD_S:
            self._out.line(f"      took {took_s:.1f} s")


@contextmanager
def _stopping(client: Any, course: Course, out: Terminal) -> Generator[None]:
    """The first Ctrl-C or SIGTERM interrupts the cell, the second ends everything.

    An interrupted training finishes its window, saves and returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        del frame
        if course.stopped_by is not None:
            client.shutdown_kernel = "immediate"
            raise KeyboardInterrupt
        course.stopped_by = signal.Signals(number)
        out.line("      stopping after this cell; a second interrupt ends it now")
        _interrupt(client)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(client: Any) -> None:
    """What the Interrupt button does: a signal to the kernel and its workers."""
    process = client.km.provisioner.process
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(process.pid), signal.SIGINT)
    else:
        process.send_signal(signal.CTRL_C_EVENT)  # pyright: ignore[reportAttributeAccessIssue]
