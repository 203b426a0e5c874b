"""The second tier: verified copies that nobody waits for, and the way back."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import nn

import nbutils as nb
from nbutils.checkpoint import fetch as fetch_module
from nbutils.checkpoint import mirror as mirror_module
from nbutils.checkpoint.fetch import Fetcher
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.mirror import Mirror
from nbutils.checkpoint.snapshot import collect
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.tier import Tier
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
    "save_every_steps": 2,
}


class StopAt(nb.Callback):
    def __init__(self, step: int = 7) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


def run(task: nb.Task, mirror: str | None, *callbacks: Any, **more: Any) -> Any:
    settings = {**SETTINGS, "run_name": "named", "mirror": mirror, **more}
    return nb.TrainingCoordinator(task, callbacks=callbacks, **settings).train()


def messages(folder: str | Path = "runs/named") -> list[str]:
    events = read_events(Path(folder) / "events.jsonl")
    return [event["text"] for event in events if event["kind"] == "message"]


class FakeFileSystem(MemoryFileSystem):
    """Memory that hangs, fails or alters what it is given."""

    protocol = "fake"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    gate = threading.Event()
    num_failures = 0
    alters = False
    cuts = False
    num_puts = 0

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        cls = type(self)
        cls.num_puts += 1
        self.gate.wait(20)
        if cls.num_failures:
            cls.num_failures -= 1
            raise ConnectionError(f"no route, attempt {cls.num_puts}")
        super().put_file(lpath, rpath, *args, **kwargs)
        if cls.cuts:
            self.pipe_file(rpath, self.cat_file(rpath)[:-1])
        if cls.alters and str(rpath).endswith("state.pt"):
            data = bytearray(self.cat_file(rpath))
            data[100] ^= 1
            self.pipe_file(rpath, bytes(data))


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(mirror_module, "BACKOFF_S", 0.01)


@pytest.fixture
def fake() -> Iterator[type[FakeFileSystem]]:
    """A healthy fake; tests spoil it."""
    fsspec.register_implementation("fake", FakeFileSystem, clobber=True)
    FakeFileSystem.store.clear()
    FakeFileSystem.pseudo_dirs[:] = [""]
    FakeFileSystem.gate.set()
    FakeFileSystem.num_failures = FakeFileSystem.num_puts = 0
    FakeFileSystem.alters = FakeFileSystem.cuts = False
    yield FakeFileSystem
    FakeFileSystem.gate.set()


@pytest.fixture
def memory() -> Iterator[str]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield "memory://bucket"
    MemoryFileSystem.store.clear()


def names(url: str) -> list[str]:
    return Tier(url, "named").names()


@pytest.mark.parametrize("url", ["drive", "memory://bucket", "fake://bucket"])
def test_fresh_machine_continues_from_the_mirror(
    url: str, memory: str, fake: type[FakeFileSystem]
) -> None:
    whole, stopped, resumed = make_task(), make_task(), make_task()
    run(whole, None, run_name="whole")
    first = run(stopped, url, StopAt())
    run_id = json.loads((first.run_dir / "run.json").read_text())["run_id"]
    shutil.rmtree("runs/named")
    second = run(resumed, url)
    assert second.steps == 15
    assert_same(weights(whole), weights(resumed))
    assert any("step-00000007 was fetched from" in text for text in messages())
    record = json.loads((second.run_dir / "run.json").read_text())
    assert record["run_id"] == run_id  # the tracker goes on with the same run
    starts = [e for e in read_events("runs/named/events.jsonl") if "planned_steps" in e]
    assert [event["step"] for event in starts] == [0, 7]
    assert len(second.history) == 3
    assert names(url)[-2:] == ["step-00000015", "best"]
    there = Tier(url, "named").read_json("run.json")
    assert there["status"] == "finished"


def test_folder_mirror_is_a_run_directory_itself() -> None:
    result = run(make_task(), "drive")
    copy = Path("drive/named")
    found = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert found[0] == "best"
    assert found[-1] == "step-00000015"
    for name in found:
        assert read_checkpoint(copy / "checkpoints" / name).step
    assert not (copy / "checkpoints/best/state.pt").samefile(
        result.run_dir / "checkpoints/best/state.pt"
    )
    longer = make_task()
    again = nb.TrainingCoordinator(
        longer, run_dir=copy, **{**SETTINGS, "epochs": 4}
    ).train()
    assert again.steps == 20


def test_resume_training_fetches_as_well(memory: str) -> None:
    run(make_task(), memory, StopAt())
    shutil.rmtree("runs")
    coordinator = nb.TrainingCoordinator(
        make_task(), run_name="named", mirror=memory, **SETTINGS
    )
    assert coordinator.resume_training().steps == 15
    assert any(
        event["kind"] == "resume" for event in read_events("runs/named/events.jsonl")
    )


def test_nothing_whole_here_is_rescued_from_the_mirror() -> None:
    whole, resumed = make_task(), make_task()
    run(whole, None, run_name="whole")
    run(make_task(), "drive", StopAt())
    for state in Path("runs/named/checkpoints").glob("*/state.pt"):
        state.write_bytes(b"")
    run(resumed, "drive")
    assert_same(weights(whole), weights(resumed))
    assert any("step-00000007 was fetched from" in text for text in messages())


def test_damaged_copy_is_told_and_the_next_one_is_taken() -> None:
    whole, resumed = make_task(), make_task()
    run(whole, None, run_name="whole")
    run(make_task(), "drive", StopAt())
    Tier("drive", "named").put(
        Path("runs/named/checkpoints/step-00000006"), "step-00000006"
    )
    shutil.rmtree("runs/named")
    path = Path("drive/named/checkpoints/step-00000007/model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    run(resumed, "drive")
    assert_same(weights(whole), weights(resumed))
    assert any("has no whole step-00000007" in text for text in messages())
    assert any("step-00000006 was fetched from" in text for text in messages())


def test_mirror_that_hangs_does_not_hold_training_up(
    fake: type[FakeFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module.Mirror.finish, "__defaults__", (0.2,))
    fake.gate.clear()
    result = run(make_task(), "fake://bucket")
    assert result.stop_reason == "completed"
    (told,) = [text for text in messages() if "did not answer in time" in text]
    assert "step-00000015" in told
    fake.gate.set()


def test_mirror_that_fails_is_told_once_and_training_goes_on(
    fake: type[FakeFileSystem],
) -> None:
    fake.num_failures = 10**6
    assert run(make_task(), "fake://bucket").stop_reason == "completed"
    (told,) = [text for text in messages() if "did not take" in text]
    assert "ConnectionError: no route" in told


def test_mirror_that_fails_twice_is_tried_again(fake: type[FakeFileSystem]) -> None:
    fake.num_failures = 2
    run(make_task(), "fake://bucket", epochs=1, save_every_steps=None)
    assert names("fake://bucket") == ["step-00000005", "best"]
    assert not [text for text in messages() if "mirror" in text]


def test_mirror_that_alters_what_it_gets_is_found_out(
    fake: type[FakeFileSystem],
) -> None:
    fake.alters = True
    run(make_task(), "fake://bucket", epochs=1)
    (told,) = [text for text in messages() if "did not take" in text]
    assert "state.pt was altered on its way there" in told


def test_mirror_that_cuts_what_it_gets_is_found_out(
    fake: type[FakeFileSystem],
) -> None:
    fake.cuts = True
    (path,) = snapshots(CheckpointStore(Path("named")), 1)
    with pytest.raises(nb.CheckpointError, match=r"has \d+ bytes there, \d+ here"):
        Tier("fake://bucket", "named").put(path, path.name)


def test_mirror_in_the_way_of_a_file_is_told() -> None:
    Path("drive").write_text("a file")
    assert run(make_task(), "drive").stop_reason == "completed"
    assert any("mirror" in text and "drive" in text for text in messages())


def test_run_of_another_task_is_neither_fetched_nor_overwritten(memory: str) -> None:
    run(make_task(), memory, epochs=1)
    before = names(memory)
    shutil.rmtree("runs")
    x = torch.randn(16, 3)
    other = nb.Task(nn.Linear(3, 3), nn.MSELoss(), (x, x))
    assert run(other, memory, epochs=1).steps == 2
    assert any("holds a run of another task" in text for text in messages())
    assert any("another run (id" in text for text in messages())
    assert names(memory) == before


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("nowhere://bucket/x", "cannot be reached from here"),
        ("ftp://me:secret@host/x", "holds a password"),
    ],
)
def test_mirror_that_cannot_be_is_refused_before_training(
    mirror: str, expected: str
) -> None:
    with pytest.raises(nb.ConfigError, match=expected) as caught:
        run(make_task(), mirror)
    assert "secret" not in str(caught.value)
    assert not Path("runs").exists()


def test_quick_train_leaves_the_mirror_alone() -> None:
    coordinator = nb.TrainingCoordinator(
        make_task(), run_name="named", mirror="drive", **SETTINGS
    )
    coordinator.quick_train(2)
    assert not Path("drive").exists()


def snapshots(store: CheckpointStore, *steps: int) -> list[Path]:
    return [store.publish(collect(step, nn.Linear(2, 2), {})) for step in steps]


def make_mirror(url: str) -> tuple[Mirror, CheckpointStore]:
    folder = Path("named")
    folder.mkdir()
    mirror = Mirror(Tier(url, "named"), folder, keep_last=2)
    store = CheckpointStore(folder / "checkpoints", keep_last=1)
    store.held = mirror.held
    return mirror, store


def test_newest_wins_and_what_is_copied_is_not_pruned(
    fake: type[FakeFileSystem],
) -> None:
    fake.gate.clear()
    mirror, store = make_mirror("fake://bucket")
    for step in (1, 2, 3):
        mirror.offer(*snapshots(store, step), is_best=step == 2)
        deadline = time.monotonic() + 5
        while fake.num_puts == 0 and time.monotonic() < deadline:
            time.sleep(0.005)  # until the first copy is under way
    assert mirror.held() == {f"step-0000000{step}" for step in (1, 2, 3)}
    assert len(store.steps()) == 3  # keep_last is 1; the others are still read
    fake.gate.set()
    mirror.finish(print)
    assert names("fake://bucket") == ["step-00000001", "step-00000003", "best"]
    assert Tier("fake://bucket", "named").fetch("best", Path()).name == "best"
    assert read_checkpoint(Path("best")).step == 2
    snapshots(store, 4)
    assert [path.name for path in store.steps()] == ["step-00000004"]


def test_prune_keeps_the_newest_and_drops_what_was_rewound(memory: str) -> None:
    tier = Tier(memory, "named")
    store = CheckpointStore(Path("named"), keep_last=9)
    for path in snapshots(store, 10, 20, 30, 100000000):
        tier.put(path, path.name)
    tier.prune(newest=100000000, keep_last=3)
    assert tier.names() == ["step-00000020", "step-00000030", "step-100000000"]
    tier.prune(newest=30, keep_last=1)
    assert tier.names() == ["step-00000030"]


def test_put_of_what_is_there_sends_nothing(fake: type[FakeFileSystem]) -> None:
    tier = Tier("fake://bucket", "named")
    (path,) = snapshots(CheckpointStore(Path("named")), 1)
    tier.put(path, path.name)
    num_puts = fake.num_puts
    tier.put(path, path.name)
    assert fake.num_puts == num_puts == 3


def test_interrupt_ends_the_wait_and_nothing_else(
    fake: type[FakeFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.gate.clear()
    mirror, store = make_mirror("fake://bucket")
    mirror.offer(*snapshots(store, 1), is_best=False)

    def interrupted(_timeout_s: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "_wait", interrupted)
    told: list[str] = []
    mirror.finish(told.append)
    assert told[0] == "the wait was interrupted"
    assert "was left behind" in told[1]
    fake.gate.set()


def test_mirror_that_does_not_answer_at_the_start_is_told(
    monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    release = threading.Event()
    monkeypatch.setattr(fetch_module, "ANSWER_S", 0.05)
    monkeypatch.setattr(Fetcher, "_look", lambda _self: release.wait(5))
    mirror, _ = make_mirror(memory)
    mirror.fetcher.restore(lambda: "fingerprint")
    release.set()
    assert "no answer in 0.05 s" in mirror.news[0]


def test_mirror_works_again_is_told(fake: type[FakeFileSystem]) -> None:
    mirror, store = make_mirror("fake://bucket")
    fake.num_failures = 3
    mirror.offer(*snapshots(store, 1), is_best=False)
    assert mirror._wait(5)
    told: list[str] = []
    mirror.finish(told.append)
    assert "did not take" in told[0]
    assert "works again" in told[1]
