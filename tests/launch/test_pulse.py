"""A silent cell shows how far its run is; lines of several writers stay whole."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbutils.launch.pulse import Pulse, open_event_logs
from nbutils.launch.terminal import Terminal
from nbutils.monitor.events import EventLog


def test_terminal_line_ends_the_text_that_came_before() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.write("loss 0.")
    terminal.line("[1/2] title")
    terminal.write("done\n")
    terminal.line("next")
    assert stream.getvalue() == "loss 0.\n[1/2] title\ndone\nnext\n"


def test_terminal_knows_how_long_it_was_silent() -> None:
    terminal = Terminal(io.StringIO())
    time.sleep(0.05)
    assert terminal.silent_s >= 0.05
    terminal.write("")
    assert terminal.silent_s >= 0.05
    terminal.write("x")
    assert terminal.silent_s < 0.05


def wait_for(text: str, stream: io.StringIO) -> str:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    return stream.getvalue()


def test_pulse_silent_cell_shows_the_step_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    stream = io.StringIO()
    with EventLog(folder / "events.jsonl") as log:
        log.write("run_start", run_id="a", planned_steps=100, epochs=2)
        log.write("step", step=7, epoch=0, loss=0.5, lr=1e-3)
        with Pulse(Terminal(stream), 0.1, lambda: iter([log.path])) as pulse:
            pulse.cell_start()
            assert "night: epoch 1/2  step 7/100  loss 0.5" in wait_for("7/100", stream)
            log.write("step", step=8, epoch=0, loss=0.4, lr=1e-3)
            assert "step 8/100" in wait_for("8/100", stream)
    assert not any(line[:1].strip() for line in stream.getvalue().splitlines())


def test_pulse_without_a_run_says_that_it_goes_on() -> None:
    stream = io.StringIO()
    with Pulse(Terminal(stream), 0.1, lambda: iter(())):
        assert "0:00  still running" in wait_for("running", stream)


def test_pulse_is_silent_while_the_cell_speaks_and_gets_rarer() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    with Pulse(terminal, 0.3, lambda: iter(())):
        for _ in range(10):
            terminal.write(".")
            time.sleep(0.05)
        assert "running" not in stream.getvalue()
        time.sleep(2.2)
    assert 1 <= stream.getvalue().count("running") <= 5  # not 7: each waits longer


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds an event log open, as a kernel that trains does."""
    code = "f = open('events.jsonl', 'ab'); print('open', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate(b"\n")


def test_open_event_logs_are_those_of_child_processes(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    assert (tmp_path / "events.jsonl").resolve() in list(open_event_logs())
