"""Law 4: a published checkpoint is whole, or it is not there."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint import store as store_module
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.rng import collect_rng, restore_rng
from nbutils.checkpoint.snapshot import Snapshot, collect, load_weights, restore
from nbutils.checkpoint.store import CheckpointStore


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def snapshot(step: int) -> Snapshot:
    torch.manual_seed(step)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return collect(step, model, {"optimizer": optimizer})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2, report=lambda _: None)


def test_store_round_trip_is_bit_exact(store: CheckpointStore) -> None:
    saved = snapshot(1)
    store.publish(saved)
    loaded = store.latest()
    assert loaded is not None
    assert loaded.step == 1
    assert all(torch.equal(saved.weights[k], v) for k, v in loaded.weights.items())
    moments = loaded.state["parts"]["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(
        moments, saved.state["parts"]["optimizer"]["state"][0]["exp_avg"]
    )


def test_store_keeps_the_newest_by_step_and_the_best(store: CheckpointStore) -> None:
    for step in (3, 1, 2, 100000000, 20):
        store.publish(snapshot(step), is_best=step == 1)
    assert [p.name for p in store.steps()] == ["step-00000020", "step-100000000"]
    assert store.best().step == 1
    assert not list(store.folder.glob(".*"))


@pytest.mark.parametrize("name", ["best", "step-00000001"])
def test_store_killed_between_the_renames_finds_the_old_one(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store.publish(snapshot(1), is_best=True)

    def killed(source: Path, target: Path) -> None:
        if target.name == name:
            raise KeyboardInterrupt
        Path(source).rename(target)

    monkeypatch.setattr(store_module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.publish(snapshot(1), is_best=True)
    monkeypatch.undo()
    assert not (store.folder / name).exists()
    latest = store.latest()
    assert latest is not None
    assert latest.path.name == "step-00000001"
    assert store.best().step == 1
    assert not list(store.folder.glob(".*.old"))


def test_store_same_step_again_replaces_it(store: CheckpointStore) -> None:
    store.publish(snapshot(1))
    store.publish(snapshot(1))
    assert len(store.steps()) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_store_broken_newest_falls_back_loudly(
    tmp_path: Path, name: str, damage: str
) -> None:
    told: list[str] = []
    store = CheckpointStore(tmp_path, keep_last=2, report=told.append)
    for step in (1, 2):
        store.publish(snapshot(step))
    path = tmp_path / "step-00000002" / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 3] ^= 0x10
        path.write_bytes(data)
    else:
        path.unlink()
    loaded = store.latest()
    assert loaded is not None
    assert loaded.step == 1
    assert any("step-00000002 is broken" in text for text in told)
    assert any("falling back to step-00000001" in text for text in told)
    store.publish(snapshot(3))
    assert [p.name for p in store.steps()] == ["step-00000001", "step-00000003"]


def test_store_nothing_whole_lists_every_reason(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, report=lambda _: None)
    store.publish(snapshot(1))
    (tmp_path / "step-00000001" / "state.pt").write_bytes(b"x")
    with pytest.raises(nb.CheckpointError, match=r"truncated: 1 bytes, expected"):
        store.latest()


def test_store_empty_has_no_latest_and_no_best(store: CheckpointStore) -> None:
    assert store.latest() is None
    with pytest.raises(nb.CheckpointError, match="does not exist"):
        store.best()


def test_store_disk_too_small_writes_and_deletes_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(snapshot(1))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        store_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100)
    )
    with pytest.raises(nb.CheckpointError, match="GB free; the checkpoint needs"):
        store.publish(snapshot(2))
    assert [p.name for p in store.steps()] == ["step-00000001"]


def test_store_write_that_fails_leaves_the_older_one(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(snapshot(1))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_files", full_disk)
    with pytest.raises(nb.CheckpointError, match="No space left on device"):
        store.publish(snapshot(2))
    monkeypatch.undo()
    loaded = store.latest()
    assert loaded is not None
    assert loaded.step == 1
    assert not list(store.folder.glob(".*"))


def test_store_state_that_needs_a_pickle_is_refused(store: CheckpointStore) -> None:
    class Custom:
        pass

    bad = Snapshot(1, {"w": torch.ones(1)}, {}, {"parts": {"o": Path("x")}})
    with pytest.raises(nb.CheckpointError, match="cannot be loaded back safely"):
        store.publish(bad)
    assert store.steps() == []


def test_manifest_of_another_format_is_refused(store: CheckpointStore) -> None:
    path = store.publish(snapshot(1))
    (path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(nb.CheckpointError, match="no checkpoint of format"):
        read_checkpoint(path)


def test_snapshot_tied_weights_come_back_tied(store: CheckpointStore) -> None:
    model = Tied()
    store.publish(collect(1, model, {}))
    loaded = store.latest()
    assert loaded is not None
    twin = Tied()
    restore(loaded.weights, loaded.state, twin, {})
    assert torch.equal(twin.head.weight, model.embed.weight)
    assert twin.head.weight is twin.embed.weight


def test_snapshot_is_a_copy_not_a_view() -> None:
    model = nn.Linear(2, 2)
    taken = collect(1, model, {})
    kept = taken.weights["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(taken.weights["weight"], kept)


def test_load_weights_other_model_lists_what_differs() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(nb.CheckpointError, match=r"weight is \(3, 2\) on disk"):
        load_weights(model, {"weight": torch.ones(3, 2), "other": torch.ones(1)})
    assert torch.equal(model.weight, before)


def test_rng_round_trip_repeats_every_generator() -> None:
    import random

    import numpy as np

    state = collect_rng()
    first = (random.random(), np.random.rand(), torch.rand(2).tolist())
    restore_rng(state)
    assert first == (random.random(), np.random.rand(), torch.rand(2).tolist())


def test_store_prunes_what_is_no_longer_held(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.held = lambda: {"step-00000001"}
    for step in (1, 2, 3):
        store.publish(snapshot(step))
    assert [p.name for p in store.steps()] == ["step-00000001", "step-00000003"]
    store.held = set
    store.publish(snapshot(4))
    assert [p.name for p in store.steps()] == ["step-00000004"]


def test_store_old_one_that_cannot_be_removed_is_told_and_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    store = CheckpointStore(tmp_path, keep_last=1, report=told.append)
    store.publish(snapshot(1))

    def locked(folder: Path) -> None:
        raise PermissionError(13, "in use", str(folder))

    monkeypatch.setattr(store_module, "_remove", locked)
    assert store.publish(snapshot(2)).is_dir()
    assert told
    assert "step-00000001 is no longer needed and stays" in told[0]


def test_store_rewound_run_publishes_below_what_was_set_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2, report=lambda _: None)
    for step in (8, 10):
        store.publish(snapshot(step))
    (tmp_path / "step-00000010" / "state.pt").unlink()
    loaded = store.latest()
    assert loaded is not None
    assert loaded.step == 8
    for step in (9, 10):
        store.publish(snapshot(step))
    assert [p.name for p in store.steps()] == ["step-00000009", "step-00000010"]
    again = store.latest()
    assert again is not None
    assert again.step == 10


def test_store_space_of_present_ones_counts_where_that_is_asked(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(snapshot(1), is_best=True)
    present = sum(f.stat().st_size for f in store.folder.glob("*/*"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        store_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100)
    )
    store.ensure_space(int(present / 1.05), counts_present=True)
    with pytest.raises(nb.CheckpointError, match="GB free"):
        store.ensure_space(int(present / 1.05))


def test_store_tidy_removes_leftovers_alone(store: CheckpointStore) -> None:
    store.publish(snapshot(1), is_best=True)
    for name in (".step-00000002.partial", ".step-00000000.gone", ".best.old"):
        (store.folder / name).mkdir()
    store.tidy()
    found = sorted(path.name for path in store.folder.iterdir())
    assert found == ["best", "step-00000001"]
