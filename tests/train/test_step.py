"""Law 1 and law 2: windows are one batch, and a guard stands before the update."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import nbutils as nb
from nbutils.train.buffers import LiveBuffers
from nbutils.train.ema import Ema
from nbutils.train.oom import MicroBatches
from nbutils.train.precision import Precision
from nbutils.train.step import TrainStep
from nbutils.train.update import DeviceUpdate, HostUpdate

CPU = torch.device("cpu")
GUARD = nb.RunConfig().guard


def mean_over_mask(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    error = (outputs.squeeze(-1) - batch["y"]) ** 2 * batch["mask"]
    return error.sum() / batch["mask"].sum()


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any
) -> TrainStep:
    task = nb.Task(
        model,
        mean_over_mask,
        [0],
        forward=lambda m, batch: m(batch["x"]),
        count_targets=lambda batch: batch["mask"].sum(),
    )
    precision = options.pop("precision", None) or Precision("fp32", CPU)
    update = options.pop("update", HostUpdate)
    guard = options.pop("guard", GUARD)
    buffers = LiveBuffers(model)
    micro = MicroBatches(model, CPU, buffers, enabled=False, on_split=print)
    built = update(optimizer, precision, guard, None)
    return TrainStep(task, model, built, precision, CPU, {}, micro, buffers)


def make_batch(sizes: list[int]) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(100 + len(sizes))
    return [
        {
            "x": torch.randn(size, 3, generator=generator),
            "y": torch.randn(size, generator=generator),
            "mask": (torch.rand(size, generator=generator) > 0.4).float(),
        }
        for size in sizes
    ]


def joined(window: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.cat([batch[key] for batch in window]) for key in window[0]}


@pytest.mark.parametrize("sizes", [[4, 4], [5, 1, 3], [8], [2, 7]])
def test_step_ragged_window_equals_one_big_batch(sizes: list[int]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    window = make_batch(sizes)
    many = make_step(model, torch.optim.SGD(model.parameters(), lr=0.1))(window)
    one = make_step(twin, torch.optim.SGD(twin.parameters(), lr=0.1))([joined(window)])
    assert many.num_targets == one.num_targets
    assert many.loss.item() == pytest.approx(one.loss.item(), rel=1e-6)
    assert torch.allclose(model.weight, twin.weight, rtol=1e-5, atol=1e-7)


def test_step_batch_without_targets_adds_nothing() -> None:
    model = nn.Linear(3, 1)
    empty = make_batch([3])[0]
    empty["mask"].zero_()
    outcome = make_step(model, torch.optim.SGD(model.parameters(), lr=0.1))(
        [empty, *make_batch([4, 4])]
    )
    assert torch.isfinite(outcome.loss)
    assert not outcome.refused


def test_step_window_without_any_target_raises() -> None:
    model = nn.Linear(3, 1)
    empty = make_batch([3])[0]
    empty["mask"].zero_()
    with pytest.raises(nb.ContractError, match="0 targets"):
        make_step(model, torch.optim.SGD(model.parameters(), lr=0.1))([empty])


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize("scale", ["fp32", "fp16"])
def test_update_matches_plain_torch_with_clipping(
    update: type[HostUpdate], scale: str
) -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    guard = nb.RunConfig(clip_norm=0.05).guard
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    precision = Precision(scale, CPU)
    precision.autocast = Precision("fp32", CPU).autocast  # type: ignore[method-assign]
    step = make_step(model, optimizer, update=update, precision=precision, guard=guard)
    plain = torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True)
    for window in ([b] for b in make_batch([4, 6, 5])):
        outcome = step(window)
        mean_over_mask(twin(window[0]["x"]), window[0]).backward()
        norm = clip_grad_norm_(twin.parameters(), 0.05)
        plain.step()
        plain.zero_grad()
        assert outcome.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)
    assert torch.allclose(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("update", [HostUpdate, DeviceUpdate])
@pytest.mark.parametrize("where", ["input", "target"])
def test_update_nonfinite_never_reaches_weights_or_moments(
    update: type[HostUpdate], where: str
) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    step = make_step(model, optimizer, update=update)
    good, bad, after = make_batch([4, 4, 4])
    step([good])
    before = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    bad["x" if where == "input" else "y"][0] = float("nan")
    bad["mask"].fill_(1)
    outcome = step([bad])
    assert outcome.refused.item() == 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments[index][k], state[k]) for k in state)
    assert step([after]).refused.item() == 0
    assert not torch.equal(before["weight"], model.weight)


def test_update_clip_value_bounds_each_gradient() -> None:
    model = nn.Linear(3, 1, bias=False)
    start = model.weight.detach().clone()
    guard = nb.RunConfig(clip_value=0.01, clip_norm=None).guard
    step = make_step(model, torch.optim.SGD(model.parameters(), lr=1.0), guard=guard)
    step(make_batch([8]))
    assert (model.weight - start).abs().max() <= 0.01 + 1e-7


def test_update_loss_without_gradient_is_told() -> None:
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    step = make_step(model, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(nb.ContractError, match="no gradient to any parameter"):
        step(make_batch([4]))


def test_ema_refused_step_does_not_move_the_average() -> None:
    model = nn.Linear(2, 1)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    before = [t.clone() for t in ema.state_dict()["shadow"].values()]  # type: ignore[attr-defined]
    ema.update(torch.tensor(1.0))
    assert all(map(torch.equal, before, ema.state_dict()["shadow"].values()))  # type: ignore[attr-defined]
    ema.update(torch.tensor(0.0))
    assert not torch.equal(before[0], ema.state_dict()["shadow"]["weight"])  # type: ignore[index]


def test_ema_applied_gives_the_weights_back() -> None:
    model = nn.Linear(2, 1)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    kept = model.weight.detach().clone()
    with ema.applied():
        assert not torch.equal(model.weight, kept)
    assert torch.equal(model.weight, kept)


@pytest.mark.parametrize("first", [True, False])
def test_buffers_refused_window_leaves_no_trace_in_batchnorm(first: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    model.register_buffer("constant", torch.ones(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    step = make_step(model, optimizer)
    good, bad = make_batch([4, 4])
    if not first:
        step([good])
    before = copy.deepcopy(model.state_dict())
    bad["x"][0] = float("nan")
    assert step([bad]).refused.item() == 1
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    step([good])
    assert not torch.equal(
        before["0.running_mean"], model.state_dict()["0.running_mean"]
    )


def test_update_sparse_gradients_are_clipped_like_dense_ones() -> None:
    torch.manual_seed(0)
    table = torch.randn(6, 2)
    rows = torch.tensor([1, 1, 3])
    moved = []
    for is_sparse in (True, False):
        model = nn.Embedding.from_pretrained(
            table.clone(), freeze=False, sparse=is_sparse
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        update = HostUpdate(optimizer, Precision("fp32", CPU), GUARD, None)
        loss = model(rows).square().sum()
        loss.backward()
        norm, _ = update(loss.detach())
        moved.append((norm, model.weight.detach()))
    assert moved[0][0].item() == pytest.approx(moved[1][0].item())
    assert moved[0][0].item() > 1.0
    assert torch.allclose(moved[0][1], moved[1][1])
    assert (table - moved[0][1]).norm().item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_loss_without_a_gradient_says_where_to_look(accumulation: int) -> None:
    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return outputs.mean() if len(batch[0]) == 4 else torch.tensor(1.0)

    data = torch.randn(10, 3), torch.zeros(10)
    task = nb.Task(nn.Linear(3, 1), loss, data)
    trainer = nb.TrainingCoordinator(
        task,
        batch_size=4,
        accumulation=accumulation,
        epochs=1,
        shuffle=False,
        preflight="skip",
        panel="off",
        device="cpu",
    )
    with pytest.raises(nb.ContractError, match=r"carries no gradient.*count_targets"):
        trainer.train()
