"""Gradient checkpointing: the same gradients, statistics and names, less memory."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import nbutils as nb
from nbutils.testing import assert_same, make_task
from nbutils.train import recompute
from nbutils.train.activations import describe_checkpointing, set_checkpointing
from nbutils.train.blocks import blocks_by_name, repeated_blocks
from nbutils.train.recompute import Recomputed, SteadyNorm

OFF = nb.RunConfig().model
ON = nb.RunConfig(gradient_checkpointing=True).model


def named(*patterns: str) -> Any:
    return nb.RunConfig(gradient_checkpointing=True, checkpoint_blocks=patterns).model


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.norm = norm(32)
        self.drop = nn.Dropout(0.3)
        self.down = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + scale * self.down(self.drop(self.norm(self.up(x)).relu()))


class Stack(nn.Module):
    """Embeds, runs a list of blocks by hand, and has a head."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layers = nn.ModuleList(Block(norm) for _ in range(depth))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.head(x)


class Switched(nn.Module):
    """Recomputes by itself, as timm models do."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(nn.BatchNorm1d)
        self.is_on = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.is_on = enable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_on and self.training:
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)
        return self.block(x)


class Refusing(Stack):
    """Has a switch that says no, as some timm models have."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert not enable, "gradient checkpointing not supported"


class Hugging(Stack):
    """Has the switch of transformers."""

    kwargs: Any = None

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Any = None
    ) -> None:
        self.kwargs = gradient_checkpointing_kwargs

    def gradient_checkpointing_disable(self) -> None:
        self.kwargs = None


def spectral(_size: int) -> nn.Module:
    """A layer that writes a buffer in each training pass, and reads it there."""
    return spectral_norm(nn.Linear(32, 32))


def run(model: nn.Module, steps: int = 2) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, weights and buffers after ``steps``, and bytes kept for backward."""
    torch.manual_seed(3)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(torch.randn(64, 6 if hasattr(model, "embed") else 8)).square()
        loss.mean().backward()
        optimizer.step()
    found = {
        f"grad {n}": p.grad for n, p in model.named_parameters() if p.requires_grad
    }
    assert all(grad is not None for grad in found.values())
    return {**found, **model.state_dict()}, sum(kept.values())  # type: ignore[dict-item]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d, spectral])
def test_blocks_gradients_and_buffers_are_bit_identical(norm: Any) -> None:
    plain = Stack(norm)
    model = copy.deepcopy(plain)
    set_checkpointing(model, ON)
    expected, bytes_plain = run(plain)
    found, bytes_kept = run(model)
    assert_same(expected, found)
    assert bytes_kept < 0.5 * bytes_plain


def test_blocks_statistics_of_a_plain_checkpoint_would_move_twice() -> None:
    plain, model = Switched(), Switched()
    model.load_state_dict(plain.state_dict())
    model.is_on = True
    expected, _ = run(plain)
    found, _ = run(model)
    count = "block.norm.num_batches_tracked"
    assert (expected[count].item(), found[count].item()) == (2, 4)


def test_blocks_own_switch_leaves_statistics_alone() -> None:
    plain, model = Switched(), Switched()
    model.load_state_dict(plain.state_dict())
    set_checkpointing(model, ON)
    assert model.is_on
    assert_same(run(plain)[0], run(model)[0])
    set_checkpointing(model, OFF)
    assert not model.is_on
    assert "forward" not in vars(model.block.norm)


def test_blocks_evaluation_and_no_grad_do_not_recompute() -> None:
    model = Stack()
    set_checkpointing(model, ON)
    calls: list[int] = []
    model.layers[0].up.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(3, 6)
    with torch.no_grad():
        model.train()(x)
    model.eval()(x).sum().backward()
    assert len(calls) == 2
    model.train()(x).sum().backward()
    assert len(calls) == 4


def test_blocks_off_again_restores_the_model() -> None:
    model = Stack()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    names = list(model.state_dict())
    set_checkpointing(model, ON)
    set_checkpointing(model, ON)  # a second train() changes nothing
    assert isinstance(vars(model.layers[0])["forward"], Recomputed)
    assert vars(model.layers[0])["forward"].before is None
    assert list(model.state_dict()) == names
    set_checkpointing(model, OFF)
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before


def test_blocks_keep_a_forward_that_stood_there_before() -> None:
    model = Stack()
    calls: list[str] = []
    own = model.layers[0].forward

    def patched(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        calls.append("patched")
        return own(x, scale=scale)

    model.layers[0].forward = patched  # type: ignore[method-assign]
    set_checkpointing(model, ON)
    run(model, steps=1)
    assert calls == ["patched", "patched"]  # forward, and again for backward
    set_checkpointing(model, OFF)
    assert model.layers[0].forward is patched


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_blocks_copies_compute_with_their_own_weights(how: str) -> None:
    model = Stack(nn.BatchNorm1d)
    set_checkpointing(model, ON)
    run(model, steps=1)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert vars(twin.layers[0])["forward"].module is twin.layers[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(twin)
    assert_same(before, model.state_dict())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own
@pytest.mark.parametrize("is_safe", [True, False])
def test_blocks_compiled_gives_the_same_gradients(
    is_safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_safe and not recompute.CAN_COMPILE_BUFFERS:
        pytest.skip("this torch writes the buffers of a compiled block twice")
    monkeypatch.setattr(recompute, "CAN_COMPILE_BUFFERS", is_safe)
    plain = Stack(nn.BatchNorm1d, depth=3)
    for layer in plain.layers:
        layer.drop.p = 0.0  # a compiled graph draws its own random numbers
    model = copy.deepcopy(plain)
    set_checkpointing(model, ON)
    model.compile(backend="aot_eager")
    expected, _ = run(plain)
    found, _ = run(model)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_blocks_timm_model_switches_on_and_off() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=3)
    model = copy.deepcopy(plain)
    wrapped = nn.Sequential(model, nn.Linear(3, 2))
    set_checkpointing(wrapped, ON)
    assert model.grad_checkpointing
    assert isinstance(vars(model.bn1)["forward"], SteadyNorm)
    x = torch.randn(2, 3, 64, 64)
    for one in (plain, model):
        one.train()
        one(x).square().sum().backward()
    assert_same(plain.state_dict(), model.state_dict())
    grads = [{n: p.grad for n, p in one.named_parameters()} for one in (plain, model)]
    assert_same(*grads)
    set_checkpointing(wrapped, OFF)
    assert not model.grad_checkpointing
    assert "forward" not in vars(model.bn1)


def test_blocks_transformers_switch_is_asked_for_the_new_kind() -> None:
    model = Hugging()
    set_checkpointing(model, ON)
    assert model.kwargs == {"use_reentrant": False}
    assert describe_checkpointing(model, ON) == (
        "Hugging.gradient_checkpointing_enable()"
    )
    set_checkpointing(model, OFF)
    assert model.kwargs is None


def test_blocks_refused_switch_falls_back_to_the_structure() -> None:
    model = Refusing()
    set_checkpointing(model, ON)
    assert isinstance(vars(model.layers[3])["forward"], Recomputed)


def test_blocks_switch_without_a_way_back_raises() -> None:
    class OneWay(nn.Linear):
        def gradient_checkpointing_enable(self) -> None: ...

    model = OneWay(2, 2)
    set_checkpointing(model, ON)
    with pytest.raises(nb.ConfigError, match="OneWay has no way to switch it off"):
        set_checkpointing(model, OFF)


def test_blocks_user_switched_on_stays_on() -> None:
    model = Switched()
    model.set_grad_checkpointing()
    set_checkpointing(model, OFF)
    assert model.is_on


def test_blocks_by_name_takes_the_outermost_and_members_of_lists() -> None:
    model = Stack()
    layers = [f"layers.{i}" for i in range(4)]
    assert [name for name, _ in blocks_by_name(model, ["layers.*"])] == layers
    assert [name for name, _ in blocks_by_name(model, ["layers"])] == layers
    assert [name for name, _ in blocks_by_name(model, ["*.1", "head"])] == [
        "layers.1",
        "head",
    ]


def test_blocks_named_ones_replace_those_found() -> None:
    model = Stack()
    set_checkpointing(model, ON)
    set_checkpointing(model, named("layers.1"))
    switched = [n for n, m in model.named_modules() if "forward" in vars(m)]
    assert switched == ["layers.1"]
    assert describe_checkpointing(model, named("layers.*")) == (
        "4 blocks: layers.0 to layers.3"
    )


def test_blocks_pattern_that_matches_nothing_raises_with_near_names() -> None:
    with pytest.raises(nb.ConfigError, match=r"'layer\.\*'.*did you mean .*layers"):
        set_checkpointing(Stack(), named("layer.*"))


def test_blocks_structure_takes_outermost_lists_of_real_blocks() -> None:
    stages = nn.Sequential(*[nn.Sequential(*map(Block, [nn.LayerNorm] * 3))] * 1)
    assert [name for name, _ in repeated_blocks(stages)] == ["0.0", "0.1", "0.2"]
    deep = nn.ModuleDict({str(i): Stack() for i in range(3)})
    assert [name for name, _ in repeated_blocks(deep)] == ["0", "1", "2"]
    both = nn.ModuleDict({"encoder": Stack(), "decoder": Stack(depth=3)})
    assert len(repeated_blocks(both)) == 7
    assert repeated_blocks(nn.Sequential(*[nn.Linear(2, 2)] * 5)) == []


def test_blocks_nothing_to_recompute_raises_and_says_how_to_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    text = r"nor a list in which a block repeats 3 times.*checkpoint_blocks=\['1'\]"
    with pytest.raises(nb.ConfigError, match=text):
        set_checkpointing(model, ON)
    with pytest.raises(nb.ConfigError, match="neither set_grad_checkpointing"):
        describe_checkpointing(model, ON)


class Deep(nn.Sequential):
    """A classifier of make_task's data with three blocks of dropout and BatchNorm."""

    def __init__(self) -> None:
        blocks = [Block(nn.BatchNorm1d) for _ in range(3)]
        super().__init__(nn.Linear(6, 8), nn.Sequential(*blocks), nn.Linear(8, 2))


def test_blocks_run_equals_the_plain_one_and_can_be_switched_off() -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "preflight": "skip"}
    data = make_task()
    plain = nb.Task(Deep(), data.loss, data.train_data, data.val_data)
    twin = copy.deepcopy(plain.model)
    task = nb.Task(twin, data.loss, data.train_data, data.val_data)
    nb.TrainingCoordinator(plain, run_dir="a", **options).train()
    nb.TrainingCoordinator(
        task, run_dir="b", gradient_checkpointing=True, **options
    ).train()
    assert [n for n, m in twin.named_modules() if "forward" in vars(m)] == [
        "1.0",
        "1.1",
        "1.2",
    ]
    assert_same(plain.model.state_dict(), twin.state_dict())
    nb.TrainingCoordinator(task, run_dir="c", **options).train()
    assert not any("forward" in vars(module) for module in twin.modules())
