"""A disk is tried with a file that leaves nothing behind."""

import os
import time
from pathlib import Path

import pytest

from nbutils.environment import disk
from nbutils.environment.disk import filesystem_of, future_file, try_disk

NOW_S = 1_800_000_000.0


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    monkeypatch.setattr(disk, "_known", {})


def test_try_disk_measures_speed_and_clock_and_leaves_nothing(tmp_path):
    start_s = time.perf_counter()
    trial = try_disk(tmp_path)
    assert time.perf_counter() - start_s < 5  # a third of a second on a quiet disk
    assert trial.write_bytes_per_s > 2**16
    assert abs(trial.clock_skew_s) < 60
    assert list(tmp_path.iterdir()) == []


def test_try_disk_writes_no_more_than_64_mib(tmp_path, monkeypatch):
    written = []
    real = disk.os.fsync
    monkeypatch.setattr(disk, "MAX_TRIAL_S", 60.0)
    monkeypatch.setattr(
        disk.os, "fsync", lambda fd: (written.append(os.fstat(fd).st_size), real(fd))
    )
    try_disk(tmp_path)
    assert written[0] == disk.MIB
    assert written[-1] == disk.MAX_TRIAL_BYTES


def test_try_disk_with_little_room_writes_little(tmp_path, monkeypatch):
    sizes = []
    real = disk.os.fsync
    monkeypatch.setattr(disk, "ROOM_FOR_TRIAL_BYTES", 2**60)
    monkeypatch.setattr(
        disk.os, "fsync", lambda fd: (sizes.append(os.fstat(fd).st_size), real(fd))
    )
    try_disk(tmp_path)
    assert sizes[-1] <= disk.SMALL_TRIAL_BYTES


def test_try_disk_is_done_once_for_a_disk(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    assert try_disk(tmp_path) is try_disk(tmp_path / "other")


def test_try_disk_that_refuses_raises_and_is_asked_again(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(OSError, match="quota"):
        try_disk(tmp_path)
    assert disk._known == {}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_filesystem_is_that_of_the_innermost_mount(tmp_path):
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(tmp_path) != "proc"


def test_future_file_is_found_and_near_ones_are_not(tmp_path):
    later, soon = tmp_path / "later", tmp_path / "soon"
    for path, ahead_s in ((later, 3600), (soon, 5)):
        path.touch()
        os.utime(path, (NOW_S + ahead_s, NOW_S + ahead_s))
    folders = [tmp_path / "absent", tmp_path]
    assert future_file(folders, NOW_S) == str(later)
    later.unlink()
    assert future_file(folders, NOW_S) == ""


def test_future_file_a_clock_that_went_back_is_seen_by_our_own_files():
    assert future_file([], now_s=86400.0).endswith("disk.py")
    assert future_file([]) == ""
