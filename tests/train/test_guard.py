"""Law 2: what is not finite leaves no trace, and budgets count what they should."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbutils as nb
from nbutils.train.buffers import LiveBuffers
from nbutils.train.ema import Ema
from nbutils.train.guard import Evidence, SkipBudget, is_settling
from nbutils.train.oom import MicroBatches
from nbutils.train.precision import Precision
from nbutils.train.state import Reading, RunState
from nbutils.train.step import TrainStep
from nbutils.train.update import DeviceUpdate, HostUpdate, make_update

CPU = torch.device("cpu")
FAULTS = ["input nan", "input inf", "target", "loss", "gradient", "statistics", "term"]


class Counted(nn.Module):
    """A loss with a learnt weight, a running mean, and terms that can be spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("running", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        error = ((outputs - batch["y"]) ** 2).mean()
        self.running = 0.9 * self.running + 0.1 * error.detach()  # a new object
        self.calls += 1
        fault = batch.get("fault")
        main = error * self.weight.exp() + self.weight**2
        other = outputs.abs().mean()
        if fault == "loss":
            main = main + torch.tensor(math.nan)  # the gradient stays finite
        if fault == "term":
            other = other * math.inf
        return {"main": main, "other": other}


class Net(nn.Module):
    """BatchNorm on the way, a masked branch beside it, a buffer that comes late."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.masked = nn.BatchNorm1d(3)
        self.head = nn.Linear(6, 1)
        self.register_buffer("late", torch.zeros(2))

    def forward(self, batch: Any) -> Tensor:
        aside = self.masked(batch["aside"])
        features = self.body(batch["x"])
        if batch.get("late"):
            self.late += 1
        if batch.get("fault") == "gradient" and features.requires_grad:
            features.register_hook(lambda gradient: gradient * math.inf)
        aside = torch.where(batch["mask"], aside.detach(), torch.zeros(()))
        return self.head(features) + aside.sum(1, keepdim=True)


def batch_of(seed: int, fault: str | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    x, y, aside = (torch.randn(6, n, generator=generator) for n in (3, 1, 3))
    batch: dict[str, Any] = {"x": x, "y": y, "aside": aside}
    batch["mask"] = torch.ones(6, 3, dtype=torch.bool)
    if fault is not None:
        batch |= {"fault": fault, "late": True}
        batch["mask"][0] = False
        spoilt = {"input nan": x, "input inf": x, "target": y, "statistics": aside}
        if fault in spoilt:
            spoilt[fault][0] = math.nan if "nan" in fault else math.inf
    return batch


class Bench:
    """One model with all that a step may touch, built the same way each time."""

    def __init__(
        self, update: type[HostUpdate], precision: str = "fp32", **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.model, self.loss = Net(), Counted()
        task = nb.Task(
            self.model,
            self.loss,
            [0],
            forward=lambda model, batch: model(batch),
            count_targets=lambda batch: len(batch["y"]),
        )
        parameters = [*self.model.parameters(), *self.loss.parameters()]
        kind = options.pop("optimizer", torch.optim.AdamW)
        more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        self.optimizer = kind(parameters, lr=0.05, fused=True, **more)
        self.precision = Precision(precision, CPU)
        self.ema = Ema(self.model, 0.9)
        guard = nb.RunConfig(**options).guard
        built = update(self.optimizer, self.precision, guard, self.ema)
        buffers = LiveBuffers(self.model, self.loss)
        micro = MicroBatches(self.model, CPU, buffers, enabled=False, on_split=print)
        self.step = TrainStep(
            task, self.model, built, self.precision, CPU, {}, micro, buffers
        )

    def train(self, window: list[dict[str, Any]]) -> bool:
        if self.precision.scale is not None:
            self.precision.scale.value.fill_(64.0)  # a settled one, in both twins
        return bool(self.step(window).refused.item())

    def everything(self) -> dict[str, Any]:
        moments = self.optimizer.state_dict()["state"]
        parts = {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "ema": self.ema.state_dict()["shadow"],
            **{f"moment {key}": value for key, value in moments.items()},
            "ramp": {"n": torch.tensor(self.ema.state_dict()["num_updates"])},
        }
        return {
            f"{part}.{name}": copy.deepcopy(value)
            for part, content in parts.items()
            for name, value in content.items()
        }


def assert_identical(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_step_refused_window_leaves_what_was_never_trained(
    fault: str, precision: str, update: type[HostUpdate]
) -> None:
    poisoned, clean = Bench(update, precision), Bench(update, precision)
    flags = [
        poisoned.train([batch_of(seed, fault if seed == 2 else None)])
        for seed in (1, 2, 3)
    ]
    assert flags == [False, True, False]
    assert [clean.train([batch_of(seed)]) for seed in (1, 3)] == [False, False]
    assert_identical(poisoned.everything(), clean.everything())


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("fault", ["input nan", "loss", "gradient", "statistics"])
def test_step_one_bad_micro_batch_refuses_its_window(
    fault: str, position: int, update: type[HostUpdate]
) -> None:
    poisoned, clean = Bench(update), Bench(update)
    bad = [batch_of(10 + i, fault if i == position else None) for i in range(4)]
    assert poisoned.train(bad)  # the very first window: nothing is learnt yet
    for bench in (poisoned, clean):
        assert not bench.train([batch_of(seed) for seed in range(4)])
    assert_identical(poisoned.everything(), clean.everything())


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize(
    "clipping",
    [{"clip_norm": None}, {"clip_value": 0.1}, {"clip_value": 1.0, "clip_norm": None}],
)
@pytest.mark.parametrize("fault", ["input inf", "gradient", "loss"])
def test_step_clipping_hides_nothing_from_the_guard(
    fault: str, clipping: dict[str, Any], update: type[HostUpdate]
) -> None:
    poisoned, clean = Bench(update, **clipping), Bench(update, **clipping)
    flags = [
        poisoned.train([batch_of(seed, fault if seed == 2 else None)])
        for seed in (1, 2, 3)
    ]
    assert flags == [False, True, False]
    assert [clean.train([batch_of(seed)]) for seed in (1, 3)] == [False, False]
    assert_identical(poisoned.everything(), clean.everything())


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_update_clip_value_does_not_make_a_number_of_infinity(
    value: float, update: type[HostUpdate]
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    guard = nb.RunConfig(clip_value=0.5).guard
    built = update(optimizer, Precision("fp32", CPU), guard, None)
    before = copy.deepcopy(model.state_dict())
    loss = model(torch.ones(1, 2)).sum()
    loss.backward()
    assert model.weight.grad is not None
    model.weight.grad[0, 0] = value
    norm, refused = built(loss.detach())
    assert refused.item() == 1
    assert not torch.isfinite(norm)
    assert_identical(before, dict(model.state_dict()))


def test_update_fused_momentum_survives_a_refused_first_step() -> None:
    poisoned = Bench(DeviceUpdate, optimizer=torch.optim.SGD)
    clean = Bench(DeviceUpdate, optimizer=torch.optim.SGD)
    junk = [torch.full((6, 3), math.nan) for _ in range(50)]
    del junk  # what uninitialised memory would show
    assert poisoned.train([batch_of(1, "gradient")])
    for bench in (poisoned, clean):
        assert not bench.train([batch_of(2)])
    assert_identical(poisoned.everything(), clean.everything())


def test_make_update_dampened_momentum_decides_on_the_host() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, dampening=0.5, fused=True
    )
    guard = nb.RunConfig().guard
    update, reason = make_update(
        optimizer, Precision("fp32", CPU), guard, torch.device("cuda")
    )
    assert type(update) is HostUpdate
    assert "SGD is dampened: one host sync per step" in reason


def test_update_sparse_gradient_with_nan_is_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    update = HostUpdate(optimizer, Precision("fp32", CPU), nb.RunConfig().guard, None)
    before = table.weight.detach().clone()
    for value, is_refused in ((math.nan, 1.0), (1.0, 0.0)):
        loss = table(torch.tensor([1, 1, 3])).sum()
        loss.backward()
        grad: Any = table.weight.grad
        grad._values()[0] = value
        assert update(loss.detach())[1].item() == is_refused
        assert torch.equal(before, table.weight) is bool(is_refused)


def test_buffers_replaced_or_resized_by_a_refused_window_come_back() -> None:
    model = nn.Module()
    model.register_buffer("grows", torch.zeros(2))
    model.register_buffer("born", None)
    buffers = LiveBuffers(model)
    original = model.grows
    for flag in (1.0, 0.0):
        buffers.keep()
        model.grows = torch.ones(3)
        model.born = torch.ones(1)
        buffers.settle(torch.tensor(flag))
        assert (model.grows is original) is bool(flag)
        assert (model.born is None) is bool(flag)


def test_buffers_large_constant_is_not_copied_until_it_changes() -> None:
    model = nn.Module()
    model.register_buffer("queue", torch.zeros(100))
    buffers = LiveBuffers(model, large_bytes=100)
    for expected in (1.0, 1.0):  # the first change is seen; the second is taken back
        buffers.keep()
        model.queue.add_(1.0)
        buffers.settle(torch.tensor(float(expected == model.queue[0].item() - 1)))
        assert model.queue[0].item() == expected


def test_buffers_health_tells_infinite_statistics_and_other_nan() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.register_buffer("smallest", torch.full((1,), math.inf))
    buffers = LiveBuffers(model)
    buffers.keep()
    model.smallest.mul_(1.0)
    buffers.settle(torch.tensor(0.0))
    assert buffers.health() == 0  # infinity is where a running minimum begins
    model[0].running_var[0] = math.inf
    assert torch.isnan(buffers.health())  # type: ignore[arg-type]
    model[0].running_var.fill_(1.0)
    model.smallest.fill_(math.nan)
    assert torch.isnan(buffers.health())  # type: ignore[arg-type]


def reading(step: int, loss: float = math.nan, norm: float = math.nan) -> Reading:
    is_refused = not (math.isfinite(loss) and math.isfinite(norm))
    return Reading(step, loss, norm, is_refused, {}, 1)


def judge(
    budget: SkipBudget, state: RunState, one: Reading, scale: float | None = None
) -> str | None:
    state.record(one)
    return budget.observe(one, state, scale, Evidence())


@pytest.mark.parametrize(
    ("steps", "fraction", "allowed"),
    [
        (5, 0.05, 3),  # never fewer than may come in a row
        (60, 0.05, 3),
        (79, 0.05, 3),
        (80, 0.05, 4),
        (100, 0.29, 29),
        (100, 0.07, 7),
        (1000, 0.05, 50),
    ],
)
def test_budget_of_an_epoch_is_its_share(
    steps: int, fraction: float, allowed: int
) -> None:
    guard = nb.RunConfig(max_refused_fraction=fraction).guard
    budget, state = SkipBudget(guard, steps), RunState()
    assert budget.allowed_per_epoch(state) == allowed
    for step in range(allowed):
        assert judge(budget, state, reading(2 * step)) is None
        assert judge(budget, state, reading(2 * step + 1, 1.0, 1.0)) is None
    reason = judge(budget, state, reading(9999))
    assert reason is not None
    assert f"{allowed + 1} in this epoch were refused" in reason


def test_budget_of_a_stream_is_a_share_of_what_it_has_seen() -> None:
    budget, state = SkipBudget(nb.RunConfig().guard, None, 2), RunState()
    assert budget.allowed_per_epoch(state) == 50
    state.batch = 20_000
    assert budget.allowed_per_epoch(state) == 500


def test_budget_settling_scale_is_free_and_a_collapse_is_not() -> None:
    budget, state = SkipBudget(nb.RunConfig().guard, 20), RunState()
    for step in range(12):
        assert judge(budget, state, reading(step, 1.0), scale=1024.0) is None
    assert state.epoch_skipped == 12
    # settled by now: what came before must not eat the epoch's budget
    assert judge(budget, state, reading(13)) is None
    verdicts = [judge(budget, state, reading(20 + i, 1.0), scale=1.0) for i in range(3)]
    assert verdicts[:2] == [None, None]
    assert "4 updates in a row" in str(verdicts[2])


def test_settling_needs_a_gradient_that_overflowed() -> None:
    assert is_settling(reading(1, 1.0, math.inf), 2.0)
    assert not is_settling(reading(1, 1.0, math.inf), 1.0)
    assert not is_settling(reading(1, math.nan, math.inf), 2.0)
    assert not is_settling(Reading(1, 1.0, 1.0, True, {}, 1), 2.0)  # statistics
    assert not is_settling(reading(1, 1.0, math.inf), None)


def test_budget_counters_survive_a_resume() -> None:
    state = RunState()
    for step in range(3):
        judge(SkipBudget(nb.RunConfig().guard, 20), state, reading(step))
    resumed = RunState()
    resumed.load_state_dict(state.state_dict())
    reason = judge(SkipBudget(nb.RunConfig().guard, 20), resumed, reading(4))
    assert "4 updates in a row and 4 in this epoch" in str(reason)


def test_budget_forgives_what_was_on_its_way() -> None:
    budget, state = SkipBudget(nb.RunConfig().guard, 20), RunState(step=70)
    reasons = [judge(budget, state, reading(step)) for step in range(1, 5)]
    assert reasons[-1] is not None
    budget.forgive(state)
    late = [judge(budget, state, reading(step)) for step in range(5, 71)]
    assert set(late) == {None}
    new = [judge(budget, state, reading(step)) for step in range(71, 75)]
    assert [reason is None for reason in new] == [True, True, True, False]


def test_budget_of_none_raises_at_once() -> None:
    budget = SkipBudget(nb.RunConfig(max_consecutive_refusals=0).guard, 20)
    with pytest.raises(nb.NonFiniteStepError, match="Step 7 was refused before"):
        judge(budget, RunState(), reading(7))


def test_state_of_an_older_snapshot_keeps_the_new_counters_at_zero() -> None:
    saved = RunState(step=3).state_dict()
    del saved["rollbacks"], saved["epoch_refusals"]
    state = RunState()
    state.load_state_dict(saved)
    assert (state.step, state.rollbacks, state.epoch_refusals) == (3, 0, 0)
