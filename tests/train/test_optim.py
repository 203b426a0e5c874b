"""Optimizers: groups by pattern, 8-bit ones or what replaces them, their state."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint.plain import from_plain, to_plain
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.groups import make_groups
from nbutils.train.low_memory import choose_optimizer
from nbutils.train.optim import SavedOptimizer, build_optimizer
from nbutils.train.schedule import build_schedule

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "preflight": "skip"}


class Net(nn.Module):
    """A body, a norm, and a head whose weight is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(self.embed(x))))


class Terms(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return outputs.square().mean() * self.scale.exp()


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


def groups_of(model: nn.Module, loss: Any = None, **settings: Any) -> dict[str, Any]:
    found: Any = make_groups(model, nb.RunConfig(**settings).optim, loss)
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        group["name"]: (
            [names.get(id(p), "loss") for p in group["params"]],
            group["lr"],
            group["weight_decay"],
        )
        for group in found
    }


def test_optimizer_default_is_plain_torch_over_the_parameters() -> None:
    model = Net()
    optimizer = build_optimizer(model, nb.RunConfig())
    twin = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    assert len(optimizer.param_groups) == 1
    for ours, theirs in zip(optimizer.param_groups, twin.param_groups, strict=True):
        both = ours.pop("params"), theirs.pop("params")
        assert all(a is b for a, b in zip(*both, strict=True))
        assert ours == theirs


def test_groups_first_match_decides_and_all_keep_their_order() -> None:
    found = groups_of(
        Net(), lr=0.1, lr_groups={"body.weight": 2, "body.*": 3, "head.bias": 0.5}
    )
    assert found == {
        "rest": (["embed.weight", "norm.weight", "norm.bias"], 0.1, 0.01),
        "lr body.weight": (["body.weight"], 0.2, 0.01),
        "lr body.*": (["body.bias"], pytest.approx(0.3), 0.01),
        "lr head.bias": (["head.bias"], 0.05, 0.01),
    }


def test_groups_decay_by_pattern_and_none_for_vectors() -> None:
    found = groups_of(
        Net(), weight_decay=0.1, decay_groups={"body.*": 2}, decay_1d=False
    )
    assert found == {
        "rest": (["embed.weight"], 1e-3, 0.1),
        "decay body.*": (["body.weight"], 1e-3, 0.2),
        "no decay": (
            ["body.bias", "norm.weight", "norm.bias", "head.bias"],
            1e-3,
            0.0,
        ),
    }


def test_groups_tied_parameter_is_known_by_each_name_and_once() -> None:
    found = groups_of(Net(), lr=1.0, lr_groups={"head.weight": 0.1})
    assert found["lr head.weight"][:2] == (["embed.weight"], 0.1)
    assert sum(len(names) for names, _, _ in found.values()) == 6


def test_groups_loss_parameters_are_named() -> None:
    found = groups_of(Net(), Terms(), lr=1.0, lr_groups={"loss.*": 5})
    assert found["lr loss.*"] == (["loss"], 5.0, 0.01)


def test_optimizer_loss_that_holds_the_model_adds_nothing_twice() -> None:
    model = Net()

    class Around(Terms):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    task = nb.Task(model, Around(), [torch.tensor([1])])
    optimizer = build_optimizer(model, nb.RunConfig(), task)
    assert len(optimizer.param_groups[0]["params"]) == 7


def test_groups_frozen_parameters_are_left_out() -> None:
    model = Net()
    model.body.requires_grad_(False)
    assert "lr body.*" not in groups_of(model, lr_groups={"body.*": 2})
    model.requires_grad_(False)
    with pytest.raises(nb.ConfigError, match="no trainable parameter"):
        build_optimizer(model, nb.RunConfig())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr_groups": {"haed.*": 2}}, r"lr_groups has 'haed\.\*'.*did you mean head"),
        ({"decay_groups": {"zzz": 2}}, "'zzz', which matches no parameter"),
        (
            {"lr_groups": {"*": 2, "head.*": 3}},
            "every parameter it matches is taken by an earlier pattern",
        ),
    ],
)
def test_groups_pattern_without_effect_raises(settings: Any, text: str) -> None:
    with pytest.raises(nb.ConfigError, match=text):
        build_optimizer(Net(), nb.RunConfig(**settings))


def test_groups_move_by_their_factor() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = [p.detach().clone() for p in model.parameters()]
    config = nb.RunConfig(
        optimizer="sgd", lr=0.1, momentum=0, weight_decay=0, lr_groups={"1.*": 3}
    )
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = [p.detach() for p in model.parameters()]
    moved = [float((b - a).mean()) for b, a in zip(before, after, strict=True)]
    assert moved == pytest.approx([0.1, 0.3])


def test_groups_run_resumes_bit_identically_and_logs_the_plain_lr() -> None:
    options = {
        **SETTINGS,
        "lr_groups": {"0.*": 0.1},
        "decay_1d": False,
        "schedule": "cosine",
        "lr": 0.01,
    }
    whole, part = make_task(), make_task()
    result = nb.TrainingCoordinator(whole, run_dir="a", **options).train()
    nb.TrainingCoordinator(part, run_dir="b", callbacks=[StopAt(7)], **options).train()
    fresh = make_task()
    nb.TrainingCoordinator(fresh, run_dir="b", **options).resume_training()
    assert_same(weights(whole), weights(fresh))
    steps = [e for e in read_events("a/events.jsonl") if e["kind"] == "run_start"]
    assert steps[0]["optimizer"] == "adamw"
    assert result.history["lr"].iloc[0] > 1e-3  # not that of the slow group


def stepped(config: Any, model: nn.Module, steps: int = 3) -> SavedOptimizer:
    optimizer = build_optimizer(model, config)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return SavedOptimizer(optimizer)


def test_saved_optimizer_of_other_groups_is_refused() -> None:
    saved = stepped(nb.RunConfig(), nn.Linear(3, 2)).state_dict()
    other = nb.RunConfig(lr_groups={"weight": 2.0})
    part = SavedOptimizer(build_optimizer(nn.Linear(3, 2), other))
    with pytest.raises(nb.CheckpointError, match=r"all \(2 tensors\).*lr weight"):
        part.load_state_dict(saved)


def test_saved_optimizer_of_another_class_is_refused() -> None:
    saved = stepped(nb.RunConfig(), nn.Linear(3, 2)).state_dict()
    part = SavedOptimizer(
        build_optimizer(nn.Linear(3, 2), nb.RunConfig(optimizer="sgd"))
    )
    with pytest.raises(nb.CheckpointError, match="state of AdamW, and this run steps"):
        part.load_state_dict(saved)


def test_saved_optimizer_heeds_a_changed_setting_and_keeps_the_rest() -> None:
    first = stepped(nb.RunConfig(weight_decay=0.1), nn.Linear(3, 2))
    first.optimizer.param_groups[0]["betas"] = (0.5, 0.9)  # moved by a scheduler
    changed = nb.RunConfig(weight_decay=0.3)
    part = SavedOptimizer(build_optimizer(nn.Linear(3, 2), changed))
    part.load_state_dict(first.state_dict())
    assert part.optimizer.param_groups[0]["weight_decay"] == 0.3
    assert part.optimizer.param_groups[0]["betas"] == (0.5, 0.9)


EIGHT_BIT = ["adam8bit", "adamw8bit"]


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bit_state_resumes_bit_exactly_and_is_small(name: str) -> None:
    pytest.importorskip("bitsandbytes", minversion="0.50")
    config = nb.RunConfig(optimizer=name, decay_1d=False)
    torch.manual_seed(0)
    model = nn.Linear(128, 64)
    saved = stepped(config, model)
    state = saved.optimizer.state[model.weight]
    assert state["state1"].dtype == torch.uint8
    twin = nn.Linear(128, 64)
    twin.load_state_dict(model.state_dict())
    part = SavedOptimizer(build_optimizer(twin, config))
    torch.save(to_plain(saved.state_dict()), "state.pt")
    part.load_state_dict(from_plain(torch.load("state.pt", weights_only=True)))
    for _ in range(3):
        for one, two in zip(model.parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        saved.optimizer.step()
        part.optimizer.step()
    assert_same(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_eight_bit_run_resumes_bit_identically(precision: str) -> None:
    pytest.importorskip("bitsandbytes", minversion="0.50")
    options = {
        **SETTINGS,
        "optimizer": "adamw8bit",
        "precision": precision,
        "ema_decay": 0.9,
        "clip_norm": 0.1,
        "schedule": "cosine",
    }
    whole, part, fresh = make_task(), make_task(), make_task()
    nb.TrainingCoordinator(whole, run_dir="a", **options).train()
    nb.TrainingCoordinator(part, run_dir="b", callbacks=[StopAt(6)], **options).train()
    nb.TrainingCoordinator(fresh, run_dir="b", **options).resume_training()
    assert_same(weights(whole), weights(fresh))
    start = next(e for e in read_events("a/events.jsonl") if e["kind"] == "run_start")
    assert (start["optimizer"], start["optimizer_reason"]) == ("adamw8bit", "requested")


def test_eight_bit_pages_on_a_cpu_are_plain_memory_and_said() -> None:
    pytest.importorskip("bitsandbytes", minversion="0.50")
    choice = choose_optimizer("paged_adamw8bit", [nn.Parameter(torch.zeros(1))])
    assert (choice.name, choice.is_other) == ("adamw8bit", True)
    assert "pages need a CUDA device" in choice.reason


def version_of(version: str | None) -> Any:
    def find(_name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError("bitsandbytes")
        return version

    return find


def broken_import(_name: str) -> Any:
    raise RuntimeError("CUDA Setup failed\ndespite everything")


@pytest.mark.parametrize(
    ("requested", "version", "used", "text"),
    [
        ("adam8bit", None, "adam", "is not installed.*pip install 'bitsandbytes>=0.50"),
        ("adamw8bit", None, "adamw", "is not installed"),
        ("paged_adamw8bit", "0.49.2", "adamw", r"0\.49\.2 is older than 0\.50"),
        ("adamw8bit", "0.9", "adamw", "older than"),
    ],
)
def test_eight_bit_absent_or_old_is_replaced_and_said(
    requested: str,
    version: str | None,
    used: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "version", version_of(version))
    choice = choose_optimizer(requested, [nn.Parameter(torch.zeros(1))])
    assert (choice.name, choice.is_other) == (used, True)
    assert re.search(text, choice.reason)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        (
            torch.zeros(1, dtype=torch.float64),
            "cannot move parameters of dtype float64",
        ),
        (torch.zeros(1, device="meta"), "on CPU and CUDA only, not on meta"),
    ],
)
def test_eight_bit_parameters_it_cannot_move_are_said(
    parameter: torch.Tensor, text: str
) -> None:
    choice = choose_optimizer("adamw8bit", [nn.Parameter(parameter)])
    assert choice.name == "adamw"
    assert text in choice.reason


def test_eight_bit_broken_import_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", version_of("0.50.2"))
    monkeypatch.setattr(importlib, "import_module", broken_import)
    choice = choose_optimizer("adamw8bit", [nn.Parameter(torch.zeros(1))])
    assert choice.name == "adamw"
    assert "cannot be imported (CUDA Setup failed)" in choice.reason


def test_eight_bit_fallback_run_equals_adamw_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, task = make_task(), make_task()
    nb.TrainingCoordinator(plain, run_dir="a", **SETTINGS).train()
    monkeypatch.setattr(metadata, "version", version_of("0.1"))
    nb.TrainingCoordinator(task, run_dir="b", optimizer="adamw8bit", **SETTINGS).train()
    assert_same(weights(plain), weights(task))
    events = read_events("b/events.jsonl")
    start = next(e for e in events if e["kind"] == "run_start")
    assert start["optimizer"] == "adamw"
    assert "older than 0.50" in start["optimizer_reason"]
    texts = [e["text"] for e in events if e["kind"] == "message"]
    assert any("'adamw' is used: bitsandbytes 0.1 is older" in text for text in texts)


def test_plateau_and_curves_keep_groups_in_proportion() -> None:
    for kind in ("onecycle", "cosine", "linear", "constant", "plateau"):
        config = nb.RunConfig(
            schedule=kind, lr=1.0, min_lr=0.05, lr_groups={"weight": 0.5}
        )
        optimizer = build_optimizer(nn.Linear(2, 2), config)
        schedule = build_schedule(optimizer, config, 12)
        for step in range(12):
            slow, plain = (group["lr"] for group in optimizer.param_groups)
            assert slow == pytest.approx(0.5 * plain), (kind, step)
            assert schedule.lr() == plain
            schedule.advance()
            schedule.observe(1.0)
