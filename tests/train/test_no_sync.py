"""Law 9: on an accelerator no step waits; what stands behind that, shown on a CPU.

Fake CUDA tensors have shapes and a device and no values: whatever would read one, or
mix devices, raises. So a whole step on them is a step without a wait.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

import nbutils as nb
from nbutils.checkpoint.rng import collect_rng, restore_rng
from nbutils.checkpoint.snapshot import collect, restore
from nbutils.data.batch import to_device
from nbutils.data.loaders import make_loader
from nbutils.monitor.events import EventLog, read_events
from nbutils.train import ema as ema_module
from nbutils.train import readback as readback_module
from nbutils.train.buffers import LiveBuffers
from nbutils.train.ema import Ema
from nbutils.train.oom import MicroBatches
from nbutils.train.optim import SavedOptimizer
from nbutils.train.precision import MAX_SCALE, LossScale, Precision
from nbutils.train.readback import MAX_PENDING, Readback
from nbutils.train.state import RunState
from nbutils.train.step import StepOutcome, TrainStep
from nbutils.train.update import DeviceUpdate, HostUpdate, make_update
from nbutils.train.watchers import DeviceMonitor, GradientMonitor, Parts
from nbutils.train.watchers.defaults import default_watchers
from nbutils.train.watchers.taps import Taps

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
NEEDS_FAKE_CUDA = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.11",
    reason="older torch has no fake CUDA tensors on a machine without CUDA",
)
VIEWS = {"aten.view", "aten.detach", "aten.split_with_sizes", "prim.device"}


def net() -> nn.Sequential:
    norms = [nn.BatchNorm1d(8) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, 8), *norms, nn.Linear(8, 3))


class Counted(TorchDispatchMode):
    """Counts calls of the dispatcher, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


class FakeStep:
    """A training step whose tensors are on a CUDA device that is not there.

    Autograd cannot start on such a device: gradients are laid down by hand.
    """

    def __init__(self, kind: str, precision: str, **guard: Any) -> None:
        with CUDA:
            self.model = net()
        family = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind]
        optimizer = family(self.model.parameters(), lr=0.1, fused=True)
        self.precision = Precision("fp32", CPU)
        if precision == "fp16":
            self.precision.scale = LossScale(CUDA)
        self.precision.backward = self._lay_down  # type: ignore[method-assign]
        section = nb.RunConfig(**guard).guard
        self.ema = Ema(self.model, 0.9)
        update, self.reason = make_update(
            optimizer, self.precision, section, CUDA, self.ema
        )
        task = nb.Task(self.model, nn.CrossEntropyLoss(), [0])
        buffers = LiveBuffers(self.model)
        micro = MicroBatches(self.model, CPU, buffers, enabled=False, on_split=print)
        self.step = TrainStep(
            task, self.model, update, self.precision, CUDA, {}, micro, buffers
        )

    def _lay_down(self, loss: Tensor) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.empty_like(parameter)

    def __call__(self) -> StepOutcome:
        window = [(torch.ones(6, 4), torch.ones(6, dtype=torch.int64))] * 2
        return self.step(window)


@NEEDS_FAKE_CUDA
@pytest.mark.parametrize("kind", ["adamw", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip", [{}, {"clip_value": 0.1}, {"clip_norm": None}])
def test_step_on_cuda_reads_nothing_and_mixes_no_devices(
    kind: str, precision: str, clip: dict[str, Any]
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = FakeStep(kind, precision, **clip)
        assert step.reason == "fused: no host sync"
        for _ in range(3):
            outcome = step()
        row = readback_module._row_of(outcome)
    assert (outcome.scale is None) is (precision == "fp32")
    assert row.device == CUDA
    assert row.dtype == torch.float32
    assert all(p.grad is None for p in step.model.parameters())


@NEEDS_FAKE_CUDA
@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.item(),
        lambda t: bool(t > 0),
        lambda t: torch.equal(t, t),
        lambda t: t.tolist(),
        lambda t: t + torch.ones(3),
    ],
)
def test_fake_cuda_would_notice_a_read_or_a_mixture(read: Any) -> None:
    expected = (DataDependentOutputException, RuntimeError)
    with FakeTensorMode():
        value = torch.ones((), device=CUDA).expand(1)
        with pytest.raises(expected):
            read(value)


@NEEDS_FAKE_CUDA
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_default_watchers_on_cuda_read_nothing(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the one with a thread of its own, which sees no tensor."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    config = nb.RunConfig(log_every_steps=1, gradient_stats_every_steps=2)
    watchers: list[Any] = [
        watcher
        for watcher in default_watchers(config)
        if not isinstance(watcher, DeviceMonitor)
    ]
    with EventLog("events.jsonl") as events, FakeTensorMode(allow_non_fake_inputs=True):
        fake = FakeStep("adamw", precision)
        taps = Taps()
        parts = Parts(
            task=fake.step.task,
            config=config,
            device=CUDA,
            optimizer=fake.step.update.optimizer,  # type: ignore[attr-defined]
            precision=fake.precision,
            ema=fake.ema,
            events=events,
            taps=taps,
        )
        for watcher in watchers:
            watcher.attach(parts)
        loop = SimpleNamespace(step=fake.step, loader=[], evaluate=None)
        taps.install(loop)
        fake.step = loop.step
        state = RunState(planned_steps=12)
        for hook in ("on_fit_start", "on_epoch_start"):
            for watcher in watchers:
                getattr(watcher, hook)(state)
        for _ in range(12):
            outcome = fake()
            state.step += 1
            state.num_samples += outcome.num_samples
            for watcher in watchers:
                watcher.on_step_end(state)
    found = next(w for w in watchers if isinstance(w, GradientMonitor))
    row: Any = found._probe._row  # type: ignore[union-attr]
    assert row.shape == (2 + 3 * 10,)
    assert row.device == CPU  # on its way there; nobody has looked
    names = {name for e in read_events("events.jsonl") for name in e.get("values", {})}
    assert {"lr/all", "throughput/samples_per_s", "loader/wait_fraction"} <= names
    assert not any(name.startswith("gradients/") for name in names)


def test_buffers_and_average_take_the_same_few_kernels_however_deep() -> None:
    home = torch.device("meta")
    counts = []
    for num_norms in (4, 40):
        with home:
            model = nn.Sequential(*[nn.BatchNorm1d(8) for _ in range(num_norms)])
            flag = torch.zeros(())
        buffers, mean = LiveBuffers(model), Ema(model, 0.9)
        mean.update(flag)
        buffers.keep()
        with Counted() as mode:
            buffers.keep()
            buffers.health()
            buffers.settle(flag)
            mean.update(flag)
        kernels = {n: c for n, c in mode.calls.items() if n not in VIEWS}
        counts.append(sum(kernels.values()))
    assert counts[0] == counts[1] < 30


def outcome_of(number: float, scale: Tensor | None = None) -> StepOutcome:
    value = torch.tensor(number)
    terms = {"a": value + 1, "b": value + 2}
    return StepOutcome(value, terms, value + 3, torch.zeros(()), 4, 4, scale)


class Event:
    """An event that passes when the test says so."""

    def __init__(self) -> None:
        self.has_passed = False
        self.num_waits = 0

    def record(self, stream: Any) -> None:
        self.has_passed, self.stream = False, stream

    def query(self) -> bool:
        return self.has_passed

    def synchronize(self) -> None:
        self.num_waits += 1
        self.has_passed = True


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Slots in plain memory with events of our own, as they are made."""
    made: list[Any] = []

    def block(width: int) -> list[Any]:
        rows = torch.empty(4, width)
        found = [readback_module._Slot(row, Event()) for row in rows]
        made.extend(found)
        return found

    monkeypatch.setattr(readback_module, "_pinned_slots", block)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    return made


def test_readback_waits_for_nobody_and_keeps_the_order(slots: list[Any]) -> None:
    readback = Readback(CUDA)
    for step in range(3):
        readback.push(step, outcome_of(step), step)
        assert readback.ready() == []
    by_value = {slot.row[0].item(): slot for slot in slots if slot.event.__dict__}
    by_value[1.0].event.has_passed = True
    assert readback.ready() == []  # the first one has not arrived
    by_value[0.0].event.has_passed = True
    found = readback.ready()
    assert [(r.step, r.loss, r.terms["b"], w) for r, w in found] == [
        (0, 0.0, 2.0, 0),
        (1, 1.0, 3.0, 1),
    ]
    assert [r.step for r, _ in readback.ready(wait=True)] == [2]


def test_readback_memory_is_used_again_only_once_it_was_read(slots: list[Any]) -> None:
    readback = Readback(CUDA)
    for step in range(200):
        readback.push(step, outcome_of(step), None)
        for slot in slots:
            slot.event.has_passed = True
        assert [r.loss for r, _ in readback.ready()] == [step]
    assert len(slots) == 4


def test_readback_of_a_device_far_behind_waits_for_the_oldest(slots: list[Any]) -> None:
    readback = Readback(CUDA)
    read: list[float] = []
    for step in range(MAX_PENDING + 10):
        readback.push(step, outcome_of(step), None)
        read += [r.loss for r, _ in readback.ready()]
    assert read == list(range(10))
    read += [r.loss for r, _ in readback.ready(wait=True)]
    assert read == list(range(MAX_PENDING + 10))
    assert len(slots) <= MAX_PENDING + 4


def test_readback_without_events_reads_all_with_one_wait() -> None:
    readback = Readback(torch.device("mps"))  # its row is made where the numbers are
    sizes = []
    for step in range(2 * (MAX_PENDING + 1)):
        readback.push(step, outcome_of(step), None)
        sizes.append(len(readback.ready()))
    assert sizes.count(0) == 2 * MAX_PENDING
    assert sizes.count(MAX_PENDING + 1) == 2


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_reading_has_the_loss_scale_of_its_own_step(device: str) -> None:
    scale, readback = LossScale(CPU), Readback(torch.device(device))
    for step in range(2):
        scale.update(torch.ones(()))
        readback.push(step, outcome_of(step, scale.now()), None)
    found = [reading for reading, _ in readback.ready(wait=True)]
    assert [reading.scale for reading in found] == [32768.0, 16384.0]
    assert [set(reading.terms) for reading in found] == [{"a", "b"}] * 2


def test_loss_scale_never_grows_to_infinity() -> None:
    scale = LossScale(CPU)
    scale.value.fill_(MAX_SCALE)
    scale._num_good.fill_(1999)
    scale.update(torch.zeros(()))
    assert scale.value.item() == MAX_SCALE
    assert math.isfinite(2 * MAX_SCALE)
    scale.update(torch.ones(()))
    assert scale.value.item() == MAX_SCALE / 2


def test_loss_scale_is_fp32_whatever_the_default_dtype_is() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert LossScale(CPU).value.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("device", "fused", "told"),
    [
        ("cuda", [True, True], "fused: no host sync"),
        ("cuda", [True, False], "AdamW is not fused: one host sync per step"),
        ("mps", [True, True], "AdamW cannot refuse an update on mps by itself"),
    ],
)
def test_make_update_trusts_the_device_only_with_fused_kernels_of_cuda(
    device: str, fused: list[bool], told: str
) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "fused": f} for f in fused]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    section = nb.RunConfig().guard
    precision = Precision("fp32", CPU)
    update, reason = make_update(optimizer, precision, section, torch.device(device))
    assert told in reason
    assert isinstance(update, DeviceUpdate) is (told == "fused: no host sync")


@pytest.mark.parametrize("clip", [{}, {"clip_norm": None}, {"clip_norm": 1e6}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_device_update_of_other_dtypes_equals_that_of_the_host(
    dtype: torch.dtype, clip: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(dtype)
    inputs = torch.randn(8, 4, dtype=dtype)
    ends = []
    for kind in (HostUpdate, DeviceUpdate):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, fused=True)
        guard = nb.RunConfig(**clip).guard
        update = kind(optimizer, Precision("fp32", CPU), guard, None)
        for factor in (5.0, math.nan, 5.0):
            loss = (twin(inputs) * factor).square().mean()
            loss.backward()
            _, refused = update(loss.detach())
            assert bool(refused) is math.isnan(factor)
        ends.append(twin.weight.detach())
    assert torch.allclose(*ends, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("chunk_bytes", [1, 200, 2**26])
def test_average_on_a_device_is_that_of_the_host(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ema_module, "CHUNK_BYTES", chunk_bytes)
    model = net()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    host, device = Ema(model, 0.9), Ema(model, 0.9)
    for step in range(6):
        is_refused = step == 2
        before = [shadow.clone() for shadow in device._shadow]
        device_flag = torch.tensor(float(is_refused))
        if not is_refused:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter))
            host.update()
        device.update(device_flag)
        if is_refused:
            assert all(map(torch.equal, before, device._shadow))
    assert host.state_dict()["num_updates"] == device.state_dict()["num_updates"] == 5
    for one, other in zip(host._shadow, device._shadow, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


class Polite:
    """A batch whose ``to`` can be told not to wait."""

    told: Any = None

    def to(self, device: Any, *, non_blocking: bool = False) -> Polite:
        self.told = non_blocking
        return self


class Plain:
    """One whose ``to`` knows of no such thing."""

    told: Any = None

    def to(self, device: Any) -> Plain:
        self.told = "moved"
        return self


def test_objects_that_can_move_without_a_wait_do() -> None:
    assert to_device([Polite()], "cuda")[0].told is True
    assert to_device([Polite()], "cpu")[0].told is False
    assert to_device([Plain()], "cuda")[0].told == "moved"


@pytest.mark.parametrize("rows", [None, [5, 1, 4, 2, 0]])
def test_data_on_a_device_costs_one_copy_an_epoch(rows: list[int] | None) -> None:
    home = torch.device("meta")
    columns = (torch.ones(6, 2, device=home), torch.ones(6, device=home))
    data: Any = torch.utils.data.TensorDataset(*columns)
    if rows is not None:
        data = torch.utils.data.Subset(data, rows)
    task = nb.Task(nn.Linear(2, 1), lambda outputs, batch: outputs.mean(), data)
    loader = make_loader(task, "train", nb.RunConfig(batch_size=2), device="cpu")
    with Counted() as mode:
        batches = list(loader)
    assert {tensor.device for batch in batches for tensor in batch} == {home}
    assert [len(batch[0]) for batch in batches] == [2, 2, 2 if rows is None else 1]
    assert mode.calls["aten._to_copy"] <= 1
    loader.set_position(0, len(loader))
    assert list(loader) == []


def test_generators_of_the_devices_that_are_there_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = collect_rng()
    assert "cuda" in state or not torch.cuda.is_initialized()
    state["cuda"] = [torch.tensor([1], dtype=torch.uint8)]
    restored: list[tuple[int, int]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda own, index: restored.append((index, own))
    )
    restore_rng(state)
    assert [(index, int(own)) for index, own in restored] == [(0, 1)]


def convolution(is_last: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return model.to(
        memory_format=torch.channels_last if is_last else torch.contiguous_format
    )


@pytest.mark.parametrize("was_last", [False, True])
def test_moments_follow_the_layout_of_the_weights(was_last: bool) -> None:
    """A fused kernel pairs elements by place: other strides are other elements."""
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def train(model: nn.Module, optimizer: Any) -> None:
        for _ in range(2):
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    model = convolution(was_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    train(model, optimizer)
    snapshot = collect(2, model, {"optimizer": SavedOptimizer(optimizer)})
    ends = []
    for is_last in (was_last, not was_last):
        twin = convolution(is_last)
        own = torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True)
        state = copy.deepcopy(snapshot.state)
        parts = {"optimizer": SavedOptimizer(own)}
        restore(snapshot.full_weights(), state, twin, parts)
        weight: Any = twin[0].weight
        assert own.state[weight]["exp_avg"].stride() == weight.stride()
        train(twin, own)
        ends.append(weight.detach())
    assert torch.allclose(*ends, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_fused", [True, False])
def test_kernel_is_that_of_this_process_not_of_the_checkpoint(is_fused: bool) -> None:
    model = nn.Linear(2, 1)
    saved = torch.optim.AdamW(model.parameters(), lr=0.1, fused=not is_fused)
    model(torch.ones(1, 2)).sum().backward()
    saved.step()
    own = torch.optim.AdamW(model.parameters(), lr=0.1, fused=is_fused)
    SavedOptimizer(own).load_state_dict(SavedOptimizer(saved).state_dict())
    assert own.param_groups[0]["fused"] is is_fused
    assert own.state[model.weight]["step"].item() == 1
    own.step()
    assert own.state[model.weight]["step"].item() == 2
