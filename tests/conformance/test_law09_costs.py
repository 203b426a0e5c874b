"""Law 9: no host sync that need not be, nothing that grows from step to step."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from typing import Any

import pytest
import torch
from helpers_laws import Augmented, fresh_dir, net, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import nbutils as nb
from nbutils.train.ema import Ema
from nbutils.train.precision import Precision
from nbutils.train.update import DeviceUpdate

CPU = torch.device("cpu")
# What makes a program wait for the device.
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_to_cpu")
# Values that the CPU loop reads per step: loss, gradient norm, the flag and the two
# that the guard looks at. A read costs 0.3 us here; on an accelerator there is none.
MAX_READS_PER_STEP = 6
STEPS = 1600


class HostReads(TorchDispatchMode):
    """Counts, or refuses, operations that bring a value to the host."""

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__()
        self.num_reads = 0
        self._refuse = refuse

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in READS:
            self.num_reads += 1
            if self._refuse:
                raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def make_task(length: int = 60, **more: Any) -> nb.Task:
    x = torch.randn(length, 6, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    return nb.Task(net(), nn.CrossEntropyLoss(), (x, y), **more)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip", [{}, {"clip_value": 0.1}, {"clip_norm": None}])
@pytest.mark.parametrize("has_ema", [True, False])
def test_update_on_a_device_reads_nothing_back(
    kind: str,
    precision: str,
    clip: dict[str, Any],
    has_ema: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("tolist", "numpy"):  # on a CPU these go past the dispatcher
        monkeypatch.setattr(torch.Tensor, name, None)
    model = net()
    family = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = family.get(kind, torch.optim.AdamW)(
        model.parameters(), lr=0.1, fused=True
    )
    guard = nb.RunConfig(**clip).guard
    ema = Ema(model, 0.9) if has_ema else None
    update = DeviceUpdate(optimizer, Precision(precision, CPU), guard, ema)
    x, y = torch.randn(8, 6), torch.zeros(8).long()
    before = [p.detach().clone() for p in model.parameters()]
    for factor in (1.0, float("nan"), 1.0):
        loss = nn.functional.cross_entropy(model(x), y) * factor
        loss.backward()
        with HostReads(refuse=True):
            update(loss.detach())
    after = list(model.parameters())
    assert all(p.isfinite().all() for p in after)
    assert not all(map(torch.equal, before, after))


def test_a_read_would_be_noticed() -> None:
    one = torch.ones(())
    for read in (one.item, lambda: bool(one > 0), lambda: torch.equal(one, one)):
        expected = pytest.raises(AssertionError, match="waits for the device")
        with expected, HostReads(refuse=True):
            read()


def test_host_reads_per_step_on_a_cpu_are_few() -> None:
    reads = []
    for steps in (20, 60):
        task = make_task(4 * steps)
        options = {"epochs": 1, "batch_size": 4, "save_every_epochs": None}
        with HostReads() as mode:
            train(task, None, **options)
        reads.append(mode.num_reads)
    per_step = (reads[1] - reads[0]) / 40
    assert 0 < per_step <= MAX_READS_PER_STEP, f"{per_step} reads a step"


class Ledger(nb.Callback):
    """What there is in memory, each so many steps.

    What is gathered for a while and then let go of makes teeth, not a slope: the
    lowest values of two stretches are compared.
    """

    def __init__(self, num_steps: int) -> None:
        self._half, self._every = num_steps // 2, num_steps // 40
        self.rows: list[tuple[int, int, int]] = []

    def on_step_end(self, state: Any) -> None:
        if state.step % self._every or state.step < self._half // 2:
            return
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0]
        found = gc.get_objects()
        tensors = sum(type(one) is torch.Tensor for one in found)
        self.rows.append((len(found), tensors, traced))

    def on_fit_start(self, state: Any) -> None:
        gc.collect()
        gc.freeze()  # what there is already is not looked at again

    def on_fit_end(self, state: Any) -> None:
        gc.unfreeze()

    def growth(self) -> list[int]:
        """Objects, tensors and bytes between the two stretches."""
        middle = len(self.rows) // 2
        before, after = self.rows[:middle], self.rows[middle:]
        lows = [map(min, zip(*part, strict=True)) for part in (before, after)]
        return [late - early for early, late in zip(*lows, strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulation": 3, "precision": "bf16"},
        {"precision": "fp16", "ema_decay": 0.9, "schedule": "cosine"},
    ],
    ids=["plain", "accumulation", "fp16"],
)
def test_nothing_grows_from_step_to_step(options: dict[str, Any]) -> None:
    task = make_task(STEPS * 2 * options.get("accumulation", 1))
    ledger = Ledger(STEPS)
    tracemalloc.start()
    try:
        train(task, None, ledger, epochs=1, batch_size=2, **options)
    finally:
        tracemalloc.stop()
    objects, tensors, num_bytes = ledger.growth()
    assert tensors == 0
    assert objects < STEPS // 20
    assert num_bytes < STEPS * 10


def test_growth_would_be_noticed() -> None:
    kept: list[Any] = []

    class Keep(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            kept.append([state.step])

    ledger = Ledger(400)
    train(make_task(800), None, Keep(), ledger, epochs=1, batch_size=2)
    objects, _, _ = ledger.growth()
    assert objects >= 150


def test_repeated_runs_leak_no_thread_handle_or_tensor() -> None:
    def run(workers: int) -> None:
        x = torch.randn(24, 6)
        data = Augmented(x, (x[:, 0] > 0).long())
        task = nb.Task(net(), nn.CrossEntropyLoss(), data, (x, (x[:, 0] > 0).long()))
        options = {"epochs": 2, "batch_size": 8, "save_every_steps": 2}
        train(task, fresh_dir(), **options, num_workers=workers)

    def count() -> tuple[int, int, int]:
        gc.collect()
        tensors = sum(type(o) is torch.Tensor for o in gc.get_objects())
        return threading.active_count(), len(os.listdir("/proc/self/fd")), tensors

    for workers in (0, 2, 0):
        run(workers)
    before = count()
    for workers in (0, 2, 0, 0):
        run(workers)
    assert count() == before
