"""Tasks this project has never seen: proven, trained, stopped and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import strangers_tasks as tasks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nbutils as nb

MAY_WARN = {
    "lazy_layers": {"R4"},  # it is lazy, and says so
    "one_sample": {"R5"},  # one target says little
}
OPTIONAL = {
    "graph_classification": "torch_geometric",
    "graph_beside_tensor": "torch_geometric",
    "timm_network": "timm",
    "torchvision_network": "torchvision",
}


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state) -> None:
        if state.step == self.step:
            state.request_stop("half-way")


def build(name: str) -> tuple[nb.Task, nb.RunConfig]:
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    make, settings = tasks.HEALTHY[name]
    torch.manual_seed(0)
    plain = {"epochs": 2, "device": "cpu", "panel": "off"}
    return make(), nb.RunConfig(**{**plain, **settings})


def is_same(a, b) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    return a == b


def saved_parts(run_dir: Path) -> dict:
    newest = max((run_dir / "checkpoints").glob("step-*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    return {"rng": state["rng"], "optimizer": state["parts"]["optimizer"]}


@pytest.mark.parametrize("name", tasks.HEALTHY)
def test_stranger_healthy_task_passes_and_resumes_bit_identical(name, tmp_path):
    task, config = build(name)
    report = nb.preflight(task, config, on_failure="return")
    assert report.passed, report.text
    warned = {f.id for f in report.findings if f.severity == "warn"} - {"S1"}
    assert warned <= MAY_WARN.get(name, set()), report.text

    whole = nb.TrainingCoordinator(task, config, run_dir=tmp_path / "whole").train()
    assert whole.stop_reason == "completed"
    assert np.isfinite(whole.metrics["train_loss"])
    assert whole.skipped == 0

    half = [StopAt(max(1, whole.steps // 2))]
    twin, config = build(name)
    options = {"run_dir": tmp_path / "parts", "preflight": "skip"}
    nb.TrainingCoordinator(twin, config, callbacks=half, **options).train()
    again, config = build(name)
    torch.manual_seed(99)  # a fresh process would be in another state too
    rest = nb.TrainingCoordinator(again, config, **options).resume_training()
    assert rest.steps == whole.steps
    assert is_same(task.model.state_dict(), again.model.state_dict())
    assert is_same(saved_parts(tmp_path / "whole"), saved_parts(tmp_path / "parts"))


def faults():
    x, y = tasks.xy()
    late = y.clone()
    late[30] = 3
    cross = nn.CrossEntropyLoss()
    broken = x.clone()
    broken[17] = float("nan")

    def other_model(_model):
        return torch.optim.SGD(tasks.mlp().parameters(), lr=0.1)

    return {
        "label outside the head": ({"train_data": (x, late)}, "label 3 is outside"),
        "nan in one sample": ({"train_data": (broken, y)}, r"train\[17\]"),
        "float loss": ({"loss": lambda o, b: cross(o, b[1]).item()}, r"\.item\(\)"),
        "detached loss": (
            {"loss": lambda o, b: cross(o, b[1]).detach()},
            "no gradient",
        ),
        "no return": ({"loss": lambda o, b: None}, "`return`"),
        "wrong width": ({"model": tasks.mlp(6)}, r"float32 \(8, 5\)"),
        "tail of one": (
            {
                "model": nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)),
                "train_data": tasks.xy(41),
            },
            "drop_last=True",
        ),
        "foreign optimizer": ({"make_optimizer": other_model}, "owns none"),
        "column of labels": ({"train_data": (x, y[:, None])}, "R5"),
    }


@pytest.mark.parametrize("name", faults())
def test_stranger_fault_stops_before_training(name):
    changed, told = faults()[name]
    given = {"model": tasks.mlp(), "loss": nn.CrossEntropyLoss()}
    task = nb.Task(**{**given, "train_data": tasks.xy(), **changed})
    with pytest.raises(nb.PreflightError, match=told):
        nb.TrainingCoordinator(task, batch_size=8, device="cpu").train()


def test_preflight_leaves_a_hand_written_loop_as_it_was():
    def loop(is_proven: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        layers = [nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)]
        model = nn.Sequential(*layers, nn.Linear(16, 3))
        data = torch.utils.data.TensorDataset(*tasks.xy())
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
        if is_proven:
            nb.preflight(nb.Task(model, nn.CrossEntropyLoss(), loader, tasks.xy(9)))
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model.state_dict()

    assert is_same(loop(is_proven=False), loop(is_proven=True))


def test_train_agrees_with_a_loop_written_by_hand():
    torch.manual_seed(0)
    model, twin = tasks.mlp(), tasks.mlp()
    twin.load_state_dict(model.state_dict())
    x, y = tasks.xy(41)
    nb.TrainingCoordinator(
        nb.Task(model, nn.CrossEntropyLoss(), (x, y)),
        epochs=3,
        batch_size=8,
        accumulation=2,
        shuffle=False,
        optimizer="sgd",
        lr=0.1,
        weight_decay=0.0,
        clip_norm=None,
        device="cpu",
    ).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for start in [*range(0, 41, 16)] * 3:
        optimizer.zero_grad()
        rows = slice(start, start + 16)
        F.cross_entropy(twin(x[rows]), y[rows]).backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
