"""A disk that fills up, or takes nothing at all: told, nothing lost, and resumable.

On Linux, as root, the disk is a real one: a small tmpfs. Elsewhere these tests skip,
and those that put the system's own error in the way remain.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint import hashed, store
from nbutils.checkpoint.files import read_checkpoint
from nbutils.testing import assert_same

DISK_BYTES = 24 << 20
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
    "save_every_steps": 2,
    "optimizer": "sgd",
}
IN_BACKGROUND = pytest.mark.parametrize("in_background", [True, False])


def make_task() -> nb.Task:
    """One checkpoint takes 2.6 MB: weights and momentum."""
    torch.manual_seed(0)
    x = torch.randn(40, 16)
    model = nn.Sequential(nn.Linear(16, 9600), nn.ReLU(), nn.Linear(9600, 16))
    return nb.Task(model, nn.MSELoss(), (x, x.flip(1)))


def run(task: nb.Task, folder: Path, *callbacks: Any, **more: Any) -> nb.TrainResult:
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **{**SETTINGS, **more}
    ).train()


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    try:
        mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this system mounts no tmpfs: {error}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Take all but ``leave`` bytes of the disk."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        while (free := shutil.disk_usage(place).free) > leave:
            try:
                file.write(b"\0" * min(free - leave, 1 << 20))
            except OSError:  # a save that is under way was quicker
                break
    return filler


class FillAt(nb.Callback):
    """Someone else fills the disk after a step."""

    def __init__(self, step: int, leave: int) -> None:
        self.step = step
        self.leave = leave

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            wait_for_writer(Path(state.run_dir) / "checkpoints")
            fill(Path(state.run_dir).parent, self.leave)


def wait_for_writer(folder: Path, seconds: float = 20) -> None:
    """Until the save of an earlier step is published, which the filler would break."""
    until = time.monotonic() + seconds
    while list(folder.glob(".*")) or not list(folder.glob("step-*")):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, torch.Tensor]:
    task = make_task()
    run(task, tmp_path / "whole")
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def assert_resumes(disk: Path, expected: dict[str, torch.Tensor]) -> None:
    """What is there is whole; with space again, the run ends as if nothing happened."""
    found = sorted((disk / "run" / "checkpoints").glob("step-*"))
    assert found
    assert all(read_checkpoint(path).step for path in found)
    (disk / "filler").unlink()
    resumed = make_task()
    result = run(resumed, disk / "run")
    assert result.steps == 10
    assert_same(resumed.model.state_dict(), expected)
    assert not list((disk / "run" / "checkpoints").glob(".*"))


@IN_BACKGROUND
def test_disk_too_full_for_a_save_is_told_before_it_writes(
    disk: Path, expected: dict[str, torch.Tensor], in_background: bool
) -> None:
    with pytest.raises(
        nb.CheckpointError, match=r"GB free; the checkpoint needs .* Free some space"
    ):
        run(
            make_task(),
            disk / "run",
            FillAt(5, leave=1 << 20),
            save_in_background=in_background,
        )
    assert_resumes(disk, expected)


@IN_BACKGROUND
@pytest.mark.parametrize("leave", [1 << 20, 64 << 10, 0])
def test_disk_that_fills_between_the_check_and_the_write(
    disk: Path,
    expected: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    in_background: bool,
    leave: int,
) -> None:
    check = store.CheckpointStore.ensure_space

    def check_then_fill(self: Any, num_bytes: int, **options: Any) -> None:
        check(self, num_bytes, **options)
        if (disk / "run" / "checkpoints" / "step-00000004").exists():
            fill(disk, leave)

    monkeypatch.setattr(store.CheckpointStore, "ensure_space", check_then_fill)
    with pytest.raises(nb.CheckpointError, match="No space left on device") as caught:
        run(make_task(), disk / "run", save_in_background=in_background)
    monkeypatch.undo()
    assert "could not be saved" in str(caught.value)
    assert "GB free; the save needs" in str(caught.value)
    assert "it resumes" in str(caught.value)
    assert_resumes(disk, expected)


def test_disk_too_small_for_the_run_is_told_before_the_first_step(disk: Path) -> None:
    fill(disk, leave=4 << 20)
    steps: list[int] = []

    class Count(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            steps.append(state.step)

    with pytest.raises(nb.CheckpointError, match="lower keep_last"):
        run(make_task(), disk / "run", Count())
    assert not steps


def test_resume_counts_what_its_checkpoints_take_already(disk: Path) -> None:
    run(make_task(), disk / "run", epochs=1)
    fill(disk, leave=9 << 20)  # enough for what is to come, not for all anew
    assert run(make_task(), disk / "run", epochs=2).steps == 10


def lock(folder: Path) -> None:
    """Make a folder read-only, for root as well."""
    mount("--bind", str(folder), str(folder))
    for _ in range(200):
        try:
            return mount("-o", "remount,bind,ro", str(folder))
        except subprocess.CalledProcessError:  # busy: a save has a file open
            time.sleep(0.01)
    raise AssertionError(f"{folder} stayed writable")


def unlock(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@IN_BACKGROUND
def test_folder_that_becomes_read_only_is_told_and_what_is_there_is_whole(
    disk: Path, expected: dict[str, torch.Tensor], in_background: bool
) -> None:
    folder = disk / "run" / "checkpoints"

    class Lock(nb.Callback):
        def on_checkpoint(self, state: Any) -> None:
            if state.checkpoint["step"] == 4:
                lock(folder)

    with pytest.raises(
        nb.CheckpointError, match=r"could not be saved .*Read-only file system"
    ):
        run(make_task(), disk / "run", Lock(), save_in_background=in_background)
    unlock(folder)
    fill(disk, leave=9 << 20)
    assert_resumes(disk, expected)


def test_read_only_run_folder_is_told_before_the_first_step(disk: Path) -> None:
    (disk / "run").mkdir()
    lock(disk / "run")
    try:
        with pytest.raises(nb.EnvironmentProblem, match=r"cannot be used: Read-only"):
            run(make_task(), disk / "run")
    finally:
        unlock(disk / "run")


@IN_BACKGROUND
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_write_error_names_the_step_the_cause_and_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, in_background: bool
) -> None:
    folder = tmp_path / "run"
    finish = hashed.HashedFile.finish

    def broken(self: hashed.HashedFile) -> hashed.Stated:
        if (folder / "checkpoints" / "step-00000002").exists():
            raise OSError(number, os.strerror(number))
        return finish(self)

    monkeypatch.setattr(hashed.HashedFile, "finish", broken)
    with pytest.raises(
        nb.CheckpointError, match=r"step \d+ could not be saved"
    ) as caught:
        run(make_task(), folder, save_in_background=in_background)
    monkeypatch.undo()
    assert os.strerror(number) in str(caught.value)
    assert "GB free" in str(caught.value)
    assert read_checkpoint(folder / "checkpoints" / "step-00000002").step == 2
    assert run(make_task(), folder).steps == 10


def test_error_of_a_callback_is_not_replaced_by_that_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")

    class FailAt(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 1:
                monkeypatch.setattr(
                    store.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100)
                )
            if state.step == 3:
                raise ZeroDivisionError("mine")

    # the save of step 2 fails in its thread while the callback's error is under way
    with pytest.raises((ZeroDivisionError, nb.CheckpointError)) as caught:
        run(make_task(), tmp_path / "run", FailAt())
    if isinstance(caught.value, ZeroDivisionError):
        events = (tmp_path / "run" / "events.jsonl").read_text()
        assert "the checkpoint needs" in events
