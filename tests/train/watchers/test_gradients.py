"""Shares, ratios and norms by module are those of plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from watcher_tools import fit, kinds, monitored

import nbutils as nb
from nbutils.data.loaders import make_loader
from nbutils.errors import ConfigError
from nbutils.monitor.events import read_events
from nbutils.train.readback import Readback
from nbutils.train.watchers import GradientMonitor
from nbutils.train.watchers import modules as modules_module
from nbutils.train.watchers import updates as updates_module
from nbutils.train.watchers.modules import label_parameters, tensor_norms
from nbutils.train.watchers.updates import UpdateProbe

STEPS = 6


class Net(nn.Module):
    """Two children, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gain * self.body(x))


def data(num_samples: int = 48) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(num_samples, 6), torch.randint(3, (num_samples,))


def plain(
    model: Net, clip_norm: float = 1.0, steps: int = STEPS, **optim: Any
) -> dict[int, dict[str, float]]:
    """The same numbers from a loop by hand."""
    optim = {"lr": 0.01, "weight_decay": 0.01, "fused": True, **optim}
    optimizer = torch.optim.AdamW(model.parameters(), **optim)
    task = nb.Task(model, cross_entropy, data())
    batches: Any = make_loader(task, "train", nb.RunConfig(batch_size=8))
    found: dict[int, dict[str, float]] = {}

    def norm(tensors: list[Tensor]) -> float:
        return float(torch.cat([t.double().flatten() for t in tensors]).norm())

    parts = {"body": [], "head": [], "gain": []}
    for name, parameter in model.named_parameters():
        parts[name.split(".")[0]].append(parameter)
    for step, (x, y) in enumerate(batches, 1):
        if step > steps:
            break
        cross_entropy(model(x), y).backward()
        total = norm([p.grad for p in model.parameters() if p.grad is not None])
        values = {"gradients/norm": total}
        for name, owned in parts.items():
            share = norm([p.grad for p in owned if p.grad is not None]) / total
            values[f"gradients/share/{name}"] = share**2
        before = {p: p.detach().clone() for p in model.parameters()}
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        for name, owned in parts.items():
            moved = norm([p.detach() - before[p] for p in owned])
            size = norm([before[p] for p in owned])
            values[f"updates/ratio/{name}"] = moved / size
        found[step] = values
    return found


def close(found: dict[int, Any], expected: dict[int, Any], rel: float) -> None:
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=rel), step


def watched(folder: str) -> dict[int, dict[str, float]]:
    found = monitored(folder, "gradients/")
    for step, values in monitored(folder, "updates/").items():
        found[step].update(values)
    return found


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_numbers_of_each_step_are_those_of_a_loop_by_hand(clip_norm: float) -> None:
    monitor = GradientMonitor(every_steps=1)
    options: dict[str, Any] = {"lr": 0.01, "batch_size": 8, "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
        task = nb.Task(Net(), cross_entropy, data())
        fit(task, "run", monitor, clip_norm=clip_norm, **options)
    found = watched("run")
    close(found, plain(Net(), clip_norm), 1e-4)
    for values in found.values():
        shares = [v for n, v in values.items() if n.startswith("gradients/share/")]
        assert sum(shares) == pytest.approx(1)


def test_shares_of_scaled_gradients_are_those_without_a_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    for precision in ("fp32", "fp16"):
        task = nb.Task(Net(), cross_entropy, data())
        fit(
            task,
            precision,
            GradientMonitor(1),
            precision=precision,
            batch_size=8,
            epochs=1,
            lr=0.01,
        )
    # AMP rounds the forward pass to three digits.
    for step, values in watched("fp32").items():
        other = watched("fp16")[step]
        assert other == pytest.approx(values, rel=0.05), step


def test_default_comes_early_and_then_every_so_many_steps() -> None:
    task = nb.Task(Net(), cross_entropy, data())
    fit(task, "run", batch_size=8, epochs=70)
    steps = list(watched("run"))
    assert steps[0] == 10
    assert steps[1:] == [step for step in range(200, 421, 200) if step in steps]
    assert 200 in steps or 400 in steps
    task = nb.Task(Net(), cross_entropy, data())
    fit(task, "off", batch_size=8, epochs=5, gradient_stats_every_steps=None)
    assert watched("off") == {}


def test_slow_measurements_come_less_often() -> None:
    now_s = 0.0

    class Slow(GradientMonitor):
        """One that takes a second where a step takes one as well."""

        def before_update(self) -> None:
            super().before_update()
            self._cost_s = 1.0

        def on_step_end(self, state: Any) -> None:
            nonlocal now_s
            now_s += 1.0
            super().on_step_end(state)

        def after_update(self, norm: Tensor, refused: Tensor) -> None:
            super().after_update(norm, refused)
            nonlocal now_s
            now_s += 1.0  # what it took

    task = nb.Task(Net(), cross_entropy, data())
    fit(task, "run", Slow(10, clock=lambda: now_s), batch_size=8, epochs=80)
    steps = list(watched("run"))
    assert steps == [10, 210, 410]  # 1 s a step, 0.5 % of the time: 200 steps


def test_refused_update_is_not_written_and_the_next_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    x, y = data()
    x[8:16] = float("nan")
    task = nb.Task(Net(), cross_entropy, (x, y))
    fit(task, "run", GradientMonitor(1), batch_size=8, epochs=1, shuffle=False)
    assert list(watched("run")) == [1, 3, 4, 5, 6]


def test_numbers_that_arrive_late_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device: readings come many steps later, and nothing waits for them."""
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    ends, written = [], []
    for device in ("cpu", "mps"):
        monkeypatch.setattr(
            "nbutils.train.session.Readback",
            lambda _, kind=device: Readback(torch.device(kind)),
        )
        task = nb.Task(Net(), cross_entropy, data())
        fit(task, device, GradientMonitor(50), batch_size=2, epochs=10)
        ends.append(watched(device))
        written.append(read_events(f"{device}/events.jsonl"))
    assert list(ends[1]) == list(ends[0]) == [10, 50, 100, 150, 200]
    close(ends[1], ends[0], 1e-6)
    order = [(e["kind"], e["step"]) for e in written[1] if "step" in e]
    late = next(
        i
        for i, e in enumerate(order)
        if e == ("monitor", 10) and "gradients" in str(written[1][i])
    )
    assert ("step", 20) in order[:late]


def test_unused_and_frozen_parameters_have_no_part_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    model = Net()
    model.idle = nn.Linear(3, 3)
    model.head.requires_grad_(False)
    task = nb.Task(model, cross_entropy, data())
    fit(task, "run", GradientMonitor(1), batch_size=8, epochs=1)
    values = watched("run")[1]
    shares = {n for n in values if "share" in n}
    assert shares == {"gradients/share/body", "gradients/share/gain"}


def test_sparse_gradients_are_measured_as_dense_ones_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    torch.manual_seed(3)
    tokens, y = torch.randint(9, (24, 5)), torch.randint(3, (24,))

    def task(sparse: bool) -> nb.Task:
        torch.manual_seed(2)
        table = nn.Embedding(9, 4, sparse=sparse)
        model = nn.Sequential(table, nn.Flatten(), nn.Linear(20, 3))
        return nb.Task(
            model,
            cross_entropy,
            (tokens, y),
            make_optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        )

    for sparse in (False, True):
        fit(task(sparse), str(sparse), GradientMonitor(1), batch_size=8, epochs=1)
    close(watched("True"), watched("False"), 1e-4)


def test_labels_are_children_and_go_below_a_child_that_holds_all() -> None:
    inner = Net()
    wrapped = nn.ModuleDict({"net": inner})
    loss = nn.Linear(2, 2)
    parameters = [*wrapped.parameters(), *loss.parameters()]
    stray = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*parameters, stray], lr=0.1)
    labels = [label for label, _ in label_parameters(wrapped, loss, optimizer)]
    assert set(labels) == {"net.body", "net.head", "net.gain", "loss", "other"}
    assert labels.count("net.body") == 4
    single = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(single.parameters(), lr=0.1)
    assert [n for n, _ in label_parameters(single, None, optimizer)] == [
        "weight",
        "bias",
    ]


def test_modules_beyond_the_limit_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules_module, "MAX_MODULES", 3)
    model = nn.Sequential(*[nn.Linear(size, 1) for size in (5, 1, 9, 2, 7)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = [label for label, _ in label_parameters(model, None, optimizer)]
    assert labels[::2] == ["rest", "rest", "2", "rest", "4"]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_norms_of_any_dtype_are_those_in_wide_numbers(dtype: torch.dtype) -> None:
    tensors = [torch.randn(300).mul(2000).to(dtype), torch.zeros(0), torch.ones(3)]
    expected = [float(t.to(torch.complex128).abs().norm()) for t in tensors]
    assert [float(n) for n in tensor_norms(tensors)] == pytest.approx(expected, 1e-3)


@pytest.mark.parametrize("layout", ["plain", "channels last", "transposed"])
def test_large_models_are_sampled_evenly(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates_module, "MAX_ELEMENTS", 8192)
    torch.manual_seed(0)
    weight = torch.randn(64, 32, 4, 8)
    if layout == "channels last":
        weight = weight.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        weight = weight.transpose(0, 1)
    parameter, small = nn.Parameter(weight), nn.Parameter(torch.ones(16))
    probe = UpdateProbe([("big", parameter), ("small", small)])
    parameter.grad, small.grad = torch.ones_like(parameter), torch.ones_like(small)
    probe.begin()
    copied = sum(t.numel() for t in probe._before)
    with torch.no_grad():
        parameter.mul_(1.25)
        small.mul_(1.5)
    probe.end(torch.tensor(1.0), torch.tensor(0.0))
    reading = probe.read()
    assert copied <= 8192 + 64
    assert reading.ratios == pytest.approx({"big": 0.25, "small": 0.5}, rel=1e-5)
    assert reading.shares["small"] == pytest.approx(16 / (16 + parameter.numel()))


def test_without_memory_to_measure_the_run_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: UpdateProbe) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(UpdateProbe, "begin", full)
    task = nb.Task(Net(), cross_entropy, data())
    assert fit(task, "run", batch_size=8, epochs=3).stop_reason == "completed"
    texts = [event["text"] for event in kinds("run", "message")]
    assert sum("gradients and updates were measured" in text for text in texts) == 1
    assert watched("run") == {}


def test_other_errors_of_a_measurement_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: UpdateProbe) -> None:
        raise ValueError("mine")

    monkeypatch.setattr(UpdateProbe, "begin", broken)
    task = nb.Task(Net(), cross_entropy, data())
    with pytest.raises(ValueError, match="mine"):
        fit(task, "run", batch_size=8, epochs=3)


def test_no_steps_between_two_looks_are_refused() -> None:
    with pytest.raises(ConfigError, match="every_steps is 0; it must be >= 1"):
        GradientMonitor(0)
