"""The coordinator as its user meets it: train, stop, resume, evaluate, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights

SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 8, "preflight": "skip"}


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


def run(task: nb.Task, folder: str, *callbacks: Any, **more: Any) -> nb.TrainResult:
    options = {**SETTINGS, **more}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **options
    ).train()


def test_train_writes_the_run_directory() -> None:
    result = run(make_task(), "a")
    assert result.stop_reason == "completed"
    assert result.steps == 20
    assert list(result.history["epoch"]) == [1, 2, 3, 4]
    for name in ("config.yaml", "run.json", "environment.json", "events.jsonl"):
        assert (Path("a") / name).exists(), name
    assert (Path("a") / "report.html").exists()
    assert json.loads((Path("a") / "run.json").read_text())["status"] == "finished"
    assert len(list(Path("a/checkpoints").glob("step-*"))) == 2


VARIANTS: list[dict[str, Any]] = [
    {},
    {"accumulation": 3, "schedule": "cosine", "ema_decay": 0.9},
    {"optimizer": "sgd", "schedule": "plateau", "precision": "bf16"},
    {"precision": "fp16", "accumulation": 2, "schedule": "onecycle"},
    {"num_workers": 2},
]


@pytest.mark.parametrize("stop_at", [1, 5, 7])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "plain")
def test_resume_is_bit_identical_to_never_stopped(
    stop_at: int, variant: dict[str, Any]
) -> None:
    whole, stopped, resumed = make_task(), make_task(), make_task()
    straight = run(whole, "whole", **variant)
    first = run(stopped, "part", StopAt(stop_at), **variant)
    assert first.stop_reason == "requested: enough"
    assert first.steps == stop_at
    second = nb.TrainingCoordinator(
        resumed, run_dir="part", **{**SETTINGS, **variant}
    ).resume_training()
    assert_same(weights(whole), weights(resumed))
    assert second.steps == straight.steps
    columns = ["epoch", "step", "train_loss", "val_loss", "lr"]
    assert straight.history[columns].equals(second.history[columns])


class LearntScale(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        error = nn.functional.cross_entropy(outputs, batch[1])
        return error * torch.exp(-self.log_scale) + self.log_scale


def test_loss_with_parameters_trains_and_is_resumed_bit_for_bit() -> None:
    tasks = []
    for _ in range(3):
        task = make_task()
        task = nb.Task(task.model, LearntScale(), task.train_data, task.val_data)
        tasks.append(task)
    whole, stopped, resumed = tasks
    run(whole, "whole")
    run(stopped, "part", StopAt(7))
    run(resumed, "part")
    assert whole.loss.log_scale.item() != 0
    assert torch.equal(whole.loss.log_scale, resumed.loss.log_scale)
    assert_same(weights(whole), weights(resumed))


def test_train_again_on_the_same_object_changes_nothing() -> None:
    task = make_task()
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    first = coordinator.train()
    kept = weights(task)
    again = coordinator.train()
    assert again.steps == first.steps
    assert again.stop_reason == "completed"
    assert_same(kept, weights(task))


def test_train_after_a_stop_continues() -> None:
    task = make_task()
    coordinator = nb.TrainingCoordinator(
        task, run_dir="a", callbacks=[StopAt(3)], **SETTINGS
    )
    assert coordinator.train().steps == 3
    assert coordinator.train().steps == 20


def test_more_epochs_continue_a_finished_run() -> None:
    run(make_task(), "a", epochs=2)
    longer = make_task()
    assert run(longer, "a", epochs=4).steps == 20
    whole = make_task()
    run(whole, "b", epochs=4)
    assert_same(weights(whole), weights(longer))


def test_patience_run_again_stays_finished() -> None:
    settings: dict[str, Any] = {"patience": 1, "lr": 10.0, "epochs": 50}
    first = run(make_task(), "a", **settings)
    assert first.stop_reason == "patience"
    again = run(make_task(), "a", **settings)
    assert again.stop_reason == "patience"
    assert again.steps == first.steps


def test_max_steps_in_mid_epoch_is_evaluated() -> None:
    result = run(make_task(), "a", max_steps=7, epochs=4)
    assert result.steps == 7
    assert result.stop_reason == "completed"
    assert result.history["step"].tolist() == [5, 7]
    assert result.history["val_loss"].notna().all()


def test_hooks_fire_in_their_order() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.events: list[str] = []

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("on_"):
                raise AttributeError(name)
            return lambda _state: self.events.append(name)

    recorder = Recorder()
    run(make_task(num_samples=16), "a", recorder, epochs=1)
    assert recorder.events == [
        "on_fit_start",
        "on_epoch_start",
        "on_step_end",
        "on_step_end",
        "on_evaluate_end",
        "on_epoch_end",
        "on_checkpoint",
        "on_stop",
        "on_fit_end",
    ]


@pytest.mark.parametrize(
    "hook", ["on_fit_start", "on_step_end", "on_evaluate_end", "on_checkpoint"]
)
def test_callback_that_fails_raises_and_fit_end_fires_once(hook: str) -> None:
    class Counter(nb.Callback):
        ends = 0

        def on_fit_end(self, state: Any) -> None:
            self.ends += 1

    def fail(_self: Any, _state: Any) -> None:
        raise ZeroDivisionError("mine")

    broken = type("Broken", (nb.Callback,), {hook: fail})()
    counter = Counter()
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(make_task(), "a", counter, broken)
    assert counter.ends == 1
    assert json.loads(Path("a/run.json").read_text())["status"] == "failed"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def poisoned(num_bad: int) -> nb.Task:
    task = make_task()
    task.train_data.tensors[0][:num_bad, 0] = float("nan")
    return task


def test_nan_batch_is_refused_named_and_saved() -> None:
    task = poisoned(1)
    result = run(task, "a", epochs=1)
    assert result.skipped == 1
    assert all(torch.isfinite(value).all() for value in weights(task).values())
    (event,) = [e for e in read_events("a/events.jsonl") if e["kind"] == "refused"]
    assert 0 in event["indices"]
    saved = torch.load(event["batch_file"], weights_only=True)
    assert torch.isnan(saved[0][0]).any()
    assert result.history["train_loss"].notna().all()


def test_nan_everywhere_stops_with_the_reason_and_keeps_the_weights() -> None:
    task = poisoned(40)
    start = {k: v for k, v in weights(task).items() if "running" not in k}
    with pytest.raises(nb.SkipBudgetError, match="4 updates in a row"):
        run(task, "a")
    after = weights(task)
    assert all(
        torch.equal(start[name], after[name]) for name in start if "num" not in name
    )
    assert list(Path("a/checkpoints").glob("step-*"))


def test_zero_tolerance_raises_at_the_first_refusal() -> None:
    with pytest.raises(nb.NonFiniteStepError, match="refused before the weights"):
        run(poisoned(40), "a", max_consecutive_refusals=0)


class Greedy(nn.Module):
    """Runs out of memory on more than four samples, at its second layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.inner(x)
        if self.training and len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return outputs


def test_out_of_memory_splits_the_batch_and_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    plain = nn.Linear(4, 2)
    greedy = Greedy(nn.Linear(4, 2))
    greedy.inner.load_state_dict(plain.state_dict())
    settings = {**SETTINGS, "optimizer": "sgd", "lr": 0.1, "batch_size": 16}
    for model, folder in ((plain, "plain"), (greedy, "greedy")):
        task = nb.Task(model, nn.MSELoss(), (x, y))
        nb.TrainingCoordinator(task, run_dir=folder, **settings).train()
    assert torch.allclose(plain.weight, greedy.inner.weight, rtol=1e-5, atol=1e-7)
    splits = [e for e in read_events("greedy/events.jsonl") if e["kind"] == "oom"]
    assert [event["micro_batch"] for event in splits] == [8, 4]


def test_out_of_memory_raises_when_splitting_is_off() -> None:
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    task = nb.Task(Greedy(nn.Linear(4, 2)), nn.MSELoss(), (x, y))
    with pytest.raises(torch.OutOfMemoryError):
        run(task, "a", on_oom="raise")


def test_stop_file_ends_the_run_and_is_taken_away() -> None:
    class Touch(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 3:
                (state.run_dir / "STOP").touch()

    result = run(make_task(), "a", Touch())
    assert (result.stop_reason, result.steps) == ("stop file", 3)
    assert not Path("a/STOP").exists()


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "terminated")]
)
def test_signal_finishes_the_window_and_saves(number: int, reason: str) -> None:
    class Kick(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 2:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(make_task(), "a", Kick())
    assert (result.stop_reason, result.steps) == (reason, 2)
    assert signal.getsignal(number) is before
    assert run(make_task(), "a").steps == 20


def test_second_interrupt_raises_now() -> None:
    class Twice(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(make_task(), "a", Twice())
    assert json.loads(Path("a/run.json").read_text())["status"] == "interrupted"


def test_time_limit_ends_the_run() -> None:
    result = run(make_task(), "a", max_hours=1e-9)
    assert result.stop_reason == "time"


def test_training_outside_the_main_thread_works() -> None:
    results: list[nb.TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(run(make_task(), "a")))
    thread.start()
    thread.join()
    assert results[0].stop_reason == "completed"


def test_evaluate_gives_the_model_back_as_it_was() -> None:
    task = make_task()
    task.model[1].eval()  # a frozen BatchNorm
    flags = [module.training for module in task.model.modules()]
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    kept, rng = weights(task), torch.get_rng_state()
    metrics = coordinator.evaluate("val")
    assert metrics["loss"] > 0
    assert flags == [module.training for module in task.model.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert_same(kept, weights(task))


def test_evaluate_loss_is_the_mean_over_all_samples() -> None:
    task = make_task(num_samples=37)
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    x, y = task.train_data.tensors
    task.model.eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(task.model(x), y).item()
    assert coordinator.evaluate("train")["loss"] == pytest.approx(expected, rel=1e-6)


def test_best_weights_are_used_when_asked_for() -> None:
    task = make_task()
    coordinator = nb.TrainingCoordinator(
        task, run_dir="a", **{**SETTINGS, "lr": 0.3, "epochs": 8}
    )
    result = coordinator.train()
    best = coordinator.evaluate("val", weights="best")["loss"]
    assert best == pytest.approx(result.history["val_loss"].min(), rel=1e-6)
    assert best == pytest.approx(result.best["value"], rel=1e-6)
    with pytest.raises(nb.ConfigError, match="'last' or 'best'"):
        coordinator.evaluate("val", weights="first")


def test_predict_keeps_the_order_of_the_data() -> None:
    task = make_task()
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    x, _ = task.train_data.tensors
    task.model.eval()
    with torch.no_grad():
        expected = task.model(x)
    assert torch.allclose(coordinator.predict(task.train_data), expected, atol=1e-6)


def test_export_reads_each_format_back() -> None:
    task = make_task()
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    paths = coordinator.export(("safetensors", "state_dict", "onnx"))
    assert set(paths) == {"safetensors", "state_dict", "onnx"}
    assert all(path.exists() for path in paths.values())
    assert paths.parity["onnx"] < 1e-4
    with pytest.raises(nb.ConfigError, match="format 'gguf' is unknown"):
        coordinator.export(("gguf",))
    path = coordinator.export_state_dict("weights.pt")
    assert_same(weights(task), torch.load(path, weights_only=True))


def test_export_onnx_of_a_task_with_its_own_forward_is_told() -> None:
    task = make_task(forward=lambda model, batch: model(batch[0]))
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    assert "safetensors" in coordinator.export()
    with pytest.raises(nb.ConfigError, match="takes one tensor"):
        coordinator.export(("onnx",))


def test_quick_train_gives_the_weights_back() -> None:
    task = make_task()
    kept = weights(task)
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    assert coordinator.quick_train(3).steps == 3
    assert_same(kept, weights(task))
    assert not Path("a").exists()


def test_quick_train_of_a_lazy_model_works() -> None:
    x, y = torch.randn(16, 5), torch.randint(2, (16,))
    task = nb.Task(nn.LazyLinear(2), nn.CrossEntropyLoss(), (x, y))
    assert (
        nb.TrainingCoordinator(task, run_dir="a", **SETTINGS).quick_train(2).steps == 2
    )
    assert task.model.weight.shape == (2, 5)


def test_resume_without_a_checkpoint_says_what_to_do() -> None:
    with pytest.raises(nb.CheckpointError, match="call train"):
        nb.TrainingCoordinator(make_task()).resume_training("nowhere")


def test_resume_from_a_truncated_checkpoint_falls_back() -> None:
    run(make_task(), "a")
    newest = sorted(Path("a/checkpoints").glob("step-*"))[-1] / "state.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    result = nb.TrainingCoordinator(make_task(), run_dir="a", **SETTINGS).train()
    assert result.steps == 20
    texts = [e.get("text", "") for e in read_events("a/events.jsonl")]
    assert any("is truncated: 100 bytes" in text for text in texts)


def test_folder_of_another_model_is_refused() -> None:
    run(make_task(), "a")
    x = torch.randn(8, 6)
    other = nb.Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), (x, torch.zeros(8).long()))
    with pytest.raises(nb.CheckpointError, match="belongs to another model"):
        run(other, "a")


def test_run_dir_that_cannot_be_written_is_told_at_once() -> None:
    Path("file").write_text("in the way")
    with pytest.raises(nb.EnvironmentProblem, match="cannot be used"):
        run(make_task(), "file/run")


def test_preflight_require_without_a_verdict_raises() -> None:
    with pytest.raises(nb.PreflightError, match="no current verdict"):
        run(make_task(), "a", preflight="require")
    assert not Path("a").exists()


def test_preflight_runs_by_itself_and_is_kept() -> None:
    task = make_task()
    run(task, "a", preflight="run")
    assert task.verdict is not None
    assert json.loads(Path("a/preflight.json").read_text())["verdict"]["passed"]
    assert Path("a/preflight.html").exists()


def test_override_that_does_not_exist_is_told() -> None:
    with pytest.raises(nb.ConfigError, match="did you mean"):
        nb.TrainingCoordinator(make_task(), epoch=3)


KILLED = """
    import os, signal, torch, nbutils as nb
    from nbutils.testing import make_task
    torch.set_num_threads(1)
    class Kill(nb.Callback):
        def on_step_end(self, state):
            if state.step == {step}: os.kill(os.getpid(), signal.SIGKILL)
    nb.TrainingCoordinator(make_task(), run_dir="part", callbacks=[Kill()], epochs=4,
        batch_size=8, preflight="skip", save_every_steps=3).train()
"""


@pytest.mark.parametrize("step", [4, 13])
def test_killed_process_resumes_to_the_same_weights(step: int) -> None:
    code = textwrap.dedent(KILLED.format(step=step))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    resumed, whole = make_task(), make_task()
    run(whole, "whole")
    assert run(resumed, "part", save_every_steps=3).steps == 20
    assert_same(weights(whole), weights(resumed))


@pytest.mark.parametrize("options", [{}, {"run_dir": "here"}, {"runs_dir": "there"}])
def test_run_directory_stays_where_it_is_when_a_callback_changes_the_folder(
    tmp_path: Path, options: dict[str, str]
) -> None:
    class Wander(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 2:
                elsewhere.mkdir()
                os.chdir(elsewhere)

    elsewhere = tmp_path / "elsewhere"
    result = nb.TrainingCoordinator(
        make_task(),
        max_steps=4,
        save_every_steps=1,
        preflight="skip",
        panel="off",
        device="cpu",
        callbacks=[Wander()],
        **options,
    ).train()
    assert list(elsewhere.iterdir()) == []
    assert result.run_dir.is_relative_to(tmp_path)
    assert (result.run_dir / "checkpoints" / "step-00000004").is_dir()
    assert (result.run_dir / "events.jsonl").exists()


def test_best_path_follows_a_run_that_was_moved(tmp_path: Path) -> None:
    def train(folder: Path, steps: int) -> Any:
        return nb.TrainingCoordinator(
            make_task(),
            run_dir=folder,
            max_steps=steps,
            lr=1e-9,  # the first epoch stays the best one
            target=None,
            preflight="skip",
            panel="off",
            device="cpu",
        ).train()

    train(tmp_path / "here", 3)
    (tmp_path / "here").rename(tmp_path / "there")
    best = train(tmp_path / "there", 4).best
    assert Path(best["path"]).is_dir()
    assert Path(best["path"]).is_relative_to(tmp_path / "there")
