"""Law 4: what is published is whole; order is by number; best is a copy."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_laws import (
    StopAt,
    assert_equal,
    assert_whole,
    copied,
    events_of,
    fresh_dir,
    law,
    net,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import nbutils as nb

OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 5, "lr": 0.05}


def make_task() -> nb.Task:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    return nb.Task(net(), nn.CrossEntropyLoss(), (x, y), (x[:8], y[:8]))


def published(run_dir: Path) -> list[Path]:
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


class Reader:
    """Another program that looks into the folder while training goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.broken: list[str] = []
        self.num_whole = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.is_set():
            if self.folder.exists():
                for entry in os.scandir(self.folder):
                    if entry.name.startswith("step-") or entry.name == "best":
                        self._judge(Path(entry.path))
            time.sleep(0.0005)

    def _judge(self, path: Path) -> None:
        place = _place(path)
        try:
            assert_whole(path)
            self.num_whole += 1
        except (OSError, AssertionError, ValueError) as error:
            # pruned or replaced under our eyes is fine; there and in part is not
            if place is not None and _place(path) == place:
                self.broken.append(f"{path.name}: {error!r}")


def _place(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def test_reader_of_the_folder_never_sees_a_part_of_a_checkpoint() -> None:
    folder = fresh_dir()
    with Reader(folder / "checkpoints") as reader:
        train(make_task(), folder, **{**OPTIONS, "epochs": 15}, save_every_steps=1)
    assert reader.broken == []
    assert reader.num_whole > 20


@law(6)
@given(keep=st.integers(1, 4), every=st.integers(1, 5))
def test_newest_are_kept_and_they_are_whole(keep: int, every: int) -> None:
    folder = fresh_dir()
    options = {**OPTIONS, "keep_last": keep, "save_every_steps": every}
    train(make_task(), folder, **options, save_every_epochs=None)
    found = published(folder)
    assert len(found) <= keep
    assert step_of(found[-1]) == 12
    for path in [*found, folder / "checkpoints" / "best"]:
        assert_whole(path)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best", *(path.name for path in found)}


def test_order_is_by_step_number_not_by_name_or_time() -> None:
    class Jump(nb.Callback):
        def on_epoch_end(self, state: Any) -> None:
            if state.epoch == 1:
                state.step = 99_999_995  # nine digits are reached in epoch 3

    folder = fresh_dir()
    options = {**OPTIONS, "keep_last": 3, "save_every_steps": 1}
    train(make_task(), folder, Jump(), **options)
    steps = [step_of(path) for path in published(folder)]
    assert steps == [100_000_001, 100_000_002, 100_000_003]
    train(make_task(), folder, **{**OPTIONS, "keep_last": 9, "epochs": 4})
    names = sorted(path.name for path in published(folder))
    assert names[0] == "step-100000001"  # nothing old had outlived the newer ones
    assert step_of(published(folder)[-1]) == 100_000_007


def test_time_stamps_do_not_decide_which_is_newest() -> None:
    folder = fresh_dir()
    train(make_task(), folder, StopAt(7), **OPTIONS)
    oldest, newest = published(folder)
    for path in [oldest, *oldest.iterdir()]:
        os.utime(path, (2e9, 2e9))
    for path in [newest, *newest.iterdir()]:
        os.utime(path, (1, 1))
    train(make_task(), folder, **OPTIONS)
    (event,) = events_of(folder, "resume")
    assert event["step"] == step_of(newest) == 7


def test_best_is_a_copy_and_outlives_pruning() -> None:
    folder = fresh_dir()
    options = {**OPTIONS, "epochs": 8, "mode": "max", "keep_last": 1}
    result = train(make_task(), folder, **options)
    best = folder / "checkpoints" / "best"
    assert_whole(best)
    assert not best.is_symlink()
    assert result.best["step"] < result.steps  # else this test shows nothing
    task = make_task()
    coordinator = nb.TrainingCoordinator(task, run_dir=folder, **options)
    loss = coordinator.evaluate("val", weights="best")["loss"]
    assert loss == pytest.approx(result.history["val_loss"].max())


def test_best_shares_no_file_with_the_checkpoint_it_was_made_from() -> None:
    folder = fresh_dir()
    result = train(make_task(), folder, **OPTIONS, keep_last=50)
    best, step = folder / "checkpoints" / "best", int(result.best["step"])
    assert step in [step_of(path) for path in published(folder)]
    # else damage to one would be damage to the other
    assert all(path.stat().st_nlink == 1 for path in best.iterdir())


def test_checkpoint_holds_plain_values_and_the_weights_of_the_model() -> None:
    folder, task = fresh_dir(), make_task()
    train(task, folder, **OPTIONS, ema_decay=0.9, optimizer="adam")
    newest = published(folder)[-1]
    assert_equal(
        dict(sorted(load_file(newest / "model.safetensors").items())),
        dict(sorted(copied(task.model).items())),
    )
    state = torch.load(newest / "state.pt", weights_only=True)
    assert {"optimizer", "schedule", "state"} <= set(state["parts"])


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors", "manifest.json"])
def test_damaged_newest_is_told_and_the_one_before_is_used(file: str) -> None:
    whole_dir, folder = fresh_dir(), fresh_dir()
    train(make_task(), whole_dir, **OPTIONS)
    train(make_task(), folder, StopAt(10), **OPTIONS)
    target = published(folder)[-1] / file
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 0x10
    target.write_bytes(content)
    task, whole = make_task(), make_task()
    train(task, folder, **OPTIONS)
    train(whole, whole_dir, **OPTIONS)
    assert_equal(copied(task.model), copied(whole.model))
    told = " ".join(event["text"] for event in events_of(folder, "message"))
    assert "step-00000010 is broken" in told
    assert events_of(folder, "resume")[-1]["step"] == 8


def test_pickle_of_a_stranger_is_never_executed() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path("sprung").touch, ())

    folder = fresh_dir()
    train(make_task(), folder, StopAt(6), **OPTIONS)
    for path in [*published(folder), folder / "checkpoints" / "best"]:
        torch.save(Trap(), path / "state.pt")
        manifest = path / "manifest.json"
        _forge(manifest, path / "state.pt")
        assert_whole(path)
    with pytest.raises(nb.CheckpointError, match=r"no checkpoint .* is whole"):
        train(make_task(), folder, **OPTIONS)
    assert not Path("sprung").exists()


def _forge(manifest: Path, file: Path) -> None:
    """Make the manifest vouch for an altered file."""
    import hashlib
    import json

    content = json.loads(manifest.read_text())
    data = file.read_bytes()
    content["files"][file.name] |= {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    manifest.write_text(json.dumps(content))


def test_checkpoint_event_comes_only_once_it_is_on_disk() -> None:
    folder, seen = fresh_dir(), []

    class Look(nb.Callback):
        def on_checkpoint(self, state: Any) -> None:
            assert_whole(Path(state.checkpoint["path"]))
            assert threading.current_thread() is threading.main_thread()
            seen.append(Path(state.checkpoint["path"]).name)

    train(make_task(), folder, Look(), **OPTIONS, save_every_steps=3, keep_last=50)
    assert seen == sorted(seen)
    assert set(seen) == {path.name for path in published(folder)}
    assert {"step-00000003", "step-00000006", "step-00000012"} <= set(seen)
