"""Each watchdog: a seeded fault that makes it speak, and a healthy twin in silence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import nbutils as nb
from nbutils.monitor.events import Event, EventLog, read_events
from nbutils.monitor.report import write_report
from nbutils.monitor.watchdogs.alarm import Alarm, Pass, Stretch
from nbutils.monitor.watchdogs.baseline import BaselineWatchdog, Level
from nbutils.monitor.watchdogs.checkpoints import CheckpointWatchdog
from nbutils.monitor.watchdogs.frozen import FrozenWatchdog
from nbutils.monitor.watchdogs.gradients import GradientWatchdog
from nbutils.monitor.watchdogs.limits import LimitWatchdog
from nbutils.monitor.watchdogs.nonfinite import NonFiniteWatchdog
from nbutils.monitor.watchdogs.overfit import OverfitWatchdog
from nbutils.monitor.watchdogs.pace import PaceWatchdog
from nbutils.monitor.watchdogs.skips import SkipRateWatchdog
from nbutils.monitor.watchdogs.statistics import SIGNIFICANT, median, noise, trend
from nbutils.train.levels import trivial_levels
from nbutils.train.precision import Precision
from nbutils.train.probe import WeightProbe
from nbutils.train.state import RunState
from nbutils.train.watchdogs import Watchdogs

GIB = 2**30


def passes(
    train: Iterable[float], val: Iterable[float | None], **more: Any
) -> list[Pass]:
    options: dict[str, Any] = {"lr": 1e-3, "movement": 0.01, **more}
    return [
        Pass(epoch=i, num_updates=100 * i, train_loss=t, val_loss=v, **options)
        for i, (t, v) in enumerate(zip(train, val, strict=True), 1)
    ]


def causes(observe: Callable[[Any], Iterable[Alarm]], told: Iterable[Any]) -> set[str]:
    return {alarm.cause for one in told for alarm in observe(one)}


def test_statistics_trend_noise_and_median() -> None:
    assert trend([5, 4, 3, 2, 1]) < -SIGNIFICANT < SIGNIFICANT < trend([1, 2, 3, 4, 5])
    assert trend([1.0, 2.0]) == trend([1.0] * 9) == 0.0
    assert noise([1.0]) == noise([3.0, 2.0, 1.0, 0.0]) == 0.0
    assert noise([0.0, 1.0] * 20) > 0.5
    assert median([3.0, 1.0]) == 2.0
    assert math.isnan(median([]))


# W1


def test_w1_weights_that_stand_still() -> None:
    fault = passes([0.7], [0.7], movement=0.0)
    (alarm,) = FrozenWatchdog().observe(fault[0])
    assert (alarm.id, alarm.cause, alarm.is_serious) == ("W1", "weights", True)
    assert "did not move in epoch 1, after 100 updates" in alarm.text
    for innocent in ({"movement": 1e-12}, {"movement": None}, {"lr": 0.0}):
        healthy = passes([0.7], [0.7], **{"movement": 0.0, **innocent})
        assert causes(FrozenWatchdog().observe, healthy) == set()


@pytest.mark.parametrize(
    ("train", "is_fault"),
    [
        ([0.0, 0.0], True),
        ([0.7, 0.0], True),
        ([0.7, 0.2, 0.01, 0.0, 0.0], False),  # a hinge loss that is done
        ([0.7, 0.6, 0.5], False),
    ],
)
def test_w1_training_loss_of_zero(train: list[float], is_fault: bool) -> None:
    found = causes(
        FrozenWatchdog().observe,
        passes(train, [0.5 / (i + 1) for i in range(len(train))]),
    )
    assert found == ({"train_loss"} if is_fault else set())


def test_w1_validation_loss_that_repeats() -> None:
    stuck = [0.655101, 0.6551010001, 0.655101]
    train = [0.7, 0.6, 0.5]
    assert causes(FrozenWatchdog().observe, passes(train, stuck)) == {"val_loss"}
    small = passes(train, stuck, movement=1e-6)
    assert causes(FrozenWatchdog().observe, small) == set()
    warm = passes(train, stuck, is_warming_up=True)
    assert causes(FrozenWatchdog().observe, warm) == set()
    moving = passes(train, [0.655101, 0.655110, 0.655101])
    assert causes(FrozenWatchdog().observe, moving) == set()


def test_w1_validation_loss_of_zero_needs_a_training_loss_of_its_kind() -> None:
    assert causes(FrozenWatchdog().observe, passes([0.7] * 3, [0.0] * 3)) == {
        "val_loss"
    }
    done = passes([0.7, 1e-5, 1e-6], [0.0] * 3)
    assert causes(FrozenWatchdog().observe, done) == set()


# W2


def test_w2_loss_at_once_metric_only_after_a_number() -> None:
    watch = NonFiniteWatchdog()
    seen = [{"loss": 0.5, "recall": math.nan, "f1": 0.2, "matrix": [[1, 2]]}]
    assert causes(watch.observe_metrics, seen) == set()
    seen = [{"loss": math.inf, "recall": math.nan, "f1": math.nan}]
    assert causes(watch.observe_metrics, seen) == {"val_loss", "metric f1"}


def test_w2_names_of_weights() -> None:
    (alarm,) = NonFiniteWatchdog().observe_weights(["a", "b", "c", "d"])
    assert alarm.text.startswith("a, b, c and 1 more of the model hold NaN")
    assert list(NonFiniteWatchdog().observe_weights([])) == []


def test_probe_sees_moves_and_what_turned_bad() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = WeightProbe(model, optimizer)
    assert probe.movement() == 0.0
    assert probe.nonfinite_names() == []
    with torch.no_grad():
        model[0].weight[0, 0], model[0].weight[0, 1] = (  # the norm stays
            model[0].weight[0, 1].clone(),
            model[0].weight[0, 0].clone(),
        )
    assert 0 < (probe.movement() or 0) < 1e-6
    with torch.no_grad():
        model[0].bias.add_(1.0)
        model[1].running_var[1] = math.nan  # type: ignore[index, operator, union-attr]
        model[1].weight.fill_(1e25)  # its square overflows; it is a number
    assert (probe.movement() or 0) > 0
    assert probe.nonfinite_names() == ["1.running_var"]


# W3


def test_w3_share_of_the_last_hundred_steps() -> None:
    watch = SkipRateWatchdog(0.05)
    healthy = [Stretch(num_steps=40, num_refused=n) for n in (4, 0, 2, 0, 2, 1)]
    assert causes(watch.observe, healthy) == set()
    fault = [Stretch(num_steps=40, num_refused=4), Stretch(num_steps=40, num_refused=4)]
    assert causes(watch.observe, fault) == {"rate"}


# W4


LEVELS = [Level(0.6931, "a constant")]


@pytest.mark.parametrize(
    ("val", "train", "is_fault"),
    [
        ([0.694, 0.693, 0.695, 0.694, 0.693], [0.69] * 5, True),
        ([0.9, 0.91, 0.9, 0.92, 0.9], [0.9] * 5, True),  # above is no better
        ([0.694, 0.690, 0.686, 0.682, 0.678], [0.7, 0.69, 0.68, 0.67, 0.66], False),
        ([0.6939, 0.6938, 0.6937, 0.6936, 0.6935], [0.69] * 5, False),  # slow
        ([0.5, 0.6, 0.7, 0.8, 0.9], [0.4, 0.3, 0.2, 0.1, 0.0], False),  # W7
        ([0.694, 0.693, 0.695, 0.694], [0.69] * 4, False),  # too early
        ([0.694, math.nan, 0.695, 0.694, 0.693], [0.69] * 5, False),  # W2
    ],
)
def test_w4_at_a_constants_level(
    val: list[float], train: list[float], is_fault: bool
) -> None:
    found = causes(BaselineWatchdog(LEVELS).observe, passes(train, val))
    assert found == ({"level"} if is_fault else set())


def test_w4_waits_longer_where_the_training_loss_falls() -> None:
    val = [0.694, 0.693, 0.695, 0.694, 0.693, 0.694, 0.695, 0.693, 0.694, 0.695]
    train = [0.69 - 0.05 * i for i in range(10)]
    watch = BaselineWatchdog(LEVELS)
    assert causes(watch.observe, passes(train, val)[:9]) == set()
    (alarm,) = watch.observe(passes(train, val)[9])
    assert "it learns by heart" in alarm.text


def test_w4_a_constant_that_is_still_being_learnt_is_told_from_a_small_rate() -> None:
    resting = [0.694 + 0.5**i * 0.01 for i in range(12)]
    linear = [0.6942 - 1e-5 * i for i in range(12)]
    train = [0.694] * 12
    assert causes(BaselineWatchdog(LEVELS).observe, passes(train, resting)) == {"level"}
    assert causes(BaselineWatchdog(LEVELS).observe, passes(train, linear)) == set()


def test_w4_a_guess_must_lie_close() -> None:
    guess = [Level(0.6931, "a guess", is_guess=True)]
    high, low = [2.1, 2.0, 2.1, 2.0, 2.1], [0.2, 0.21, 0.2, 0.21, 0.2]
    for val in (high, low):
        assert causes(BaselineWatchdog(guess).observe, passes(val, val)) == set()
    near = [0.694, 0.693, 0.695, 0.694, 0.693]
    assert causes(BaselineWatchdog(guess).observe, passes(near, near)) == {"level"}
    assert causes(BaselineWatchdog([]).observe, passes(near, near)) == set()
    warm = passes(near, near, is_warming_up=True)
    assert causes(BaselineWatchdog(guess).observe, warm) == set()


X = torch.zeros(8, 2)
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
MIX = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))


def levels_of(loss: Any, targets: Any, **more: Any) -> list[float]:
    data = targets if isinstance(targets, Dataset) else (X, targets)
    task = nb.Task(nn.Linear(2, 2), loss, (X, LABELS), data, **more)
    return [round(level.value, 5) for level in trivial_levels(task)]


class Folder(Dataset[Any]):
    """What torchvision gives."""

    targets = LABELS.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return X[index], self.targets[index]


def test_levels_are_what_a_constant_reaches() -> None:
    hand = nn.functional.cross_entropy
    mse, l1, bce = nn.MSELoss(), nn.L1Loss(), nn.BCEWithLogitsLoss()
    values = torch.tensor([[0.0, 1.0], [2.0, 1.0]] * 4)
    own = LABELS.clone()
    own[:4] = -100
    assert levels_of(nn.CrossEntropyLoss(), LABELS) == [round(MIX, 5)]
    assert levels_of(nn.CrossEntropyLoss(), Folder()) == [round(MIX, 5)]
    assert levels_of(nn.CrossEntropyLoss(), Subset(Folder(), [0, 6])) == [0.69315]
    assert levels_of(nn.CrossEntropyLoss(), own) == [0.69315]
    assert levels_of(nn.CrossEntropyLoss(label_smoothing=0.1), LABELS) == []
    assert levels_of(mse, values) == [0.5]
    assert levels_of(l1, values) == [0.5]
    assert levels_of(bce, LABELS.float()) == [round(MIX, 5)]
    assert levels_of(lambda o, b: hand(o, b[1]), LABELS) == [round(MIX, 5), 0.69315]
    assert levels_of(lambda o, b: o.mean(), values) == []
    assert (
        levels_of(lambda o, b: o.abs().mean(), torch.zeros(8, dtype=torch.cfloat)) == []
    )
    given = {"uniform": 1.2, "mean": 0.9, "note": "text"}
    assert levels_of(nn.CrossEntropyLoss(), LABELS, baselines=given) == [0.9]


# W5


def stretches(norms: list[float], losses: list[float], **more: Any) -> list[Stretch]:
    return [
        Stretch(num_steps=30, grad_norms=[n] * 30, losses=[x] * 30, **more)
        for n, x in zip(norms, losses, strict=True)
    ]


@pytest.mark.parametrize(
    ("norms", "losses", "found"),
    [
        ([1.0, 0.5, 0.0], [0.7, 0.5, 3.0], {"collapse"}),
        ([1.0, 0.9, 1e-9], [0.7, 0.7, 0.7], {"collapse"}),
        ([0.0, 0.0], [0.7, 0.7], {"collapse"}),
        ([1.0, 1e-3, 1e-8, 1e-9], [0.7, 0.3, 0.25, 0.25], set()),  # at its floor
        ([1.0, 0.1, 0.0], [0.7, 0.1, 0.0], set()),
        ([1.0, 1.2, 5e4], [0.7, 0.6, 9.0], {"explosion"}),
        ([1.0, 1.2, 5e4], [0.7, 0.6, 0.5], set()),  # it learns
        ([0.01, 0.3, 2.0, 1.0], [0.7, 0.6, 0.5, 0.4], set()),  # a warm-up
        ([1e-3, 1e-3], [-1.0, -2.0], set()),
    ],
)
def test_w5_gradients_are_judged_by_the_loss(
    norms: list[float], losses: list[float], found: set[str]
) -> None:
    assert causes(GradientWatchdog().observe, stretches(norms, losses)) == found


def test_w5_loss_scale_below_one() -> None:
    fault = stretches([1.0], [0.7], scale=0.5)
    assert causes(GradientWatchdog().observe, fault) == {"scale"}
    healthy = stretches([1.0], [0.7], scale=1.0)
    assert causes(GradientWatchdog().observe, healthy) == set()


# W6


def test_w6_slow_steps_against_the_first_minutes() -> None:
    def at(step_s: float) -> list[Stretch]:
        return [Stretch(num_steps=99, seconds=30.0, seconds_per_step=step_s)] * 8

    watch = PaceWatchdog()
    assert causes(watch.observe, [*at(0.01), *at(0.015)]) == set()
    assert causes(watch.observe, at(0.03)) == {"pace"}
    slow_start = [*at(9.0)[:1], *at(0.01), *at(0.01)]
    assert causes(PaceWatchdog().observe, slow_start) == set()


def test_w6_swap_that_grows() -> None:
    watch = PaceWatchdog()
    assert causes(watch.observe_swap, [3 * GIB, 3 * GIB + 2**20]) == set()
    assert causes(watch.observe_swap, [4 * GIB]) == {"swap"}


# W7


@pytest.mark.parametrize(
    ("val", "misses", "is_fault"),
    [
        ([0.5, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7], 6, True),
        ([0.5, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7], 2, False),  # accuracy improves
        ([0.5, 0.4, 0.41, 0.40, 0.41, 0.40, 0.41, 0.40], 6, False),
        ([0.7, 0.6, 0.5, 0.45, 0.42, 0.4, 0.39, 0.38], 0, False),
    ],
)
def test_w7_validation_rises_while_training_falls(
    val: list[float], misses: int, is_fault: bool
) -> None:
    train = [0.5 - 0.05 * i for i in range(8)]
    found = causes(OverfitWatchdog().observe, passes(train, val, num_misses=misses))
    assert found == ({"overfit"} if is_fault else set())
    rising = causes(OverfitWatchdog().observe, passes(val, val, num_misses=misses))
    assert rising == set()


# W8, W9


def test_w8_disk_memory_and_time() -> None:
    watch = LimitWatchdog(max_hours=1.0)
    assert list(watch.observe_disk(10 * GIB, 4 * GIB)) == []
    assert [a.cause for a in watch.observe_disk(7 * GIB, 4 * GIB)] == ["disk"]
    assert list(watch.observe_memory(2 * GIB, 100 * GIB)) == []
    assert [a.cause for a in watch.observe_memory(GIB // 2, 64 * GIB)] == ["memory"]
    assert list(watch.observe_memory(GIB // 2, 2 * GIB)) == []  # a small machine
    assert list(watch.observe_time(3000, 100, 1000)) == []
    (alarm,) = watch.observe_time(3300, 100, 1000)
    assert "in 5.0 min, at about step 109 of 1,000" in alarm.text
    assert list(watch.observe_time(3300, 990, 1000)) == []
    assert list(LimitWatchdog(None).observe_time(1e9, 1, 1000)) == []


@pytest.mark.parametrize(
    ("steps", "minutes", "age_steps", "age_min", "is_fault"),
    [
        (None, None, 10**6, 20, False),
        (None, None, 10, 50, True),
        (None, 5, 10, 12, False),
        (None, 5, 10, 14, True),
        (None, 30, 10, 60, False),
        (None, 30, 10, 80, True),
        (100, None, 240, 600, False),
        (100, None, 260, 2, True),
        (100, None, 260, 0.5, False),  # being written
    ],
)
def test_w9_age_against_the_cadence(
    steps: int | None,
    minutes: float | None,
    age_steps: int,
    age_min: float,
    is_fault: bool,
) -> None:
    found = list(CheckpointWatchdog(steps, minutes).observe(age_steps, 60 * age_min))
    assert [alarm.cause for alarm in found] == ["age"] * is_fault


# Runs


def xy(count: int = 160, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, 0] > 0).long()


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


class Elsewhere(nn.Module):
    """Trains one network and validates another."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.other = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.trained(x) if self.training else self.other(x)


class Dies(nn.Module):
    """After sixty windows its outputs no longer depend on anything."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = mlp(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        outputs = self.inner(x)
        is_dead = self.calls > 60
        return outputs * 0 + torch.tensor([3.0, -3.0]) if is_dead else outputs


def accuracy(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.argmax(1) == batch[1]).float().mean()


def hinge(outputs: Tensor, batch: Any) -> Tensor:
    return nn.functional.multi_margin_loss(outputs, batch[1])


def run(task: nb.Task, **settings: Any) -> tuple[nb.TrainResult, list[Event]]:
    options = {"batch_size": 8, "preflight": "skip", "panel": "off", **settings}
    result = nb.TrainingCoordinator(task, run_dir="a", **options).train()
    found = read_events(Path("a/events.jsonl"))
    return result, [event for event in found if event["kind"] == "watchdog"]


def classify(model: nn.Module | None = None, **more: Any) -> nb.Task:
    data, val = more.pop("data", xy()), more.pop("val", xy(40, seed=1))
    loss = more.pop("loss", nn.CrossEntropyLoss())
    return nb.Task(model or mlp(), loss, data, val, **more)


def blind() -> nb.Task:
    """Inputs of zero: nothing but the mix of classes can be learnt."""
    x, y = xy()
    return classify(data=(0 * x, y), val=(0 * x, y))


def by_heart() -> nb.Task:
    x, y = xy(40)
    y = torch.randint(2, y.shape, generator=torch.Generator().manual_seed(0))
    return classify(data=(x, y), val=xy(200, seed=1))


def spoilt_validation() -> nb.Task:
    x, y = xy(40, seed=1)
    x[3] = math.nan
    return classify(val=(x, y))


def sometimes_nan() -> nb.Task:
    x, y = xy(1600)
    x[::67] = math.nan
    return classify(data=(x, y))


BAD_DATA = {"shuffle": False, "max_consecutive_refusals": 50, "epochs": 1}


@pytest.mark.parametrize(
    ("make", "settings", "wanted"),
    [
        (lambda: classify(Elsewhere()), {"lr": 1e-2, "epochs": 4}, "W1"),
        (
            lambda: classify(loss=lambda outputs, _: (outputs * 0).sum()),
            {"epochs": 2},
            "W1",
        ),
        (classify, {"lr": 1e-12, "weight_decay": 0.0, "epochs": 2}, "W1"),
        (spoilt_validation, {"epochs": 2}, "W2"),
        (sometimes_nan, BAD_DATA, "W3"),
        (blind, {"lr": 1e-2, "epochs": 12}, "W4"),
        (lambda: classify(Dies(), data=xy(320)), {"epochs": 5}, "W5"),
        (by_heart, {"lr": 2e-2, "epochs": 9}, "W7"),
    ],
)
def test_run_with_a_fault_is_told_once(
    make: Callable[[], nb.Task], settings: dict[str, Any], wanted: str
) -> None:
    result, alarms = run(make(), **settings)
    assert [alarm["id"] for alarm in alarms] == [wanted]
    assert alarms[0]["severity"] == ("warning" if wanted in ("W3", "W7") else "serious")
    assert result.stop_reason == "completed"
    assert [alarm[:2] for alarm in result.alarms] == [wanted]
    assert f"! {wanted}: " in result.summary()
    assert f"! {wanted}: " in result._repr_html_()
    assert nb.TrainResult.from_run("a").alarms == result.alarms
    assert f"{wanted}: " in write_report("a").read_text()


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (classify, {"lr": 1e-5, "epochs": 12}),
        (classify, {"lr": 1e-7, "epochs": 12, "schedule": "cosine"}),
        (classify, {"warmup_steps": 150, "schedule": "cosine", "epochs": 12}),
        (
            lambda: classify(val=xy(), metrics={"accuracy": accuracy}),
            {"lr": 5e-2, "epochs": 25, "monitor": "val_accuracy", "mode": "max"},
        ),
        (
            lambda: classify(val=xy(), loss=hinge),
            {"lr": 1e-1, "epochs": 40, "weight_decay": 0.0},
        ),
        (lambda: classify(), {"ema_decay": 0.9999, "lr": 1e-2, "epochs": 12}),
        (classify, {"precision": "fp16", "lr": 1e-2, "epochs": 8}),
        (
            lambda: nb.Task(nn.Linear(6, 1), nn.MSELoss(), (xy()[0], xy()[0][:, :1])),
            {"batch_size": 160, "optimizer": "sgd", "lr": 0.1, "epochs": 120},
        ),
    ],
)
def test_run_that_is_healthy_is_left_in_peace(
    make: Callable[[], nb.Task], settings: dict[str, Any]
) -> None:
    result, alarms = run(make(), **settings)
    assert [alarm["text"] for alarm in alarms] == []
    assert result.alarms == []
    assert "! W" not in result.summary()


def test_run_with_a_frozen_backbone_is_left_in_peace() -> None:
    model = nn.Sequential(mlp(), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert run(classify(model), lr=1e-2, epochs=12)[1] == []


class Unfreeze(nb.Callback):
    """Gradual unfreezing: the first layer joins in a later pass."""

    def __init__(self, where: str = "epoch") -> None:
        self.where = where
        self.has_old_grad: list[bool] = []

    def on_fit_start(self, state: Any) -> None:
        layer = state.model[0]
        layer.register_forward_pre_hook(
            lambda *_: self.has_old_grad.append(layer.weight.grad is not None)
        )

    def on_epoch_start(self, state: Any) -> None:
        if self.where == "epoch" and state.epoch >= 1:
            state.model[0].requires_grad_(True)

    def on_step_end(self, state: Any) -> None:
        if self.where == "step" and state.step == 30:
            state.model[0].requires_grad_(True)


def freezing(**more: Any) -> nb.Task:
    model = mlp()
    model[0].requires_grad_(False)
    return classify(model, **more)


def all_of_it(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


@pytest.mark.parametrize(
    ("where", "settings"),
    [("epoch", {"epochs": 4}), ("step", {"data": 20, "epochs": 1})],
)
def test_parameters_unfrozen_without_a_group_are_told_once_and_gather_nothing(
    where: str, settings: dict[str, Any]
) -> None:
    callback = Unfreeze(where)
    data = {"data": xy(160 * settings.pop("data", 1))}
    task = freezing(**data)
    before = task.model[0].weight.detach().clone()
    result, alarms = run(task, callbacks=[callback], **settings)
    (alarm,) = alarms
    assert (alarm["id"], alarm["severity"]) == ("W1", "warning")
    assert "2 parameter tensors require a gradient" in alarm["text"]
    assert "0.weight, 0.bias. The optimizer" in alarm["text"]
    assert "make_optimizer=lambda model: torch.optim.AdamW(model.param" in alarm["text"]
    assert alarm["step"] == (20 if where == "epoch" else 256)
    assert result.alarms == [f"W1: {alarm['text']}"]
    assert torch.equal(task.model[0].weight, before)
    assert task.model[0].weight.grad is None
    seen = callback.has_old_grad
    assert seen.count(True) == (0 if where == "epoch" else 256 - 31)
    assert not any(seen[-20:])


def test_parameters_unfrozen_with_an_optimizer_over_all_train_in_peace() -> None:
    task = freezing(make_optimizer=all_of_it)
    before = task.model[0].weight.detach().clone()
    _, alarms = run(task, callbacks=[Unfreeze()], epochs=3)
    assert alarms == []
    assert not torch.equal(task.model[0].weight, before)


def test_parameters_that_rest_as_declared_are_told_only_if_more_join_them() -> None:
    def head(model: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model[2].parameters(), lr=1e-2)

    declared = classify(make_optimizer=head, declares=["frozen on purpose"])
    assert run(declared, epochs=2)[1] == []
    assert declared.model[0].weight.grad is None
    (alarm,) = run_again(classify(make_optimizer=head), "b", epochs=2)
    assert alarm["step"] == 0
    joined = freezing(make_optimizer=head, declares=["frozen on purpose"])
    (alarm,) = run_again(joined, "c", epochs=3, callbacks=[Unfreeze()])
    assert (alarm["id"], alarm["step"]) == ("W1", 20)


def run_again(task: nb.Task, run_dir: str, **settings: Any) -> list[Event]:
    options = {"batch_size": 8, "preflight": "skip", "panel": "off", **settings}
    nb.TrainingCoordinator(task, run_dir=run_dir, **options).train()
    found = read_events(Path(run_dir) / "events.jsonl")
    return [event for event in found if event["kind"] == "watchdog"]


def test_parameters_of_a_loss_that_nobody_steps_are_told_with_their_names() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs: Tensor, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(outputs * self.scale, batch[1])

    (alarm,) = run(classify(loss=Scaled(), make_optimizer=all_of_it), epochs=1)[1]
    assert "do not train: loss.scale." in alarm["text"]
    assert run_again(classify(loss=Scaled()), "b", epochs=1) == []


def test_gradients_without_a_group_are_dropped_with_watchdogs_off_too() -> None:
    task, callback = freezing(), Unfreeze()
    _, alarms = run(task, callbacks=[callback], epochs=3, watchdogs="off")
    assert alarms == []
    assert task.model[0].weight.grad is None
    assert not any(callback.has_old_grad)


def test_callback_that_steps_unowned_parameters_itself_finds_their_gradients() -> None:
    class OwnStep(nb.Callback):
        num_steps = 0

        def on_fit_start(self, state: Any) -> None:
            self.optimizer = torch.optim.SGD(state.model[0].parameters(), lr=0.1)

        def on_step_end(self, state: Any) -> None:
            self.num_steps += state.model[0].weight.grad is not None
            self.optimizer.step()

    def head(model: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model[2].parameters(), lr=1e-2)

    callback = OwnStep()
    task = classify(make_optimizer=head, declares=["frozen on purpose"])
    run(task, callbacks=[callback], epochs=1)
    assert callback.num_steps == 20


def test_watchdogs_stop_ends_the_run_with_the_alarm() -> None:
    result, alarms = run(spoilt_validation(), watchdogs="stop", epochs=9)
    assert len(alarms) == 1
    assert result.stop_reason.startswith("requested: W2: the validation loss is nan")
    assert result.steps == 20


def test_watchdogs_off_attach_nothing() -> None:
    result, alarms = run(spoilt_validation(), watchdogs="off", epochs=2)
    assert (alarms, result.alarms) == ([], [])


class Clock:
    """Time passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_machine_is_looked_at_each_half_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, model = Clock(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    config = nb.RunConfig(max_hours=1.0, save_every_minutes=1.0)
    precision = Precision("fp32", torch.device("cpu"))
    state = RunState(model=model, run_dir=tmp_path, planned_steps=10**6)
    with EventLog("events.jsonl") as events:
        watch = Watchdogs(config, classify(), optimizer, precision, events, clock)
        watch.on_fit_start(state)
        state.seconds = 3500.0
        module = "nbutils.train.watchdogs"
        monkeypatch.setattr(f"{module}.available_memory_bytes", lambda: 1)
        swap = [4 * GIB] * 9 + [0]
        monkeypatch.setattr(f"{module}._swap_bytes", swap.pop)
        usage = type("Usage", (), {"free": 5})
        monkeypatch.setattr(f"{module}.shutil.disk_usage", lambda _path: usage)
        told = []
        for seconds in (1, 28, 2, 60, 60, 60):
            clock.now += seconds
            state.step += 1
            watch.on_step_end(state)
            found = [e for e in read_events("events.jsonl") if e["kind"] == "watchdog"]
            told.append([event["id"] for event in found])
    assert told[:2] == [[], []]
    assert told[2] == ["W8", "W8", "W8"]
    assert told[3] == told[4] == ["W8", "W8", "W8", "W6"]
    assert told[5] == ["W8", "W8", "W8", "W6", "W9"]
    assert len(state.alarms) == 5
