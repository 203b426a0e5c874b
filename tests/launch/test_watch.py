"""``nbutils watch``: redrawn in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from nbutils.errors import EnvironmentProblem
from nbutils.launch.watch import watch_run
from nbutils.monitor.events import EventLog
from nbutils.monitor.lock import run_lock


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def begin(folder: Path, *, ends: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with EventLog(folder / "events.jsonl") as log:
        log.write("run_start", planned_steps=40, epochs=4)
        for epoch in (1, 2):
            log.write("step", step=10 * epoch, loss=1 / epoch, epoch=epoch)
            log.write("epoch", step=10 * epoch, epoch=epoch, val_loss=1 / epoch)
        if ends:
            log.write("run_end", status="finished", reason="target", step=20, seconds=9)
    return folder


def test_watch_in_a_terminal_redraws_and_leaves_the_last_screen(tmp_path: Path) -> None:
    out, folder = Terminal(), begin(tmp_path / "owl")

    def sleep(seconds: float) -> None:
        begin(folder, ends=True)

    with run_lock(folder):
        end_by_interrupt(folder, out)
    watch_run(folder, out=out, sleep=sleep)
    text = out.getvalue()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 2
    assert text.count("\x1b[H") == 2
    last = text.rpartition("\x1b[?1049l")[2]
    assert "! killed" in last  # nobody holds it, and it has not ended
    assert "\x1b" not in last
    assert "Ctrl-C stops looking. Stop the run: touch" in text


def end_by_interrupt(folder: Path, out: io.StringIO) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    watch_run(folder, out=out, sleep=interrupt)


def test_watch_in_a_low_terminal_drops_epochs_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "14")
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    watch_run(begin(tmp_path / "owl"), out=out)
    screen = out.getvalue().partition("\x1b[H")[2].partition("\x1b[J")[0]
    lines = screen.replace("\x1b[K", "").splitlines()
    assert len(lines) <= 14
    assert max(len(line) for line in lines[:-1]) <= 60


def test_watch_elsewhere_shows_once_unless_asked(tmp_path: Path) -> None:
    out, folder = io.StringIO(), begin(tmp_path / "owl")
    watch_run(folder, out=out, sleep=pytest.fail)
    assert "Run owl" in out.getvalue()
    assert "\x1b" not in out.getvalue()

    def sleep(seconds: float) -> None:
        with EventLog(folder / "events.jsonl") as log:
            log.write("resume", step=20, epoch=2, checkpoint="c")
            log.write("run_end", status="finished", reason="target", step=20)
        raise KeyboardInterrupt

    with run_lock(folder):
        watch_run(folder, follow=True, out=out, sleep=sleep)
    assert out.getvalue().count("Run owl") == 2


def test_watch_without_a_name_takes_the_newest(tmp_path: Path) -> None:
    out = io.StringIO()
    begin(tmp_path / "runs" / "first", ends=True)
    begin(tmp_path / "runs" / "second", ends=True)
    watch_run(None, out=out)
    assert "Run second" in out.getvalue()


def test_watch_of_a_folder_that_is_not_there_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="expected a run directory"):
        watch_run(tmp_path / "none", follow=True, out=Terminal(), sleep=pytest.fail)
