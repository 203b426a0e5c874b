"""A run directory that cannot be used says so before the run."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path

import pytest

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.rundir import RunDirectory


def test_create_makes_the_folders_and_leaves_no_probe(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs" / "owl").create()
    names = sorted(path.name for path in directory.path.iterdir())
    assert names == ["checkpoints", "figures"]
    assert directory.create() is directory


def test_create_below_a_file_raises_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(EnvironmentProblem, match="A file is in the way"):
        RunDirectory(tmp_path / "runs" / "owl").create()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "a folder you own"),
        (errno.EACCES, "a folder you own"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_create_when_the_system_refuses_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(EnvironmentProblem, match=advice):
        RunDirectory(tmp_path / "owl").create()


def test_write_json_round_trips(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json("run.json", {"best": math.inf, "path": Path("a")})
    assert directory.read_json("run.json") == {"best": math.inf, "path": "a"}


def test_update_json_keeps_other_keys(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.update_json("run.json", a=1)
    directory.update_json("run.json", b=2)
    assert directory.read_json("run.json") == {"a": 1, "b": 2}


def test_read_json_without_a_file_is_none(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).read_json("run.json") is None


@pytest.mark.parametrize("text", ["{half", "[1]"])
def test_read_json_of_something_else_raises(tmp_path: Path, text: str) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_text("run.json", text)
    with pytest.raises(EnvironmentProblem, match="Expected one JSON object"):
        directory.read_json("run.json")


def test_write_text_that_fails_keeps_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_text("a.txt", "old")

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        directory.write_text("a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_write_text_below_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("")
    with pytest.raises(EnvironmentProblem, match="A file is in the way"):
        RunDirectory(tmp_path).write_text("figures/a.txt", "x")


def test_paths_lie_in_the_directory(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    assert directory.stop_file == tmp_path / "STOP"
    assert directory.events_path.name == "events.jsonl"
    assert str(tmp_path) in repr(directory)
