"""Operations by formula, tokens by count, rates by the clock."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, scaled_dot_product_attention
from torch.torch_version import TorchVersion
from watcher_tools import fit, kinds, monitored

import nbutils as nb
from nbutils.errors import ConfigError
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.watchers import (
    AmpMonitor,
    LearningRateMonitor,
    StoppingMonitor,
    ThroughputMonitor,
    Watcher,
)
from nbutils.train.watchers import throughput as throughput_module
from nbutils.train.watchers.flops import FlopCount, can_count
from nbutils.train.watchers.learning_rates import group_names
from nbutils.train.watchers.tokens import count_tokens, has_tokens


def flops_of(model: nn.Module, inputs: Tensor) -> FlopCount:
    with FlopCount() as count:
        outputs = model(inputs)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs.abs().sum().backward()
    return count


def test_flops_of_a_linear_layer_are_those_of_the_formula() -> None:
    inputs = torch.randn(32, 20)
    count = flops_of(nn.Linear(20, 7), inputs)
    # Forward and gradient of the weights; inputs need none.
    assert count.flops == 2 * (2 * 32 * 20 * 7)
    assert count.is_whole
    assert flops_of(nn.Linear(20, 7), inputs.requires_grad_()).flops == 3 * 8960


def test_flops_of_a_convolution_are_those_of_the_formula() -> None:
    inputs = torch.randn(4, 3, 10, 10)
    count = flops_of(nn.Conv2d(3, 8, 3, padding=1), inputs)
    forward = 2 * 4 * 8 * 10 * 10 * 3 * 3 * 3
    assert count.flops == 2 * forward


def test_flops_of_attention_are_those_of_the_formula() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scaled_dot_product_attention(x, x, x)

    inputs = torch.randn(2, 4, 16, 8, requires_grad=True)
    forward = 2 * (2 * 2 * 4 * 16 * 16 * 8)
    count = flops_of(Attention(), inputs)
    if count.is_whole:  # two products forward, five backward
        assert count.flops == forward + 2.5 * forward
    else:  # torch 2.6 has no formula for a CPU's kernel
        assert TorchVersion(torch.__version__) < "2.11"


def test_complex_products_count_four_times() -> None:
    class Product(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return x.to(self.weight.dtype) @ self.weight

    inputs = torch.randn(3, 5)
    real = flops_of(Product(torch.float32), inputs).flops
    assert flops_of(Product(torch.complex64), inputs).flops == 4 * real


def test_work_without_a_formula_makes_no_figure() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.first(x)).real

    assert not flops_of(Spectrum(), torch.randn(4, 8)).is_whole


def test_formula_that_fails_makes_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> int:
        raise AssertionError("odd shapes")

    count = FlopCount()
    count._formulas = {torch.ops.aten.mm: broken, torch.ops.aten.addmm: broken}
    with count:
        nn.Linear(3, 2)(torch.randn(4, 3)).sum().backward()
    assert not count.is_whole
    assert not count.had_error


def test_operation_that_fails_is_noticed_and_raised() -> None:
    count = FlopCount()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), count:
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert count.had_error


class Sizes(nn.Module):
    """A bit of everything, for bits that must not change."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.inner = {
            "lstm": nn.LSTM(16, 16, batch_first=True),
            "attention": nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
            "conv": nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)),
        }[kind]
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x).unsqueeze(1).expand(-1, 4, -1)
        found = self.inner(found)
        found = found[0] if isinstance(found, tuple) else found
        return self.head(self.drop(found.mean(1)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["lstm", "attention", "conv"])
def test_counting_changes_no_bit(
    kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    torch.manual_seed(5)
    x, y = torch.randn(32, 6), torch.randint(2, (32,))
    for counts in (True, False):
        with monkeypatch.context() as patch:
            if not counts:
                patch.setattr(throughput_module, "can_count", lambda task: False)
            task = nb.Task(Sizes(kind), cross_entropy, (x, y))
            fit(task, f"run-{counts}", batch_size=8, epochs=2, precision=precision)
            ends.append(weights(task))
    assert_same(*ends)


def linear_task(num_samples: int = 64, **options: Any) -> nb.Task:
    torch.manual_seed(0)
    x, y = torch.randn(num_samples, 20), torch.randn(num_samples, 7)
    return nb.Task(nn.Linear(20, 7), mse_loss, (x, y), **options)


def test_rates_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class Ticking(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            nonlocal now_s
            now_s += 0.5 if state.step > 2 else 100.0  # start-up is left out

        def on_epoch_end(self, state: Any) -> None:
            nonlocal now_s
            now_s += 1000.0  # so is what happens between two passes

    ticking = Ticking()
    monitor = ThroughputMonitor(4, clock=lambda: now_s)
    monkeypatch.setattr(throughput_module, "peak_flops_per_s", lambda *_: 4e6)
    # As a callback of the user it comes after the monitor: a step's time is seen by
    # the step after it.
    fit(linear_task(), "run", monitor, ticking, batch_size=8, epochs=2)
    found = monitored("run", "throughput/")
    assert list(found) == [4, 8, 12, 16]
    # Steps 3 and 4 were done in the 100 s after step 2 and the half one after step 3.
    assert found[4]["throughput/samples_per_s"] == pytest.approx(16 / 100.5)
    assert found[8]["throughput/samples_per_s"] == pytest.approx(32 / 2)
    assert found[12]["throughput/samples_per_s"] == pytest.approx(32 / 1.5)
    rate = found[8]["throughput/samples_per_s"]
    flops = 2 * 2 * 20 * 7  # a sample, forward and weights
    assert found[8]["throughput/flops_per_s"] == pytest.approx(rate * flops)
    assert "throughput/mfu" not in found[8]  # a CPU has no peak


def test_mfu_is_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput_module, "_peak", lambda parts: 1e12)
    fit(linear_task(), "run", ThroughputMonitor(2), batch_size=8, epochs=1)
    for values in list(monitored("run", "throughput/").values())[1:]:
        expected = values["throughput/flops_per_s"] / 1e12
        assert values["throughput/mfu"] == pytest.approx(expected)


def test_window_of_several_batches_counts_all_of_them() -> None:
    fit(linear_task(), "one", ThroughputMonitor(1), batch_size=8, epochs=1)
    fit(
        linear_task(),
        "two",
        ThroughputMonitor(1),
        batch_size=8,
        accumulation=2,
        epochs=1,
    )
    ratios = []
    for folder in ("one", "two"):
        last = list(monitored(folder, "throughput/").values())[-1]
        ratios.append(last["throughput/flops_per_s"] / last["throughput/samples_per_s"])
    assert ratios == pytest.approx([2 * 2 * 20 * 7] * 2)


def test_compiled_models_are_not_counted() -> None:
    task = linear_task()
    assert can_count(task)
    task.model.compile()
    assert not can_count(task)
    assert not can_count(linear_task(forward=torch.compile(lambda m, b: m(b[0]))))


class Text(nn.Module):
    """Two tables, and a class per text."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(50, 8), nn.Embedding(12, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, batch: Any) -> Tensor:
        ids = batch["input_ids"] if isinstance(batch, dict) else batch
        places = self.place(torch.arange(ids.shape[1]))
        return self.head((self.token(ids) + places).mean(1))


def test_tokens_are_counted_by_their_mask() -> None:
    ids, mask = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5)
    mask[0, 2:] = 0
    assert count_tokens({"input_ids": ids, "attention_mask": mask}) == 12
    assert count_tokens({"input_ids": ids}) == 15
    assert count_tokens((ids, torch.zeros(3))) == 15
    assert count_tokens(torch.zeros(3)) is None
    assert count_tokens({"x": ids}) is None
    assert count_tokens({"input_ids": ids, "attention_mask": mask[:, :3]}) is None
    on_device = {"input_ids": ids, "attention_mask": mask.to("meta")}
    assert count_tokens(on_device) is None


def test_columns_of_a_table_are_no_tokens() -> None:
    ids = torch.zeros(3, 4, dtype=torch.int64)
    assert has_tokens(Text(), (ids, None))
    assert has_tokens(nn.Linear(2, 2), {"input_ids": ids})
    assert not has_tokens(nn.Linear(2, 2), (ids, None))
    assert not has_tokens(Text(), (ids.float(), None))
    columns = nn.ModuleList(nn.Embedding(3, 2) for _ in range(3))
    assert not has_tokens(columns, (ids[:, :3], None))
    columns.extend([nn.Embedding(3, 2)])
    assert not has_tokens(columns, (torch.zeros(3, 9, dtype=torch.int64), None))


def test_tokens_per_second_are_the_tokens_of_the_samples() -> None:
    ids, y = torch.randint(50, (64, 12)), torch.randint(2, (64,))
    mask = torch.ones(64, 12)
    mask[:, 9:] = 0
    text = {"input_ids": ids, "attention_mask": mask, "labels": y}

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return cross_entropy(outputs, batch["labels"])

    task = nb.Task(Text(), loss, text)
    fit(task, "run", ThroughputMonitor(3), batch_size=8, epochs=2)
    found = monitored("run", "throughput/")
    assert found
    for values in found.values():
        ratio = values["throughput/tokens_per_s"] / values["throughput/samples_per_s"]
        assert ratio == pytest.approx(9)
    fit(make_task(), "plain", ThroughputMonitor(2), batch_size=8, epochs=1)
    assert all("tokens" not in str(v) for v in monitored("plain").values())


def test_waiting_is_the_share_of_time_that_the_loader_took() -> None:
    import time

    class Slow(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> Any:
            time.sleep(0.002)
            return torch.ones(20), torch.ones(7)

    task = nb.Task(nn.Linear(20, 7), mse_loss, Slow())
    fit(task, "slow", ThroughputMonitor(4), batch_size=4, epochs=1)
    shares = [v["loader/wait_fraction"] for v in monitored("slow", "loader/").values()]
    assert shares
    assert all(0.5 < share <= 1 for share in shares)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_learning_rates_are_those_of_each_group_at_that_very_step(
    schedule: str,
) -> None:
    used: list[list[float]] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            used.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def build(model: Any) -> Spy:
        groups: list[dict[str, Any]] = [
            {"params": model[0].parameters(), "lr": 0.1, "name": "body"},
            {"params": model[4].parameters(), "lr": 0.01},
        ]
        return Spy(groups, lr=0.1)

    task = make_task(make_optimizer=build)
    fit(task, "run", LearningRateMonitor(1), schedule=schedule, batch_size=8, epochs=3)
    found = monitored("run", "lr/")
    assert list(found) == list(range(1, 16))
    told = [[values["lr/body"], values["lr/group1"]] for values in found.values()]
    assert told == used
    assert len({rates[0] for rates in told}) > 5


def test_group_names_are_all_different() -> None:
    assert group_names([{}]) == ["all"]
    assert group_names([{"name": "a"}, {"name": "a"}]) == ["a-0", "a-1"]


def test_watchers_by_default_look_at_logged_steps_and_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.watcher.GAP_S", 3600.0)
    fit(make_task(), "run", batch_size=8, epochs=13, log_every_steps=20)
    assert list(monitored("run", "lr/")) == [20, 65]  # a gap lies between two looks
    assert list(monitored("run", "throughput/")) == [20, 65]


def test_amp_tells_scale_overflows_and_skipped_steps() -> None:
    task = make_task()
    with torch.no_grad():
        task.model[4].weight.mul_(30)  # gradients that 65536 takes out of fp16
    fit(task, "run", AmpMonitor(1), precision="fp16", batch_size=8, epochs=8)
    refused = kinds("run", "refused")
    assert refused, "this test needs an overflow"
    last = list(monitored("run", "amp/").values())[-1]
    assert last == {
        "amp/skipped_steps": len(refused),
        "amp/overflows": len(refused),
        "amp/loss_scale": 65536.0 / 2 ** len(refused),
    }
    start = kinds("run", "run_start")[0]
    assert start["amp"] is True
    assert (start["precision_requested"], start["precision"]) == ("fp16", "fp16")


def test_amp_counts_a_bad_batch_as_skipped_and_not_as_an_overflow() -> None:
    x, y = torch.randn(40, 6), torch.randint(2, (40,))
    x[8] = float("nan")
    task = nb.Task(make_task().model, cross_entropy, (x, y))
    fit(task, "run", precision="fp16", batch_size=8, epochs=1)
    last = list(monitored("run", "amp/").values())[-1]
    assert (last["amp/skipped_steps"], last["amp/overflows"]) == (1, 0)


def test_amp_overflows_go_on_after_a_resume() -> None:
    class Stop(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 12:
                state.request_stop("test")

    ends = []
    for callbacks in ([], [Stop()]):
        task = make_task()
        with torch.no_grad():
            task.model[4].weight.mul_(30)
        folder = f"run{len(callbacks)}"
        options: dict[str, Any] = {"precision": "fp16", "batch_size": 8, "epochs": 6}
        fit(task, folder, *callbacks, **options)
        if callbacks:
            fit(task, folder, **options)
        ends.append(list(monitored(folder, "amp/").values())[-1])
    assert ends[0] == ends[1]
    assert ends[0]["amp/overflows"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_amp_without_a_scale_tells_none(precision: str) -> None:
    fit(make_task(), "run", precision=precision, batch_size=8, epochs=2)
    found = monitored("run", "amp/")
    names = {name for values in found.values() for name in values}
    assert names == (set() if precision == "fp32" else {"amp/skipped_steps"})


def test_stopping_tells_what_is_left_of_patience_target_and_time() -> None:
    result = fit(
        make_task(),
        "run",
        batch_size=8,
        epochs=40,
        lr=0.3,
        patience=3,
        target=1e-9,
        max_hours=0.5,
        ema_decay=0.9,
    )
    assert result.stop_reason == "patience"
    found = list(monitored("run", "stop/").values())
    left = [values["stop/patience_left"] for values in found]
    assert left[-3:] == [2, 1, 0]
    assert [values["stop/misses"] + 3 for values in found[-3:]] == [4, 5, 6]
    losses = [row["val_loss"] for row in result.rows]
    gaps = [values["stop/target_gap"] for values in found]
    assert gaps == pytest.approx([loss - 1e-9 for loss in losses])
    seconds = [values["stop/seconds_left"] for values in found]
    assert seconds == sorted(seconds, reverse=True)
    assert 1700 < seconds[-1] < 1800
    decays = [values["ema/decay"] for values in monitored("run", "ema/").values()]
    assert decays[0] == pytest.approx((1 + 6) / (10 + 6))  # 5 updates were made
    done = kinds("run", "run_end")[0]["step"]
    assert decays[-1] == pytest.approx(min(0.9, (2 + done) / (11 + done)))
    start = kinds("run", "run_start")[0]
    names = ("patience", "target", "max_hours", "ema_decay", "monitor", "mode")
    assert [start[n] for n in names] == [3, 1e-9, 0.5, 0.9, "val_loss", "min"]


def test_stopping_is_silent_where_nothing_ends_a_run_early() -> None:
    fit(make_task(), "run", StoppingMonitor(), batch_size=8, epochs=2)
    assert monitored("run", "stop/") == {}


def test_watcher_outside_a_run_says_so() -> None:
    with pytest.raises(ConfigError, match="AmpMonitor is not attached to a run"):
        _ = AmpMonitor().parts
    assert isinstance(AmpMonitor(), Watcher)


def test_cadence_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="every_steps is 0; it must be >= 1"):
        ThroughputMonitor(0)
