"""Looking on from outside: only what is new, and whether anybody still trains."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nbutils.errors import EnvironmentProblem
from nbutils.monitor import follow
from nbutils.monitor.events import EventLog
from nbutils.monitor.follow import Tail, await_run, find_run, is_worked_on, life_of
from nbutils.monitor.lock import run_lock
from nbutils.monitor.process import last_lines
from nbutils.monitor.runview import RunView


def log(folder: Path, *kinds: str) -> Path:
    with EventLog(folder / "events.jsonl") as events:
        for kind in kinds:
            events.write(kind, step=1, epoch=0)
    return folder


def view_of(folder: Path) -> RunView:
    return RunView.from_events(Tail(folder / "events.jsonl").read())


def test_tail_gives_what_is_new_and_leaves_a_torn_line(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "events.jsonl")
    assert tail.read() == []
    log(tmp_path, "run_start", "step")
    assert [event["kind"] for event in tail.read()] == ["run_start", "step"]
    with tail.path.open("a") as file:
        file.write('{"kind": "epo')
    assert tail.read() == []
    with tail.path.open("a") as file:
        file.write('ch", "epoch": 1}\n')
    assert tail.read() == [{"kind": "epoch", "epoch": 1}]
    assert tail.read() == []


def test_tail_of_a_damaged_log_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "step"}\n???\n')
    with pytest.raises(EnvironmentProblem, match="Line 2 of"):
        Tail(tmp_path / "events.jsonl").read()


def test_life_follows_lock_and_end(tmp_path: Path) -> None:
    log(tmp_path, "run_start", "step")
    with run_lock(tmp_path):
        assert life_of(tmp_path, view_of(tmp_path)) == "running"
    assert life_of(tmp_path, view_of(tmp_path)) == "killed"
    log(tmp_path, "run_end")
    assert life_of(tmp_path, view_of(tmp_path)) == "ended"
    with run_lock(tmp_path):  # resumed, and not yet said so
        assert life_of(tmp_path, view_of(tmp_path)) == "starting"


def test_life_where_nobody_knows_locks_is_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "is_held", lambda path: None)
    log(tmp_path, "run_start", "step")
    assert is_worked_on(tmp_path) is None
    assert life_of(tmp_path, view_of(tmp_path)) == "running"
    record = f'{{"pid": 4194301, "host": "{socket.gethostname()}", "began_s": 1}}'
    (tmp_path / "process.json").write_text(record)
    assert life_of(tmp_path, view_of(tmp_path)) == "killed"


def test_find_run_takes_the_newest_and_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="there is no run in"):
        find_run(None, tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log(tmp_path / name, "run_start")
    assert find_run(None, tmp_path) == tmp_path / "b"
    assert find_run("elsewhere") == Path("elsewhere")


def test_await_run_waits_longer_for_one_whose_lock_is_held(tmp_path: Path) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 20:
            log(tmp_path, "run_start")

    with run_lock(tmp_path):
        await_run(tmp_path, 1.0, sleep=sleep)
    assert len(pauses) == 20


def test_last_lines_of_a_long_log_are_its_end(tmp_path: Path) -> None:
    assert last_lines(tmp_path) == ""
    text = "".join(f"line {n} é\n" for n in range(10_000))
    (tmp_path / "process.log").write_text(text, encoding="utf-8")
    assert last_lines(tmp_path, 2) == "line 9998 é\nline 9999 é"
