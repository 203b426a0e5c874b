"""Windows, plan, schedule, precision, notifier, progress: the small parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.train.buffers import LiveBuffers
from nbutils.train.notifier import Notifier
from nbutils.train.oom import MicroBatches, is_out_of_memory, split_batch
from nbutils.train.plan import make_plan
from nbutils.train.precision import LossScale, Precision, choose_precision, to_fp32
from nbutils.train.progress import judge_evaluation
from nbutils.train.schedule import build_schedule, lr_factor
from nbutils.train.state import RunState
from nbutils.train.windows import windows

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_windows_any_length_loses_nothing(length: int, size: int) -> None:
    found = list(windows(range(length), size))
    assert [item for window in found for item in window] == list(range(length))
    assert all(len(window) == size for window in found[:-1])


def test_plan_default_epochs_do_not_cut_max_steps_short() -> None:
    assert make_plan(nb.RunConfig(max_steps=500), 5).steps == 500
    assert make_plan(nb.RunConfig(max_steps=500, epochs=3), 5).steps == 15
    assert make_plan(nb.RunConfig(epochs=3, accumulation=2), 5).steps == 9


def test_plan_without_length_knows_only_max_steps() -> None:
    assert make_plan(nb.RunConfig(max_steps=7), None).steps == 7
    assert make_plan(nb.RunConfig(epochs=2), None).steps is None


def test_plan_no_batch_raises() -> None:
    with pytest.raises(nb.ConfigError, match="gives no batch"):
        make_plan(nb.RunConfig(), 0)


@pytest.mark.parametrize("kind", ["cosine", "linear", "onecycle"])
def test_schedule_last_planned_step_is_at_the_floor(kind: str) -> None:
    curve = [lr_factor(kind, i, 40, warmup=0, floor=0.01) for i in range(40)]
    assert max(curve) == pytest.approx(1.0, abs=0.01)
    assert curve[-1] == pytest.approx(0.01)


def test_schedule_warmup_rises_to_peak() -> None:
    curve = [lr_factor("cosine", i, 20, warmup=4) for i in range(5)]
    assert curve == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_schedule_refused_update_stands_still() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    config = nb.RunConfig(schedule="linear", lr=1.0)
    schedule = build_schedule(optimizer, config, 11)
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.9)
    schedule.hold()
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.9)
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.8)


def test_schedule_without_a_known_end_raises() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    with pytest.raises(nb.ConfigError, match="set max_steps"):
        build_schedule(optimizer, nb.RunConfig(schedule="cosine"), None)


def test_schedule_plateau_lowers_after_three_misses() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = build_schedule(optimizer, nb.RunConfig(schedule="plateau", lr=1.0), 9)
    for _ in range(4):
        schedule.observe(1.0)
    assert schedule.lr() == pytest.approx(0.1)


def test_precision_auto_on_cpu_is_fp32_and_says_why() -> None:
    kind, reason = choose_precision("auto", CPU)
    assert kind == "fp32"
    assert "cpu" in reason


def test_precision_loss_island_computes_in_fp32() -> None:
    precision = Precision("bf16", CPU)
    layer = nn.Linear(4, 4)
    with precision.autocast():
        outputs = layer(torch.randn(2, 4))
    assert outputs.dtype is torch.bfloat16
    with precision.loss_context():
        widened = to_fp32({"a": outputs, "b": [outputs, "text"]})
        assert (widened["a"] @ widened["a"].T).dtype is torch.float32
    assert widened["b"][0].dtype is torch.float32
    assert widened["b"][1] == "text"


def test_loss_scale_halves_on_refusal_and_grows_after_its_interval() -> None:
    scale = LossScale(CPU)
    scale.update(torch.tensor(1.0))
    assert scale.value.item() == 32768
    for _ in range(2000):
        scale.update(torch.tensor(0.0))
    assert scale.value.item() == 65536
    twin = LossScale(CPU)
    twin.load_state_dict(scale.state_dict())
    assert twin.value.item() == 65536


def test_notifier_typo_names_the_hook_that_was_meant() -> None:
    class Mistyped(nb.Callback):
        def on_step_ends(self, state: object) -> None: ...

    with pytest.raises(nb.ConfigError, match="did you mean on_step_end"):
        Notifier([Mistyped()])


def test_notifier_plain_object_is_called() -> None:
    class Plain:
        calls = 0

        def on_step_end(self, state: object) -> None:
            self.calls += 1

    plain = Plain()
    Notifier([plain])("on_step_end", RunState())
    assert plain.calls == 1


def test_progress_nan_is_never_best() -> None:
    state = RunState()
    train = nb.RunConfig(monitor="val_loss", patience=2).train
    for value in (1.0, math.nan, math.nan):
        judge_evaluation(state, train, {"val_loss": value})
    assert state.best is not None
    assert state.best["value"] == 1.0
    assert state.stop_reason == "patience"


def test_progress_best_metric_of_zero_counts() -> None:
    state = RunState()
    judge_evaluation(state, nb.RunConfig().train, {"val_loss": 0.0})
    assert state.best is not None
    assert state.is_new_best


def test_progress_target_in_max_mode_stops() -> None:
    state = RunState()
    train = nb.RunConfig(monitor="accuracy", mode="max", target=0.9).train
    judge_evaluation(state, train, {"val_accuracy": 0.89})
    assert state.stop_reason is None
    judge_evaluation(state, train, {"val_accuracy": 0.9})
    assert state.stop_reason == "target"


def test_progress_unknown_monitor_lists_what_is_measured() -> None:
    train = nb.RunConfig(monitor="val_f1").train
    with pytest.raises(nb.ConfigError, match="val_accuracy"):
        judge_evaluation(RunState(), train, {"val_accuracy": 0.5})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        MemoryError(),
    ],
)
def test_oom_every_spelling_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_oom_other_errors_are_not_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_oom_split_keeps_every_sample_in_order() -> None:
    batch = {"x": torch.arange(5), "names": list("abcde"), "scale": torch.tensor(2.0)}
    parts = split_batch(batch, 2)
    assert torch.cat([part["x"] for part in parts]).tolist() == [0, 1, 2, 3, 4]
    assert [name for part in parts for name in part["names"]] == list("abcde")
    assert all(part["scale"].item() == 2.0 for part in parts)


def test_oom_split_graphs_keeps_each_graph_whole() -> None:
    from torch_geometric.data import Batch, Data

    graphs = [Data(x=torch.full((n, 2), float(n))) for n in (1, 2, 3)]
    parts = split_batch(Batch.from_data_list(graphs), 2)
    assert sum(part.num_graphs for part in parts) == 3
    assert sum(part.x.shape[0] for part in parts) == 6


def test_oom_retry_has_the_same_random_numbers_and_buffers() -> None:
    model = nn.BatchNorm1d(2)
    seen: list[torch.Tensor] = []
    splits: list[int] = []
    buffers = LiveBuffers(model)
    buffers.keep()
    micro = MicroBatches(model, CPU, buffers, enabled=True, on_split=splits.append)

    def accumulate(parts: list[torch.Tensor]) -> int:
        seen.append(torch.rand(3))
        model.running_mean.add_(1.0)
        if len(parts) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(parts)

    assert micro.run([torch.zeros(4, 2)], accumulate) == 2
    assert torch.equal(seen[0], seen[1])
    assert model.running_mean.tolist() == [1.0, 1.0]
    assert splits == [2]
    assert micro.num_parts == 2


def test_oom_single_sample_that_does_not_fit_raises() -> None:
    micro = MicroBatches(
        nn.Identity(), CPU, LiveBuffers(nn.Identity()), enabled=True, on_split=print
    )

    def accumulate(_parts: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        micro.run([torch.zeros(2, 1)], accumulate)
    assert micro.num_parts == 2
