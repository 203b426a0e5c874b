"""Saves written beside the loop: exact, told in the loop's thread, never lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint import publisher as publisher_module
from nbutils.checkpoint import writer as writer_module
from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.hostcopy import HostBuffers
from nbutils.checkpoint.snapshot import Snapshot
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.writer import BackgroundWriter
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.state import RunState

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
    "save_every_steps": 2,
}


def run(task: nb.Task, folder: str, *callbacks: Any, **more: Any) -> nb.TrainResult:
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **{**SETTINGS, **more}
    ).train()


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("nbutils")]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make each publication take so many seconds more."""

    def set_up(seconds: float) -> None:
        publish = CheckpointStore.publish

        def slowly(self: Any, snapshot: Snapshot, **options: Any) -> Path:
            time.sleep(seconds)
            return publish(self, snapshot, **options)

        monkeypatch.setattr(CheckpointStore, "publish", slowly)

    return set_up


class Listener(nb.Callback):
    """Where and when it was told of checkpoints."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, str]] = []
        self.is_over = False

    def on_checkpoint(self, state: Any) -> None:
        assert not self.is_over
        step = state.checkpoint["step"]
        assert (Path(state.checkpoint["path"]) / "manifest.json").exists()
        self.heard.append((step, state.step, threading.current_thread().name))

    def on_fit_end(self, state: Any) -> None:
        self.is_over = True


@pytest.mark.parametrize("in_background", [True, False])
def test_every_asked_save_is_published_and_told(
    slow: Callable[[float], None], in_background: bool
) -> None:
    slow(0.05)
    listener = Listener()
    run(make_task(), "a", listener, save_in_background=in_background, keep_last=20)
    steps = [step for step, _, _ in listener.heard]
    assert steps == [2, 4, 5, 6, 8, 10, 10, 12, 14, 15]
    assert {name for _, _, name in listener.heard} == {"MainThread"}
    later = [told - step for step, told, _ in listener.heard]
    assert min(later) == 0
    assert (max(later) > 0) == in_background
    events = [e for e in read_events("a/events.jsonl") if e["kind"] == "checkpoint"]
    assert [event["step"] for event in events] == steps
    assert all(event["bytes"] > 0 and event["seconds"] > 0 for event in events)
    assert not threads()


@pytest.mark.parametrize("in_background", [True, False])
def test_snapshot_is_that_of_its_step_however_late_it_is_written(
    slow: Callable[[float], None], in_background: bool
) -> None:
    slow(0.1)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Keep(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            kept[state.step] = weights(task)

    task = make_task()
    run(task, "a", Keep(), save_in_background=in_background, keep_last=20)
    for path in Path("a/checkpoints").glob("step-*"):
        loaded = read_checkpoint(path)
        assert_same(loaded.weights, kept[loaded.step])
        assert loaded.state["parts"]["state"]["step"] == loaded.step
        (batches,) = {loaded.state["parts"]["state"]["batch"]}
        assert batches == loaded.step % 5


@pytest.mark.parametrize("step", [4, 9])
def test_killed_while_writing_resumes_to_the_same_weights(step: int) -> None:
    code = f"""
        import os, signal, torch, nbutils as nb
        from nbutils.testing import make_task
        torch.set_num_threads(1)
        class Kill(nb.Callback):
            def on_step_end(self, state):
                if state.step == {step}: os.kill(os.getpid(), signal.SIGKILL)
        nb.TrainingCoordinator(make_task(), run_dir="part", callbacks=[Kill()],
            **{SETTINGS | {"save_every_steps": 1}}).train()
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    resumed, whole = make_task(), make_task()
    run(whole, "whole")
    assert run(resumed, "part").steps == 15
    assert_same(weights(whole), weights(resumed))


def test_error_of_the_writer_ends_the_run_and_older_ones_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = CheckpointStore.publish

    def broken(self: Any, snapshot: Snapshot, **options: Any) -> Path:
        if snapshot.step == 6:
            raise nb.CheckpointError("step 6 could not be saved: the disk said no")
        return publish(self, snapshot, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "publish", broken)
        with pytest.raises(nb.CheckpointError, match="the disk said no"):
            run(make_task(), "a")
    assert json.loads(Path("a/run.json").read_text())["status"] == "failed"
    assert read_checkpoint(Path("a/checkpoints/step-00000005")).step == 5
    resumed, whole = make_task(), make_task()
    run(whole, "whole")
    assert run(resumed, "a").steps == 15
    assert_same(weights(whole), weights(resumed))


def test_fault_of_the_writer_itself_is_an_error_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: Any, snapshot: Snapshot, **options: Any) -> Path:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(CheckpointStore, "publish", broken)
    with pytest.raises(nb.CheckpointError, match="ZeroDivisionError: a bug") as caught:
        run(make_task(), "a")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Fail(nb.Callback):
    """Ends the run at step 5 in some way."""

    def __init__(self, action: Callable[[Any], object]) -> None:
        self.action = action

    def on_step_end(self, state: Any) -> None:
        if state.step == 5:
            self.action(state)


def divide(_state: Any) -> None:
    raise ZeroDivisionError("mine")


def interrupt(_state: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def poison(state: Any) -> None:
    raise nb.NonFiniteStepError("not a number")


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (divide, ZeroDivisionError),
        (interrupt, KeyboardInterrupt),
        (poison, nb.NonFiniteStepError),
    ],
)
def test_what_was_accepted_is_finished_on_every_way_out(
    slow: Callable[[float], None], action: Any, error: type[BaseException]
) -> None:
    slow(0.2)
    listener = Listener()
    with pytest.raises(error):
        run(make_task(), "a", listener, Fail(action))
    assert {2, 4} <= {step for step, _, _ in listener.heard}
    assert read_checkpoint(Path("a/checkpoints/step-00000004")).step == 4
    assert not threads()


def test_writer_error_on_the_way_out_is_told_and_does_not_hide_the_first(
    slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(0.2)

    def broken(_snapshot: Any, _folder: Path, _check: Any) -> None:
        raise OSError(28, "No space left on device")

    class FailSoon(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 3:
                monkeypatch.setattr(CheckpointStore, "ensure_space", ok)
                raise ZeroDivisionError("mine")

    def ok(*_: Any, **__: Any) -> None:
        """Space enough."""

    monkeypatch.setattr("nbutils.checkpoint.store.write_files", broken)
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(make_task(), "a", FailSoon())
    texts = [e.get("text", "") for e in read_events("a/events.jsonl")]
    assert any("step 2 could not be saved" in text for text in texts)


def test_second_interrupt_while_finishing_abandons_the_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait at the end of a failing run is cut short by an interrupt."""
    under_way = threading.Event()

    def endless(self: Any, snapshot: Snapshot, *, check: Any, **_: Any) -> Path:
        under_way.set()
        while True:
            check()
            time.sleep(0.01)

    monkeypatch.setattr(CheckpointStore, "publish", endless)
    wait = BackgroundWriter.wait

    def interrupted(self: BackgroundWriter, timeout_s: float) -> bool:
        if self._is_abandoned:
            return wait(self, timeout_s)
        under_way.wait(5)
        raise KeyboardInterrupt

    monkeypatch.setattr(BackgroundWriter, "wait", interrupted)
    with pytest.raises(ZeroDivisionError):
        run(make_task(), "a", Fail(divide), epochs=1, save_every_steps=4)
    texts = [e.get("text", "") for e in read_events("a/events.jsonl")]
    assert any("the save was abandoned" in text for text in texts)
    assert not threads()


def test_disk_that_hangs_is_told_and_given_up_on(
    monkeypatch: pytest.MonkeyPatch, slow: Callable[[float], None]
) -> None:
    slow(0.6)
    monkeypatch.setattr(publisher_module, "PATIENT_S", 0.05)
    monkeypatch.setattr(publisher_module, "FINISH_S", 0.1)
    with pytest.raises(
        nb.CheckpointError, match=r"did not take the last checkpoint in"
    ):
        run(make_task(), "a", epochs=1, save_every_steps=None)
    texts = [e.get("text", "") for e in read_events("a/events.jsonl")]
    assert any("waiting for the last checkpoint" in text for text in texts)
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_loop_goes_on_while_a_save_is_written(slow: Callable[[float], None]) -> None:
    slow(0.3)
    started = time.monotonic()
    steps: list[float] = []

    class Clock(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            steps.append(time.monotonic() - started)

    run(make_task(), "a", Clock(), epochs=1, save_every_steps=3)
    assert max(b - a for a, b in itertools.pairwise(steps)) < 0.25


def test_forked_loader_workers_are_not_disturbed(slow: Callable[[float], None]) -> None:
    slow(0.1)
    plain, beside = make_task(), make_task()
    run(plain, "plain", save_in_background=False, num_workers=2)
    run(beside, "beside", save_every_steps=1, num_workers=2)
    assert_same(weights(plain), weights(beside))


def make_saver(
    section: Any = None, writer: BackgroundWriter | None = None
) -> tuple[CheckpointCallback, RunState]:
    model = nn.Linear(4, 4)
    state = RunState(model=model)
    section = section or nb.RunConfig().replace(save_every_steps=10**9).checkpoint
    store = CheckpointStore(Path("c"), keep_last=9)
    saver = CheckpointCallback(store, section, model, {"state": state}, writer=writer)
    saver.on_fit_start(state)
    return saver, state


def test_at_most_one_is_written_and_one_waits(
    slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(0.2)
    writer = BackgroundWriter()
    saver, state = make_saver(writer=writer)
    seconds: list[float] = []
    for state.step in (1, 2, 3):
        started = time.monotonic()
        saver.save(state)
        seconds.append(time.monotonic() - started)
        assert writer._num_sets <= 2
    assert seconds[0] < 0.1
    assert seconds[1] < 0.1
    assert seconds[2] > 0.1  # both sets of buffers were in use
    saver.finish(state)
    assert len(list(Path("c").glob("step-*"))) == 3
    assert writer._num_sets == 1


def test_second_copy_waits_where_memory_is_short(
    slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(0.2)
    monkeypatch.setattr(writer_module, "available_memory_bytes", lambda: 0)
    writer = BackgroundWriter()
    saver, state = make_saver(writer=writer)
    for state.step in (1, 2):
        started = time.monotonic()
        saver.save(state)
        assert writer._num_sets == 1
    assert time.monotonic() - started > 0.1
    saver.finish(state)


def test_automatic_save_does_not_queue_behind_a_write(
    slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(0.2)
    writer = BackgroundWriter()
    saver, state = make_saver(nb.RunConfig().checkpoint, writer)
    monkeypatch.setattr(saver._cadence, "is_due", lambda _step, _now: True)
    for state.step in range(1, 6):
        saver.on_step_end(state)
    saver.finish(state)
    assert len(list(Path("c").glob("step-*"))) == 1


def test_poll_with_nothing_pending_costs_next_to_nothing() -> None:
    saver, state = make_saver(writer=BackgroundWriter())
    state.step = 1
    saver.on_step_end(state)
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            saver.on_step_end(state)
        best = min(best, (time.perf_counter() - started) / 1000)
    assert best < 20e-6  # about 0.3 us; generous, as machines differ


def test_buffers_are_used_again_by_the_next_save() -> None:
    writer = BackgroundWriter()
    saver, state = make_saver(writer=writer)
    saver.save(state, waits=True)
    (buffers,) = writer._idle
    first = {buffer.data_ptr() for _, buffer in buffers._used}
    saver.save(state, waits=True)
    (again,) = writer._idle
    assert again is buffers
    assert {buffer.data_ptr() for _, buffer in buffers._used} == first


def test_large_state_is_allocated_before_its_first_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "WARM_BYTES", 1)
    writer = BackgroundWriter()
    saver, state = make_saver(writer=writer)
    saver.on_step_end(state)
    assert writer.wait(5)
    (buffers,) = writer._idle
    reserved = {b.data_ptr() for found in buffers._free.values() for b in found}
    saver.save(state, waits=True)
    assert {buffer.data_ptr() for _, buffer in buffers._used} <= reserved


KINDS = {
    "plain": torch.randn(3, 4),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "bf16": torch.randn(5).bfloat16(),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
    "transposed": torch.randn(4, 6).t(),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": torch.arange(4.0).expand(3, 4),
    "sliced": torch.randn(10)[::2],
    "sparse": torch.randn(4, 4).relu().to_sparse(),
    "bool": torch.randn(7) > 0,
}


@pytest.mark.parametrize("name", KINDS)
def test_host_buffers_copy_any_tensor_twice(name: str) -> None:
    tensor = KINDS[name]
    buffers = HostBuffers()
    for _ in range(2):
        copied = buffers.start().copy(tensor)
        buffers.settle()
        assert copied.dtype == tensor.dtype
        assert torch.equal(copied.to_dense(), tensor.to_dense())
        if tensor.layout == torch.strided and tensor.numel():
            assert copied.data_ptr() != tensor.data_ptr()
    if name in ("transposed", "channels last"):
        assert copied.stride() == tensor.stride()  # optimizer state keeps its layout
    if name == "sparse":
        return
    assert buffers.num_bytes == copied.nbytes
    torch.save(copied, "one.pt")
    assert os.path.getsize("one.pt") < copied.nbytes + 4000  # a storage of its own


def test_host_buffers_free_what_is_no_longer_needed() -> None:
    buffers = HostBuffers()
    buffers.start().copy(torch.ones(1000))
    buffers.settle()
    assert buffers.num_bytes == 4000
    buffers.start().copy(torch.ones(10))
    buffers.settle()
    assert buffers.num_bytes == 40
    assert not buffers._free
