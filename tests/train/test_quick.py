"""The kernel called directly gives the bits of ``optimizer.step()``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from nbutils.train.quick import QuickStep
from nbutils.train.update import gradients

MAKERS: dict[str, Callable[[Any], Any]] = {
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "adamw betas": lambda p: AdamW(p, lr=0.1, betas=(0.5, 0.6), eps=1e-3, fused=True),
    "adamw maximize": lambda p: AdamW(p, lr=0.1, maximize=True, fused=True),
    "adamw amsgrad": lambda p: AdamW(p, lr=0.1, amsgrad=True, fused=True),
    "adamw foreach": lambda p: AdamW(p, lr=0.1, foreach=True),
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.1, fused=True),
    "sgd": lambda p: SGD(p, lr=0.1, fused=True),
    "sgd momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "sgd nesterov": lambda p: SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True
    ),
    "sgd dampened": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5, fused=True),
    "lr tensor": lambda p: AdamW(p, lr=torch.tensor(0.1), fused=True),
}
QUICK = [name for name in MAKERS if name not in ("adamw amsgrad", "adamw foreach")]


class Twins:
    """The same model twice: stepped by torch, and stepped quickly."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        torch.manual_seed(0)
        self.ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.theirs = copy.deepcopy(self.ours)
        self.quick = make(groups(self.ours))
        self.plain = make(groups(self.theirs))
        self.step = QuickStep(self.quick)

    def train(self, num_steps: int, frozen: str = "") -> None:
        for _ in range(num_steps):
            x = torch.randn(4, 5)
            for model, optimizer in (
                (self.ours, self.quick),
                (self.theirs, self.plain),
            ):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                for name, parameter in model.named_parameters():
                    if frozen and name.startswith(frozen):
                        parameter.grad = None
                if model is self.ours:
                    self.step(gradients(optimizer))
                else:
                    optimizer.step()
            self.assert_same()

    def assert_same(self) -> None:
        for one, other in zip(
            self.ours.parameters(), self.theirs.parameters(), strict=True
        ):
            assert torch.equal(one, other)
        ours, theirs = self.quick.state_dict(), self.plain.state_dict()
        assert ours["state"].keys() == theirs["state"].keys()
        for key, state in ours["state"].items():
            for name, value in state.items():
                other = theirs["state"][key][name]
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, other)
                else:
                    assert value == other


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    """Two groups, the second with an lr of its own."""
    return [
        {"params": list(model[0].parameters())},
        {"params": list(model[2].parameters()), "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("name", list(MAKERS))
def test_quick_step_gives_the_bits_of_the_optimizer(name: str) -> None:
    Twins(MAKERS[name]).train(6)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "lr tensor"])
def test_quick_step_leaves_out_the_wrapper_from_the_second_step_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = Twins(MAKERS[name])
    twins.train(1)
    calls: list[int] = []
    kind = type(twins.quick)
    monkeypatch.setattr(kind, "step", lambda *_: calls.append(1))
    twins.step(gradients_of(twins))
    assert calls == []


def gradients_of(twins: Twins) -> list[torch.Tensor]:
    twins.ours(torch.randn(4, 5)).sum().backward()
    return gradients(twins.quick)


@pytest.mark.parametrize("name", ["adamw", "sgd momentum"])
def test_quick_step_follows_every_change_of_the_optimizer(name: str) -> None:
    twins = Twins(MAKERS[name])
    twins.train(3)
    for optimizer in (twins.quick, twins.plain):
        optimizer.param_groups[1]["lr"] = 0.01
        optimizer.param_groups[0]["weight_decay"] = 0.3
    twins.train(2)
    twins.train(2, frozen="0")  # a layer without gradients, then with them again
    twins.train(2)
    twins.quick.load_state_dict(copy.deepcopy(twins.quick.state_dict()))
    twins.plain.load_state_dict(copy.deepcopy(twins.plain.state_dict()))
    twins.train(2)
    for optimizer in (twins.quick, twins.plain):
        for state in list(optimizer.state.values())[1:3]:  # moments set anew, in part
            state.update({name: torch.zeros_like(v) for name, v in state.items()})
    twins.train(2)
    for optimizer in (twins.quick, twins.plain):
        optimizer.state.clear()
    twins.train(2)


def test_quick_step_makes_buffers_for_a_momentum_that_is_set_later() -> None:
    twins = Twins(MAKERS["sgd"])
    twins.train(3)
    for optimizer in (twins.quick, twins.plain):
        optimizer.param_groups[0]["momentum"] = 0.9
    twins.train(3)


def test_quick_step_lets_hooks_and_replaced_steps_run() -> None:
    twins = Twins(MAKERS["adamw"])
    twins.train(2)
    heard: list[str] = []
    handle = twins.quick.register_step_post_hook(lambda *_: heard.append("hook"))
    twins.train(2)
    handle.remove()
    twins.train(1)
    assert heard == ["hook", "hook"]
    scheduler = torch.optim.lr_scheduler.StepLR(twins.quick, 1, gamma=1.0)
    twins.train(1)
    scheduler.step()  # warns if its patched step was passed by


def test_quick_step_takes_an_optimizer_of_the_users_own_as_it_is() -> None:
    class Own(AdamW):
        num_calls = 0

        def step(self, closure: Any = None) -> Any:
            self.num_calls += 1
            return super().step(closure)

    twins = Twins(lambda p: Own(p, lr=0.1, fused=True))
    twins.train(3)
    assert twins.quick.num_calls == 3
