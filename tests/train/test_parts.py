"""Windows, plan, schedule, precision, notifier, progress: the small parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.train.notifier import Notifier
from nbutils.train.plan import make_plan
from nbutils.train.precision import LossScale, Precision, choose_precision, to_fp32
from nbutils.train.progress import judge_evaluation
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
