from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.errors import ContractError, EnvironmentProblem
from nbutils.preflight.estimates import (
    Pace,
    bound_pace,
    check_model,
    estimate_run,
    feasibility,
    measure_pace,
    pace,
)

CONTRACT = {"0": "float32 (B, 8)", "1": "int64 (B,)"}


def task_of(model: nn.Module | None = None, contract=CONTRACT) -> Task:
    """A task whose data nobody reads."""
    model = model or nn.Linear(8, 3)
    data = [(torch.zeros(8), 0)] * 4
    return Task(model, nn.CrossEntropyLoss(), data, contract=contract)


def test_check_model_counts_memory_part_by_part():
    found = check_model(task_of(), RunConfig(batch_size=4, device="cpu"))
    assert found.fits
    assert found.plan.num_parameters == 27
    assert found.plan.optimizer >= 2 * 27 * 4
    assert found.inputs == {"0": "float32 (B, 8)"}
    assert found.outputs == {"output": "float32 (4, 3)"}
    assert found.advice == ()
    assert found.precision[0] == "fp32"


def test_check_model_that_does_not_fit_says_what_to_change(monkeypatch):
    model = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 3))
    config = RunConfig(batch_size=4096, device="cpu")
    needed = check_model(task_of(model), config).plan.total
    monkeypatch.setattr(feasibility, "_memory", lambda device: (needed // 3, 0))
    found = check_model(task_of(model), config)
    assert not found.fits
    size, passes = found.changes["batch_size"], found.changes["accumulation"]
    assert size * passes == 4096
    assert found.plan.at(size).total <= needed // 3
    assert found.advice[0].startswith(f"batch_size={size} with accumulation={passes}")
    assert found.cards


def test_check_model_without_room_for_one_sample_advises_a_smaller_model(monkeypatch):
    monkeypatch.setattr(feasibility, "_memory", lambda device: (10, 0))
    found = check_model(task_of(), RunConfig(device="cpu"))
    assert found.changes == {}
    assert found.largest_batch == 0
    assert "a smaller model, or a smaller input" in found.advice


def test_check_model_of_unknown_input_says_what_settles_it():
    class Items(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            return torch.zeros(8), 0

    task = Task(nn.Linear(8, 3), nn.CrossEntropyLoss(), Items())
    with pytest.raises(ContractError, match="the model's input is not known"):
        check_model(task, RunConfig(device="cpu"))
    with pytest.raises(ContractError, match="the model's input is not known"):
        bound_pace(task, RunConfig(device="cpu"))


def test_check_model_whose_shapes_disagree_says_where():
    model = nn.Sequential(nn.Linear(8, 5), nn.Linear(4, 3))
    with pytest.raises(ContractError, match="a step on tensors without values stops"):
        check_model(task_of(model), RunConfig(device="cpu"))


def test_bound_pace_is_operations_over_rate(monkeypatch):
    monkeypatch.setattr(pace, "_matmul_rate", lambda device, kind: 1e6)
    with torch.device("meta"):
        model = nn.Linear(8, 3)
    config = RunConfig(batch_size=10, device="cpu")
    found = bound_pace(task_of(model), config)
    assert found.flops_per_sample == 2 * 8 * 3
    assert found.step_s == pytest.approx(3 * 48 * 10 / 1e6)
    assert not found.is_measured
    assert found.basis.startswith("not measured: ")
    again = config.replace(gradient_checkpointing=True)
    assert bound_pace(task_of(model), again).step_s == pytest.approx(4 * 48 * 10 / 1e6)


def test_matmul_rate_is_measured_and_finite():
    rate = pace._matmul_rate(torch.device("cpu"), "fp32")
    assert 1e8 < rate < 1e16


def test_measure_pace_times_real_steps_and_says_so():
    found = measure_pace(task_of(), RunConfig(batch_size=4, device="cpu"), read_s=0.01)
    assert found.is_measured
    assert 0 < found.step_s < 1
    assert found.basis.startswith("measured: ")
    assert "a batch of 4 on cpu in fp32" in found.basis
    assert "reading measured: 10 ms a sample" in found.basis


def test_measure_pace_stops_at_its_limit_with_one_step():
    found = measure_pace(task_of(), RunConfig(device="cpu"), limit_s=0.0)
    assert "(1 step on" in found.basis


def test_measure_pace_without_room_is_refused(monkeypatch):
    monkeypatch.setattr(pace, "available_memory_bytes", lambda: 10)
    with pytest.raises(EnvironmentProblem, match="a step takes at least"):
        measure_pace(task_of(), RunConfig(device="cpu"))


def pace_of(step_s: float = 0.1, read_s: float | None = 0.01) -> Pace:
    return Pace(step_s=step_s, read_s=read_s, is_measured=True, basis="measured: so")


def test_pace_reading_adds_up_alone_and_overlaps_with_workers():
    assert pace_of().batch_s(10, 0) == pytest.approx(0.2)
    assert pace_of().batch_s(10, 1) == pytest.approx(0.1)
    assert pace_of().batch_s(100, 2) == pytest.approx(0.5)
    assert pace_of(read_s=None).batch_s(10, 0) == pytest.approx(0.1)


def test_estimate_run_multiplies_steps_time_and_price():
    config = RunConfig(batch_size=10, epochs=3, accumulation=2)
    found = estimate_run(config, pace_of(read_s=None), 100, 30, price=36.0)
    assert (found.steps_per_epoch, found.steps) == (5, 15)
    evaluation_s = 0.1 / 3 * 3
    assert found.epoch_s == pytest.approx(10 * 0.1 + evaluation_s)
    assert found.total_s == pytest.approx(3 * found.epoch_s)
    assert found.cost == pytest.approx(found.total_s / 100)


def test_estimate_run_without_data_knows_no_length():
    found = estimate_run(RunConfig(epochs=3), pace_of(), None, price=1.0)
    assert (found.total_s, found.epoch_s, found.steps, found.cost) == (None,) * 4


def test_estimate_run_max_steps_and_max_hours_end_it():
    config = RunConfig(batch_size=10, max_steps=7)
    assert estimate_run(config, pace_of(), 1000).steps == 7
    hours = 1 / 3600
    capped = estimate_run(config.replace(max_hours=hours), pace_of(), 1000)
    assert capped.is_capped
    assert math.isclose(capped.total_s, 1.0)


def test_estimate_run_drop_last_counts_whole_batches():
    config = RunConfig(batch_size=10, epochs=1)
    assert estimate_run(config, pace_of(), 25).steps == 3
    assert estimate_run(config.replace(drop_last=True), pace_of(), 25).steps == 2
