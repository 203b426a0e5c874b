"""A run directory in a terminal: a screen that is redrawn in place, or plain lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from nbutils.config import resolve
from nbutils.monitor.about import About
from nbutils.monitor.events import Event
from nbutils.monitor.follow import await_run, find_run, look_on
from nbutils.monitor.runview import RunView
from nbutils.monitor.terminal import (
    ScreenThenLines,
    epoch_table,
    screen,
    shows_blocks,
)

__all__ = ["TerminalPanel", "epoch_table", "watch_run"]

_POLL_S = 1.0
_WAIT_S = 60.0
_OTHER_SCREEN, _USUAL_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def watch_run(
    run_dir: str | Path | None,
    *,
    follow: bool | None = None,
    num_epochs: int = 12,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run, and go on until it ends.

    Args:
        run_dir: The folder of the run; none: the newest under ``runs_dir``.
        follow: Go on; by default where ``out`` is a terminal.
        num_epochs: Rows of the table.
        out: Where to write; by default the standard output.
        sleep: Waits between two looks.

    Raises:
        EnvironmentProblem: There is no run in that folder.
    """
    stream: TextIO = out or sys.stdout
    is_terminal = stream.isatty()
    is_following = is_terminal if follow is None else follow
    path = find_run(run_dir, resolve().checkpoint.runs_dir)

    def tell(text: str) -> None:
        stream.write(text + "\n")
        stream.flush()

    # A folder that is there may be one where a run is starting up.
    wait_s = _WAIT_S if is_following and path.is_dir() else 0.0
    await_run(path, wait_s, sleep=sleep, tell=tell)
    if not (is_following and is_terminal):
        panel = ScreenThenLines(path, num_epochs, stream)
        _look(path, panel, sleep, is_following=is_following)
        return
    with TerminalPanel(path, stream, num_epochs) as panel:
        _look(path, panel, sleep, is_following=True)


def _look(
    path: Path,
    panel: ScreenThenLines | TerminalPanel,
    sleep: Callable[[float], None],
    *,
    is_following: bool,
) -> None:
    """Look on; an interrupt ends the looking, not the run."""
    try:
        look_on(path, panel, is_following=is_following, sleep=sleep, poll_s=_POLL_S)
    except KeyboardInterrupt:
        return


class TerminalPanel:
    """The run redrawn in place; at the end its last screen stays in the terminal.

    Args:
        path: The run directory.
        out: A terminal.
        num_epochs: Rows of the table, where there is room.
    """

    def __init__(self, path: Path, out: TextIO, num_epochs: int = 12) -> None:
        self.view = RunView()
        self._path = path
        self._out = out
        self._num_epochs = num_epochs
        self._life = ""

    def __enter__(self) -> TerminalPanel:
        self._write(_OTHER_SCREEN)
        return self

    def __exit__(self, *_error: object) -> None:
        self._write(_USUAL_SCREEN + self._text(10_000) + "\n")

    def take(self, events: Iterable[Event]) -> None:
        """Take in what has happened since the last look."""
        for event in events:
            self.view.apply(event)

    def refresh(self, life: str = "") -> None:
        """Draw the run over what stood there."""
        self._life = life
        height = shutil.get_terminal_size().lines
        foot = f"Ctrl-C stops looking. Stop the run: touch {self._path / 'STOP'}"
        lines = [*self._text(height - 2).splitlines(), "", foot]
        body = "\n".join(line + _CLEAR_LINE for line in lines[-height:])
        self._write(_HOME + body + _CLEAR_REST)

    def _text(self, height: int) -> str:
        """The screen, with as many epochs as fit into ``height`` lines."""
        width = shutil.get_terminal_size().columns
        about, text = About.read(self._path), ""
        for num_epochs in range(self._num_epochs, 0, -1):
            text = screen(
                self.view,
                about,
                self._life,
                width=width,
                num_epochs=num_epochs,
                is_ascii=not shows_blocks(self._out),
            )
            if text.count("\n") < height:
                return text
        return "\n".join(text.splitlines()[: max(height, 1)])

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
