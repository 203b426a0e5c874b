"""Law 1: a window is one big batch; none is dropped, leaks or is mis-scaled."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers_laws import (
    Rows,
    Watch,
    assert_close,
    assert_equal,
    batches_of,
    copied,
    law,
    net,
    plain_train,
    train,
    windows_of,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nbutils as nb


@dataclass
class Case:
    """Data in one structure, and the same data as one batch of chosen samples."""

    data: Any
    pick: Callable[[list[int]], Any]
    loss: Callable[[Any, Any], Any]
    forward: Callable[[nn.Module, Any], Tensor]
    count: Callable[[Any], Any] | None = None


def tensors(length: int, rng: torch.Generator) -> Case:
    x = torch.randn(length, 3, generator=rng, dtype=torch.float64)
    y = torch.randn(length, 2, generator=rng, dtype=torch.float64)
    return Case(
        (x, y),
        lambda idx: (x[idx], y[idx]),
        lambda outputs, batch: F.mse_loss(outputs, batch[1]),
        lambda model, batch: model(batch[0]),
    )


def tokens(length: int, rng: torch.Generator) -> Case:
    """A dict of padded rows; most tokens are padding, some rows have one target."""
    x = torch.randn(length, 5, 3, generator=rng, dtype=torch.float64)
    y = torch.randint(2, (length, 5), generator=rng)
    mask = torch.rand(length, 5, generator=rng) < 0.15
    mask[0, 0] = mask[::3, 1] = True
    data = {"x": x, "y": y, "mask": mask}

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        each = F.cross_entropy(
            outputs.flatten(0, 1), batch["y"].flatten().long(), reduction="none"
        )
        return (each * batch["mask"].flatten()).sum() / batch["mask"].sum()

    return Case(
        data,
        lambda idx: {key: value[idx] for key, value in data.items()},
        loss,
        lambda model, batch: model(batch["x"]),
        lambda batch: batch["mask"].sum(),
    )


def graphs(length: int, rng: torch.Generator) -> Case:
    """Graphs of one to five nodes with a target for each node."""
    from torch_geometric.data import Batch, Data

    sizes = torch.randint(1, 6, (length,), generator=rng).tolist()
    data = [
        Data(
            x=torch.randn(n, 3, generator=rng, dtype=torch.float64),
            y=torch.randn(n, 2, generator=rng, dtype=torch.float64),
        )
        for n in sizes
    ]
    return Case(
        data,
        lambda idx: Batch.from_data_list([data[i] for i in idx]),
        lambda outputs, batch: F.mse_loss(outputs, batch.y),
        lambda model, batch: model(batch.x),
        lambda batch: batch.num_nodes,
    )


def terms(length: int, rng: torch.Generator) -> Case:
    case = tensors(length, rng)

    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        gap = outputs - batch[1]
        return {"square": gap.square().mean(), "size": outputs.abs().mean()}

    return Case(case.data, case.pick, loss, case.forward)


KINDS = {"tensors": tensors, "tokens": tokens, "graphs": graphs, "terms": terms}
WEIGHTS = {"square": 0.7, "size": 0.2}


def total(loss: Any) -> Tensor:
    """The scalar that a plain loop would call ``backward`` on."""
    if isinstance(loss, dict):
        return WEIGHTS["square"] * loss["square"] + WEIGHTS["size"] * loss["size"]
    return loss


@law(40)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 17),
    drop_last=st.booleans(),
    optimizer=st.sampled_from(["sgd", "adamw"]),
)
def test_windows_of_any_size_equal_one_big_batch(
    kind: str,
    length: int,
    batch_size: int,
    accumulation: int,
    drop_last: bool,
    optimizer: str,
) -> None:
    batches = batches_of(length, batch_size, drop_last)
    assume(batches)
    windows = windows_of(batches, accumulation)
    case = KINDS[kind](length, torch.Generator().manual_seed(length))
    if case.count is not None:
        assume(all(case.count(case.pick(window)) > 0 for window in windows))
    model = net(3, dropout=0.0, norm=False).double()
    twin = copy.deepcopy(model)
    task = nb.Task(
        model, case.loss, case.data, forward=case.forward, count_targets=case.count
    )
    watch = Watch()
    result = train(
        task,
        None,
        watch,
        epochs=2,
        batch_size=batch_size,
        accumulation=accumulation,
        drop_last=drop_last,
        shuffle=False,
        optimizer=optimizer,
        lr=0.05,
        weight_decay=0.01,
        loss_weights=WEIGHTS if kind == "terms" else {},
    )
    family = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    losses = plain_train(
        twin,
        family(twin.parameters(), lr=0.05, weight_decay=0.01, **more),
        lambda idx: total(
            case.loss(case.forward(twin, case.pick(idx)), case.pick(idx))
        ),
        [windows, windows],
    )
    assert result.steps == 2 * math.ceil(len(batches) / accumulation)
    assert watch.losses == pytest.approx(losses, rel=1e-9)
    assert_close(model, twin, rtol=1e-8, atol=1e-9)


class Recorded(nn.Module):
    """A loss that notes which samples it has seen, by their first feature."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(**options)
        self.seen: list[list[int]] = []

    def forward(self, outputs: Tensor, batch: Any) -> Tensor:
        self.seen.append(batch[0][:, 0].round().long().tolist())
        return self.inner(outputs, batch[1])


def numbered(length: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(length, 6, generator=rng)
    x[:, 0] = torch.arange(length)
    return x, (x[:, 1] > 0).long()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(
        p, lr=0.02, momentum=0.9, weight_decay=0.01, fused=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.01, fused=True),
}


@law(16)
@given(
    length=st.integers(2, 40),
    batch_size=st.integers(2, 9),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    clip=st.sampled_from([{}, {"clip_norm": None}, {"clip_norm": 0.05}])
    | st.builds(lambda v: {"clip_value": v, "clip_norm": None}, st.floats(1e-4, 0.1)),
    smoothing=st.sampled_from([0.0, 0.1]),
    as_rows=st.booleans(),
)
def test_accumulation_of_one_equals_the_plain_loop_bit_for_bit(
    length: int,
    batch_size: int,
    optimizer: str,
    clip: dict[str, Any],
    smoothing: float,
    as_rows: bool,
) -> None:
    assume(length % batch_size != 1)  # BatchNorm refuses a batch of one
    x, y = numbered(length)
    model = net()
    twin = copy.deepcopy(model)
    loss = Recorded(label_smoothing=smoothing)
    data = Rows(x, y) if as_rows else (x, y)
    watch = Watch()
    options = {"epochs": 3, "batch_size": batch_size, "optimizer": optimizer}
    train(nb.Task(model, loss, data), None, watch, **options, lr=0.02, **clip)
    losses = plain_train(
        twin,
        OPTIMIZERS[optimizer](twin.parameters()),
        lambda idx: loss.inner(twin(x[idx]), y[idx]),
        [loss.seen],
        clip_norm=clip.get("clip_norm", 1.0),
        clip_value=clip.get("clip_value"),
    )
    assert watch.losses == losses
    assert_equal(copied(model), copied(twin))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("loss_fp32", [True, False])
def test_half_precision_equals_autocast_and_gradscaler(
    precision: str, dtype: torch.dtype, loss_fp32: bool
) -> None:
    x, y = numbered(30)
    x[:, 0] /= 30
    model = net(dropout=0.0)
    twin = copy.deepcopy(model)
    train(
        nb.Task(model, nn.CrossEntropyLoss(), (x, y)),
        shuffle=False,
        batch_size=8,
        epochs=3,
        optimizer="sgd",
        weight_decay=0.0,
        lr=0.1,
        precision=precision,
        loss_fp32=loss_fp32,
    )
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    for _ in range(3):
        for idx in batches_of(30, 8):
            with torch.autocast("cpu", dtype):
                outputs = twin(x[idx])
                if not loss_fp32:
                    loss = F.cross_entropy(outputs, y[idx])
            if loss_fp32:
                loss = F.cross_entropy(outputs.float(), y[idx])
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert_close(model, twin, rtol=1e-6, atol=1e-7)


def gradients_of_a_window(
    sizes: list[int], precision: str, scale: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients the optimizer was given for ragged batches, and of one big batch."""
    x = torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(5))
    y = (x[:, 0] > 0).long()
    model = net(dropout=0.0, norm=False)
    twin = copy.deepcopy(model)
    found: list[Tensor] = []

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(
            lambda *_: found.extend(p.grad.clone() for p in model.parameters())
        )
        return optimizer

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    plan = [list(range(s, s + n)) for s, n in zip(starts, sizes, strict=True)]
    loader = DataLoader(TensorDataset(x, y), batch_sampler=plan)
    task = nb.Task(model, nn.CrossEntropyLoss(), loader, make_optimizer=make)
    options = {"epochs": 1, "accumulation": len(sizes), "clip_norm": None}
    train(task, **options, precision=precision)
    (F.cross_entropy(twin(x), y) * scale).backward()
    return found, [p.grad for p in twin.parameters() if p.grad is not None]


@law(20)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=17))
def test_gradient_of_a_ragged_window_is_that_of_one_big_batch(sizes: list[int]) -> None:
    ours, plain = gradients_of_a_window(sizes, "fp32")
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("precision", "eps"), [("bf16", 2**-8), ("fp16", 2**-11)])
@pytest.mark.parametrize("sizes", [[8], [5, 1, 3], [2, 7, 1, 1, 6]])
def test_gradient_in_half_precision_is_right_within_the_format(
    precision: str, eps: float, sizes: list[int]
) -> None:
    ours, plain = gradients_of_a_window(sizes, precision)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype is torch.float32
        assert (a - b).norm() <= 4 * eps * b.norm()


def test_gradient_that_is_mis_scaled_would_be_seen() -> None:
    ours, plain = gradients_of_a_window([8, 8, 1], "fp32", scale=17 / 18)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-7)


@law(12)
@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 17),
)
def test_every_sample_is_seen_once_an_epoch_and_no_window_spans_two(
    length: int, batch_size: int, accumulation: int
) -> None:
    x, y = numbered(length)
    loss, firsts = Recorded(), []

    class Note(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            firsts.append((state.epoch, len(loss.seen)))

    options = {"epochs": 3, "batch_size": batch_size, "accumulation": accumulation}
    task = nb.Task(net(norm=False), loss, (x, y))
    train(task, None, Note(), **options)
    per_epoch = math.ceil(length / batch_size)
    passes = [loss.seen[i * per_epoch : (i + 1) * per_epoch] for i in range(3)]
    for one in passes:
        assert Counter(itertools.chain.from_iterable(one)) == Counter(range(length))
    if length > 8:
        assert len({str(one) for one in passes}) == 3
    ends = [
        min(window * accumulation, per_epoch) + epoch * per_epoch
        for epoch in range(3)
        for window in range(1, math.ceil(per_epoch / accumulation) + 1)
    ]
    assert [seen for _, seen in firsts] == ends


def test_parts_without_a_target_add_nothing_and_shift_nothing() -> None:
    x = torch.randn(12, 6, dtype=torch.float64)
    mask = torch.zeros(12, dtype=torch.float64)
    mask[[0, 7, 11]] = 1  # the second of three batches has none

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return (outputs.square().sum(1) * batch["mask"]).sum() / batch["mask"].sum()

    model = net(dropout=0.0, norm=False).double()
    twin = copy.deepcopy(model)
    task = nb.Task(
        model,
        loss,
        {"x": x, "mask": mask},
        forward=lambda m, batch: m(batch["x"]),
        count_targets=lambda batch: batch["mask"].sum(),
    )
    options = {"epochs": 1, "accumulation": 3, "shuffle": False, "optimizer": "sgd"}
    train(task, **options, batch_size=4, lr=0.1, weight_decay=0.0)
    plain_train(
        twin,
        torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9),
        lambda idx: loss(twin(x[idx]), {"mask": mask[idx]}),
        [[list(range(12))]],
    )
    assert_close(model, twin, rtol=1e-10, atol=1e-12)


def test_average_of_the_weights_follows_its_formula(tmp_path: Any) -> None:
    x, y = numbered(24)
    x[:, 0] /= 24
    model = net(dropout=0.0)
    shadow = [p.detach().clone() for p in model.parameters()]

    class Follow(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            decay = min(0.9, (1 + state.step) / (10 + state.step))
            for mean, weight in zip(shadow, state.model.parameters(), strict=True):
                mean.lerp_(weight.detach(), 1 - decay)

    task = nb.Task(model, nn.CrossEntropyLoss(), (x, y))
    coordinator = nb.TrainingCoordinator(
        task,
        run_dir="a",
        callbacks=[Follow()],
        ema_decay=0.9,
        batch_size=8,
        epochs=6,
        preflight="skip",
    )
    coordinator.train()
    saved = torch.load(coordinator.export_state_dict("w.pt"), weights_only=True)
    names = [name for name, _ in model.named_parameters()]
    for name, mean in zip(names, shadow, strict=True):
        torch.testing.assert_close(saved[name], mean, rtol=1e-6, atol=1e-7)
        assert not torch.equal(saved[name], model.state_dict()[name])
