"""Runs that run out of memory: injected at any depth, and for real."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.micro_memory import MicroMemory

QUIET: dict[str, Any] = {"preflight": "skip", "panel": "off", "batch_size": 8}
FULL = "CUDA out of memory. Tried to allocate 1.00 GiB."


class Bomb(nn.Module):
    """Lets tensors through, and has no room for more than ``limit`` samples.

    Args:
        limit: Samples that fit; none: any number.
        backward: Whether memory runs out in the backward pass.
        after: Passes that go well before it does.
    """

    def __init__(self, limit: int | None, *, backward: bool, after: int = 0) -> None:
        super().__init__()
        self.limit, self.backward, self.after = limit, backward, after

    def forward(self, x: Tensor) -> Tensor:
        if self.limit is None or not self.training or len(x) <= self.limit:
            return x
        if self.after > 0:
            self.after -= 1
            return x
        if not self.backward or not x.requires_grad:
            raise torch.OutOfMemoryError(FULL)
        x = x * 1.0
        x.register_hook(self._fail)
        return x

    def _fail(self, _grad: Tensor) -> None:
        raise torch.OutOfMemoryError(FULL)


def layers(depth: int, bomb: nn.Module, at: int) -> nn.Module:
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for number in range(depth):
        width = 6 if number == 0 else 8
        blocks += [nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh()]
    blocks.insert(4 * at, bomb)
    return nn.Sequential(*blocks, nn.Linear(8, 2))


def run(task: nb.Task, folder: Path, *callbacks: Any, **more: Any) -> nb.TrainResult:
    options = {**QUIET, "epochs": 2, "runs_dir": str(folder.parent / "memory"), **more}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **options
    ).train()


def ooms(folder: Path, *, repeated: bool = False) -> list[dict[str, Any]]:
    """What memory ran out in and was split, or tried once more as it was."""
    found = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "oom"]
    return [e for e in found if e.get("is_repeated", False) is repeated]


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch["y"])


def task_of(bomb: nn.Module, depth: int, at: int) -> nb.Task:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(45, 6, generator=generator)
    data = {"x": x, "y": (x[:, 0] > 0).long()}
    model = layers(depth, bomb, at)
    return nb.Task(
        model, cross_entropy, data, forward=lambda model, batch: model(batch["x"])
    )


def start_with(folder: Path, task: nb.Task, micro_batch: int, **more: Any) -> None:
    """Let the run in ``folder`` know a micro-batch from its first window on."""

    class Know(nb.Callback):
        def on_fit_start(self, state: Any) -> None:
            coordinator._run._session.micro.start_at(micro_batch)

    options = {**QUIET, "epochs": 2, "runs_dir": str(folder.parent / "other"), **more}
    coordinator = nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=[Know()], **options
    )
    coordinator.train()


@settings(max_examples=6, deadline=None)
@given(
    depth=st.integers(1, 4),
    place=st.floats(0, 1),
    backward=st.booleans(),
    limit=st.integers(2, 7),
    accumulation=st.integers(1, 3),
)
def test_oom_at_any_depth_ends_as_a_run_with_that_micro_batch(
    tmp_path_factory: pytest.TempPathFactory,
    depth: int,
    place: float,
    backward: bool,
    limit: int,
    accumulation: int,
) -> None:
    folder = tmp_path_factory.mktemp("oom")
    at = round(place * depth)
    failing = task_of(Bomb(limit, backward=backward), depth, at)
    run(failing, folder / "failing", accumulation=accumulation, drop_last=True)
    found = ooms(folder / "failing")
    assert found[0]["step"] == 1
    assert {event["where"] for event in found} == {"train"}
    micro_batch = found[-1]["micro_batch"]
    assert micro_batch <= limit < 2 * micro_batch + 1
    roomy = task_of(Bomb(None, backward=backward), depth, at)
    more = {"accumulation": accumulation, "drop_last": True}
    start_with(folder / "roomy", roomy, micro_batch, **more)
    assert ooms(folder / "roomy") == []
    assert_same(weights(failing), weights(roomy))


def test_oom_in_the_middle_of_a_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    class StopAt(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 7:
                state.request_stop("enough")

    whole = task_of(Bomb(4, backward=True, after=3), 2, 1)
    run(whole, tmp_path / "a" / "whole", drop_last=True)
    assert [(e["step"], e["micro_batch"]) for e in ooms(tmp_path / "a/whole")] == [
        (4, 4)
    ]
    stopped = task_of(Bomb(4, backward=True, after=3), 2, 1)
    run(stopped, tmp_path / "b" / "run", StopAt(), drop_last=True)
    resumed = task_of(Bomb(4, backward=True), 2, 1)
    run(resumed, tmp_path / "b" / "run", drop_last=True)
    assert len(ooms(tmp_path / "b" / "run")) == 1
    assert_same(weights(whole), weights(resumed))


CARD = "Test Card, 24 GiB"


def run_on_card(
    task: nb.Task, folder: Path, precision: str = "fp32"
) -> nb.TrainingCoordinator:
    """A run that remembers micro-batches as one on an accelerator does."""

    class Attach(nb.Callback):
        def on_fit_start(self, state: Any) -> None:
            session = trainer._run._session
            memory = MicroMemory(
                session.config,
                task,
                torch.device("cuda"),
                session.precision.kind,
                session.events,
                device_name=CARD,
            )
            memory.attach(session.micro, is_new=state.step == 0)

    options = {**QUIET, "epochs": 2, "runs_dir": str(folder.parent / "memory")}
    trainer = nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=[Attach()], precision=precision, **options
    )
    trainer.train()
    return trainer


def remembered(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "memory" / ".micro_batches.json").read_text())


def test_learnt_micro_batch_is_used_by_the_next_run_and_said(tmp_path: Path) -> None:
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "first")
    assert ooms(tmp_path / "first")
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "second")
    assert ooms(tmp_path / "second") == []
    texts = messages(tmp_path / "second")
    assert any(f"earlier run of this model on {CARD}" in text for text in texts)
    assert any("micro-batches of 4 from the start" in text for text in texts)
    assert [e["micro_batch"] for e in remembered(tmp_path).values()] == [4]


def test_learnt_micro_batch_is_not_used_for_another_model_or_format(
    tmp_path: Path,
) -> None:
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "first")
    run_on_card(task_of(Bomb(4, backward=False), 3, 1), tmp_path / "deeper")
    assert ooms(tmp_path / "deeper")
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "half", "bf16")
    assert ooms(tmp_path / "half")
    assert len(remembered(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: {**entry, "micro_batch": 0}, "a micro_batch of at least 1"),
        (lambda entry: {**entry, "micro_batch": "4"}, "a micro_batch of at least 1"),
        (lambda entry: {**entry, "micro_batch": 99}, "below its batch_size"),
        (lambda entry: 4, "a micro_batch of at least 1"),
        (None, "cannot be read"),
    ],
)
def test_learnt_micro_batch_that_is_not_plausible_is_ignored_loudly(
    tmp_path: Path, change: Any, words: str
) -> None:
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "first")
    path = tmp_path / "memory" / ".micro_batches.json"
    if change is None:
        path.write_text("{ no json")
    else:
        entries = remembered(tmp_path)
        path.write_text(json.dumps({k: change(e) for k, e in entries.items()}))
    run_on_card(task_of(Bomb(None, backward=False), 2, 1), tmp_path / "second")
    assert any(words in text for text in messages(tmp_path / "second"))
    assert not any("from the start" in text for text in messages(tmp_path / "second"))


def test_micro_batch_that_cannot_be_remembered_is_said(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file where the folder should be")
    run_on_card(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "first")
    assert any("cannot be remembered" in text for text in messages(tmp_path / "first"))


def test_micro_batch_of_a_cpu_is_not_remembered(tmp_path: Path) -> None:
    run(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "first")
    run(task_of(Bomb(4, backward=False), 2, 1), tmp_path / "second")
    for folder in ("first", "second"):
        assert [e["micro_batch"] for e in ooms(tmp_path / folder)] == [4]
    assert not (tmp_path / "memory" / ".micro_batches.json").exists()


class Hiccup(nn.Module):
    """Runs out of memory in the passes of these numbers, whatever their size."""

    def __init__(self, *numbers: int, evaluates: bool = False) -> None:
        super().__init__()
        self.numbers, self.evaluates, self.count = numbers, evaluates, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training is self.evaluates:
            return x
        self.count += 1
        if self.count in self.numbers:
            raise torch.OutOfMemoryError(FULL)
        return x


def hiccup_task(*numbers: int) -> nb.Task:
    return task_of(Hiccup(*numbers), 2, 1)


def test_oom_of_a_moment_changes_nothing_however_often_it_comes(tmp_path: Path) -> None:
    healthy = hiccup_task()
    run(healthy, tmp_path / "healthy")
    for number in range(5):
        failing = hiccup_task(2, 7, 9)
        trainer = run_on_card(failing, tmp_path / f"run{number}")
        assert trainer._run._session.micro.micro_batch is None
        assert_same(weights(failing), weights(healthy))
        assert ooms(tmp_path / f"run{number}") == []
        again = ooms(tmp_path / f"run{number}", repeated=True)
        assert [(e["step"], e["where"]) for e in again] == [
            (2, "train"),
            (6, "train"),
            (7, "train"),
        ]
        texts = messages(tmp_path / f"run{number}")
        told = [text for text in texts if "out of memory (train, step 2)" in text]
        assert len(told) == 1
    assert not (tmp_path / "memory" / ".micro_batches.json").exists()


def test_oom_of_a_moment_in_the_first_step_halves_once_in_all_runs(
    tmp_path: Path,
) -> None:
    for number in range(4):
        run_on_card(hiccup_task(1), tmp_path / f"run{number}")
    assert [len(ooms(tmp_path / f"run{number}")) for number in range(4)] == [1, 0, 0, 0]
    assert [e["micro_batch"] for e in remembered(tmp_path).values()] == [4]


def test_oom_of_a_moment_in_batches_of_one_sample_changes_nothing(
    tmp_path: Path,
) -> None:
    def train(folder: str, *numbers: int, evaluates: bool = False) -> Any:
        torch.manual_seed(0)
        hiccup = Hiccup(*numbers, evaluates=evaluates)
        x = torch.randn(7, 6)
        data = (x, (x[:, 0] > 0).long())
        model = nn.Sequential(hiccup, nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 2))
        task = nb.Task(model, nn.CrossEntropyLoss(), data, data)
        result = run(task, tmp_path / folder, batch_size=3)  # 3, 3 and 1
        assert ooms(tmp_path / folder) == []
        again = ooms(tmp_path / folder, repeated=True)
        assert [e["where"] for e in again] == ([folder] if numbers else [])
        val_loss = torch.tensor(result.metrics["val_loss"])
        return {**weights(task), "val_loss": val_loss}

    healthy = train("healthy")
    assert_same(train("train", 3), healthy)
    assert_same(train("evaluate", 3, evaluates=True), healthy)


def messages(folder: Path) -> list[str]:
    events = read_events(folder / "events.jsonl")
    return [event["text"] for event in events if event["kind"] == "message"]


def test_sample_that_never_fits_ends_saved_and_resumes_bit_for_bit(
    tmp_path: Path,
) -> None:
    bomb = Bomb(0, backward=True, after=6)
    failing = task_of(bomb, 2, 0)
    with pytest.raises(torch.OutOfMemoryError, match="not even one sample"):
        run(failing, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["step"]) == ("failed", 6)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*6"))) == 1
    resumed = task_of(Bomb(None, backward=True), 2, 0)
    run(resumed, tmp_path / "run")
    whole = task_of(Bomb(None, backward=True), 2, 0)
    run(whole, tmp_path / "whole")
    assert_same(weights(whole), weights(resumed))


def test_batch_norm_that_gets_one_sample_says_why(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="BatchNorm needs two") as caught:
        run(task_of(Bomb(1, backward=True), 2, 1), tmp_path / "run")
    assert isinstance(caught.value.__cause__, ValueError)


class GreedyAdam(torch.optim.AdamW):
    """Finds no memory for the moments of its second group; the first one has moved."""

    def _init_group(self, group: Any, *args: Any, **kwargs: Any) -> Any:
        if group is self.param_groups[1] and not self.state[group["params"][0]]:
            raise torch.OutOfMemoryError(FULL)
        return super()._init_group(group, *args, **kwargs)


def test_oom_of_the_optimizer_ends_the_run_and_leaves_the_model(tmp_path: Path) -> None:
    def make_optimizer(model: nn.Module) -> GreedyAdam:
        first, *rest = model.parameters()
        return GreedyAdam([{"params": [first]}, {"params": rest}], lr=0.1)

    task = make_task(make_optimizer=make_optimizer)
    before = weights(task)
    with pytest.raises(torch.OutOfMemoryError, match="weights are unharmed") as caught:
        run(task, tmp_path / "run")
    assert "adamw8bit" in str(caught.value)
    assert_same(weights(task), before)
    assert ooms(tmp_path / "run") == []


class Validating(nn.Module):
    """Runs out of memory in evaluation only."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 2)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        if self.limit is not None and not self.training and len(x) > self.limit:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return self.inner(x)


def validating_task(limit: int | None) -> nb.Task:
    task = make_task(metrics={"accuracy": accuracy})
    torch.manual_seed(0)
    task.model = Validating(limit)
    return task


def accuracy(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.argmax(1) == batch[1]).float().mean()


def test_validation_oom_is_told_apart_and_leaves_training_alone(
    tmp_path: Path,
) -> None:
    failing, roomy = validating_task(3), validating_task(None)
    first = run(failing, tmp_path / "failing")
    second = run(roomy, tmp_path / "roomy")
    found = ooms(tmp_path / "failing")
    assert [(e["where"], e["micro_batch"]) for e in found] == [
        ("evaluate", 4),
        ("evaluate", 2),
    ]
    assert_same(weights(failing), weights(roomy))
    for name in ("val_loss", "val_accuracy"):
        assert first.metrics[name] == pytest.approx(second.metrics[name], rel=1e-6)
    assert not (tmp_path / "memory" / ".micro_batches.json").exists()


REAL = """
    import resource, sys
    import torch
    from torch import nn
    import nbutils as nb

    torch.set_num_threads(1)
    WIDTH = 2_000_000  # 8 MB a sample


    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return (x.expand(len(x), WIDTH) * self.scale).exp().mean(1, keepdim=True)


    class Tighten(nb.Callback):
        def on_fit_start(self, state):
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, -1))

        def on_fit_end(self, state):
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))


    def train(folder, *callbacks):
        torch.manual_seed(0)
        model = Wide()
        x = torch.rand(32, 1)
        task = nb.Task(model, nn.MSELoss(), (x, torch.ones(32, 1)))
        result = nb.TrainingCoordinator(
            task, run_dir=folder, callbacks=callbacks, epochs=2, batch_size=16,
            preflight="skip", panel="off", optimizer="sgd", lr=0.01,
        ).train()
        assert result.stop_reason == "completed", result.stop_reason
        return model.scale.item()

    tight, roomy = train("tight", Tighten()), train("roomy")
    print(tight, roomy)
    assert abs(tight - roomy) < 1e-5 * abs(roomy), (tight, roomy)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_real_allocation_limit_is_trained_through(tmp_path: Path) -> None:
    script = textwrap.dedent(REAL)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = ooms(tmp_path / "tight")
    assert found
    assert found[-1]["micro_batch"] < 16
    assert {event["where"] for event in found} == {"train"}


class Wide(nn.Module):
    """Makes 8 MB of activations of each sample, several times."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.expand(len(x), 2_000_000) * self.scale
        return wide.exp().mean(1, keepdim=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_memory_cap_is_trained_through(tmp_path: Path) -> None:
    def train(folder: str) -> float:
        torch.manual_seed(0)
        model = Wide()
        x = torch.rand(32, 1)
        task = nb.Task(model, nn.MSELoss(), (x, torch.ones(32, 1)))
        more = {"batch_size": 16, "optimizer": "sgd", "lr": 0.01, "precision": "fp32"}
        run(task, tmp_path / folder, device="cuda", **more)
        return model.scale.item()

    roomy = train("roomy")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    cap = torch.cuda.memory_reserved() + 300_000_000
    torch.cuda.set_per_process_memory_fraction(cap / total)
    try:
        tight = train("tight")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tight == pytest.approx(roomy, rel=1e-5)
    assert ooms(tmp_path / "roomy") == []
    assert ooms(tmp_path / "tight")[-1]["micro_batch"] < 16
