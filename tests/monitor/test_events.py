"""The event log survives crashes, odd numbers and failing views."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog, follow, read_events
from nbutils.monitor.jsontext import dumps, loads


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    """An open log."""
    with EventLog(tmp_path / "events.jsonl") as opened:
        yield opened


def test_write_then_read_gives_equal_events(log: EventLog) -> None:
    written = log.write("step", step=1, loss=0.1, terms={"a": 1.5}, path=None)
    assert read_events(log.path) == [written]


def test_write_is_on_disk_at_once(log: EventLog) -> None:
    log.write("step", step=1)
    assert log.path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_write_nonfinite_float_comes_back_and_is_valid_json(
    log: EventLog, value: float
) -> None:
    log.write("step", loss=value, terms={"kl": [value]}, name="nan")
    assert b"NaN" not in log.path.read_bytes()
    (event,) = read_events(log.path)
    for found in (event["loss"], event["terms"]["kl"][0]):
        assert found == value or (math.isnan(found) and math.isnan(value))
    assert event["name"] == "nan"


def test_write_arrays_paths_and_odd_text_are_plain_json(log: EventLog) -> None:
    log.write(
        "x",
        a=np.float32(0.5),
        b=torch.tensor([1, 2]),
        c=Path("p"),
        d="line\nend 日本 \ud800",
        e={3, 1},
        f=np.float64(math.nan),
    )
    (event,) = read_events(log.path)
    assert (event["a"], event["b"], event["c"], event["e"]) == (
        0.5,
        [1, 2],
        "p",
        [1, 3],
    )
    assert event["d"] == "line\nend 日本 \ud800"
    assert math.isnan(event["f"])


def test_write_value_without_json_form_raises_and_leaves_the_log_whole(
    log: EventLog,
) -> None:
    log.write("a")
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        log.write("b", thing=object())
    assert [event["kind"] for event in read_events(log.path)] == ["a"]


def test_dumps_with_indent_round_trips_nonfinite() -> None:
    assert loads(dumps({"a": (1, math.inf)}, indent=2)) == {"a": [1, math.inf]}


def test_read_events_with_torn_last_line_leaves_it_out(log: EventLog) -> None:
    log.write("a")
    with log.path.open("ab") as file:
        file.write(b'{"time_s": 1, "kind": "st')
    assert [event["kind"] for event in read_events(log.path)] == ["a"]


def test_reopen_after_torn_line_truncates_it_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("a", text="x" * 200_000)
    with path.open("ab") as file:
        file.write(b'{"kind": "torn' + b"y" * 100_000)
    with EventLog(path) as log:
        log.write("b")
    assert [event["kind"] for event in read_events(path)] == ["a", "b"]


def test_reopen_with_only_a_torn_line_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind"')
    EventLog(path).close()
    assert path.read_bytes() == b""


def test_read_events_without_a_file_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("damage", [b"not json\n", b"[1]\n", b'{"no_kind": 1}\n'])
def test_read_events_with_damage_in_the_middle_raises(
    log: EventLog, damage: bytes
) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"kind": "a"}\n' + damage + b'{"kind": "b"}\n')
    with pytest.raises(EnvironmentProblem, match=r"Line 2 of .* is not an event"):
        read_events(log.path)


def test_write_after_close_raises(log: EventLog) -> None:
    log.close()
    with pytest.raises(EnvironmentProblem, match="is closed; expected an open one"):
        log.write("step")


def test_open_in_missing_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        EventLog(tmp_path / "none" / "events.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_write_on_a_full_disk_raises(log: EventLog) -> None:
    real = log._file
    log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(EnvironmentProblem, match="No space left"):
        log.write("step")
    log._file.close()
    log._file = real


def test_write_of_a_part_cuts_it_back_and_raises(log: EventLog) -> None:
    log.write("a")

    class Partial:
        closed = False

        def write(self, line: bytes) -> int:
            return real.write(line[:5])

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    real = log._file
    log._file = Partial()
    with pytest.raises(EnvironmentProblem, match="only a part of the line"):
        log.write("b")
    log._file = real
    log.write("c")
    assert [event["kind"] for event in read_events(log.path)] == ["a", "c"]


def test_subscriber_sees_every_event_in_order(log: EventLog) -> None:
    seen: list[str] = []
    log.subscribe(lambda event: seen.append(event["kind"]))
    for kind in ("a", "b"):
        log.write(kind)
    assert seen == ["a", "b"]


def test_failing_subscriber_is_counted_reported_once_and_others_go_on(
    log: EventLog,
) -> None:
    seen: list[str] = []

    def broken(event: object) -> None:
        raise ValueError("no display")

    log.subscribe(broken, "panel")
    log.subscribe(lambda event: seen.append(event["kind"]), "other")
    for _ in range(3):
        log.write("step")
    kinds = [event["kind"] for event in read_events(log.path)]
    assert kinds == ["step", "message", "step", "step"]
    assert "panel failed: ValueError: no display" in read_events(log.path)[1]["text"]
    assert log.num_failures["panel"] == 4
    assert seen.count("step") == 3


def test_subscriber_interrupt_is_not_swallowed(log: EventLog) -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    log.subscribe(stop)
    with pytest.raises(KeyboardInterrupt):
        log.write("step")


def test_unsubscribe_ends_the_calls(log: EventLog) -> None:
    seen: list[object] = []
    log.subscribe(seen.append)
    log.unsubscribe(seen.append)
    log.write("step")
    assert seen == []


def test_follow_yields_old_and_new_events_and_ends_with_the_run(log: EventLog) -> None:
    log.write("run_start")
    events = follow(log.path, poll_s=0)
    assert next(events)["kind"] == "run_start"
    log.write("step", step=1)
    assert next(events)["step"] == 1
    log.write("run_end")
    assert [event["kind"] for event in events] == ["run_end"]


def test_follow_goes_on_when_a_run_is_resumed(log: EventLog) -> None:
    for kind in ("run_start", "run_end", "resume", "run_end"):
        log.write(kind)
    assert len(list(follow(log.path, poll_s=0))) == 4


def test_follow_ends_when_told_to(tmp_path: Path) -> None:
    assert list(follow(tmp_path / "none", poll_s=0, should_stop=lambda: True)) == []
