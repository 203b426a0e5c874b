"""The law of preflight: everything is as it was found, also after a failure."""

from __future__ import annotations

import copy
import random
import signal
import tempfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from nbutils.data.task import Task
from nbutils.preflight import preflight


class Moody(nn.Module):
    """Changes itself in every way a module can while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout()
        self.last = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.plain = torch.ones(2)
        self.calls = 0
        self.log: list[int] = []
        self.cache: dict[str, object] = {}
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x):
        self.calls += 1
        self.log.append(self.calls)
        self.cache["x"] = x.detach()
        self.seen += 1
        self.plain.mul_(2)
        torch.rand(1, generator=self.generator)
        np.random.rand()
        random.random()
        x.add_(0.1)
        return self.last(self.drop(self.norm(self.first(x))))


class Jittered(Dataset):
    """Data that write into themselves and draw from a generator of their own."""

    def __init__(self) -> None:
        self.x, self.y = torch.randn(20, 6), torch.arange(20) % 3
        self.array = np.zeros(3)
        self.rng = np.random.default_rng(0)
        self.reads = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index):
        self.reads += 1
        self.x[index] += 1e-3
        self.array += 1
        noise = torch.tensor(self.rng.normal(size=6), dtype=torch.float32)
        return self.x[index] + 0.01 * noise, int(self.y[index])


def build(fault: str = "") -> Task:
    model = Moody()
    model.first.bias.requires_grad_(False)
    model.norm.eval()
    model.last.weight.grad = torch.full_like(model.last.weight, 3.0)
    loss = nn.CrossEntropyLoss()
    if fault == "loss":

        def loss(outputs, batch):
            raise RuntimeError("no")

    if fault == "optimizer":

        def make(model):
            raise RuntimeError("no")

        return Task(model, loss, Jittered(), make_optimizer=make)
    return Task(model, loss, Jittered())


def portrait(task: Task) -> dict[str, object]:
    model, data = task.model, task.train_data
    return copy.deepcopy(
        {
            "parameters": {n: p.detach() for n, p in model.named_parameters()},
            "wants": {n: p.requires_grad for n, p in model.named_parameters()},
            "grads": {n: p.grad for n, p in model.named_parameters()},
            "buffers": dict(model.named_buffers()),
            "flags": [module.training for module in model.modules()],
            "attributes": (model.calls, model.log, model.cache, model.plain),
            "data": (data.x, data.array, data.reads, data.rng.bit_generator.state),
            "generator": model.generator.get_state(),
            "rng": (torch.get_rng_state(), np.random.get_state(), random.getstate()),
            "hooks": [len(m._forward_hooks) for m in model.modules()],
        }
    )


def assert_same(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{number}")
    else:
        assert a == b, path


@pytest.mark.parametrize("depth", ["standard", "rehearsal"])
@pytest.mark.parametrize("fault", ["", "loss", "optimizer"])
def test_preflight_leaves_everything_as_it_was(fault, depth):
    task = build(fault)
    parameters = list(task.model.parameters())
    grad = task.model.last.weight.grad
    before = portrait(task)
    report = preflight(task, depth=depth, on_failure="return")
    assert_same(before, portrait(task))
    assert all(a is b for a, b in zip(parameters, task.model.parameters(), strict=True))
    assert task.model.last.weight.grad is grad
    assert report.passed == (not fault), report.text


def test_preflight_interrupted_leaves_everything_as_it_was():
    task = build()

    def loss(outputs, batch):
        raise KeyboardInterrupt

    task = Task(task.model, loss, task.train_data)
    before = portrait(task)
    with pytest.raises(KeyboardInterrupt):
        preflight(task)
    assert_same(before, portrait(task))


def test_preflight_lazy_model_stays_lazy():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    task = Task(model, nn.CrossEntropyLoss(), (torch.randn(9, 6), torch.arange(9) % 3))
    report = preflight(task)
    assert all(map(nn.parameter.is_lazy, model.parameters()))
    finding = next(f for f in report.findings if f.id == "R4")
    assert finding.severity == "warn"
    assert "lazy" in finding.title


def test_preflight_loss_buffers_and_closures_are_restored():
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, outputs, batch):
            self.mean.add_(outputs.detach().mean(0))
            return nn.functional.cross_entropy(outputs - self.mean, batch[1])

    centred, history = Centred(), []

    def metric(outputs, batch):
        return 0.0

    def forward(model, batch):
        history.append(1)
        return model(batch[0])

    data = (torch.randn(9, 6), torch.arange(9) % 3)
    preflight(
        Task(nn.Linear(6, 3), centred, data, forward=forward, metrics={"m": metric})
    )
    assert torch.equal(centred.mean, torch.zeros(3))
    assert history == []


def test_preflight_rehearsal_writes_and_shows_nothing(tmp_path, monkeypatch, capsys):
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(here)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    preflight(build(), depth="rehearsal", tracker="tensorboard")
    assert list(scratch.iterdir()) == list(here.iterdir()) == []
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert capsys.readouterr() == ("", "")


def test_preflight_rehearsal_interrupted_is_interrupted():
    task = build()
    inner, calls = nn.CrossEntropyLoss(), []

    def loss(outputs, batch):
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            calls.append(signal.raise_signal(signal.SIGINT))
        return inner(outputs, batch[1])

    task = Task(task.model, loss, task.train_data)
    before = portrait(task)
    with pytest.raises(KeyboardInterrupt):
        preflight(task, depth="rehearsal")
    assert_same(before, portrait(task))


def test_preflight_torchmetrics_state_is_left_as_found():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.MeanSquaredError()
    metric.update(torch.ones(3), torch.zeros(3))
    data = (torch.randn(9, 6), torch.randn(9, 1))
    task = Task(
        nn.Linear(6, 1), nn.MSELoss(), data, data, metrics={"mse": metric}
    )  # fmt: skip
    report = preflight(task, depth="rehearsal", monitor="mse")
    assert report.passed
    assert metric.update_count == 1
    assert metric.compute() == 1.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("is_part", [False, True], ids=["whole", "part"])
def test_preflight_scripted_model_is_left_as_found(is_part):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    scripted = torch.jit.script(net)
    model = nn.Sequential(scripted, nn.Linear(2, 2)) if is_part else scripted
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(64, 4)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    task = Task(model, lambda out, b: nn.functional.cross_entropy(out, b[1]), data)
    report = preflight(task, on_failure="return", device="cpu")
    assert report.passed, str(report)
    assert not [f for f in report.findings if "fault of nbutils" in str(f.details)]
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module.training for module in model.modules())
