"""One replay finds the first bad module, and leaves everything as it was."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nbutils as nb
from nbutils.train.culprit import MAX_REPLAYS, Culprit
from nbutils.train.precision import Precision

CPU = torch.device("cpu")


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Root(nn.Module):
    """Finite at 0, and its derivative is not."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.detach()).abs().sqrt() + x.detach()


class Divides(nn.Module):
    """Makes its bad value itself, between two modules that are fine."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) / 0.0)


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"parts": (self.inner(x), [x.mean()]), "note": "a string"}


class Recomputed(nn.Module):
    def __init__(self, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), Root())
        self.is_reentrant = is_reentrant

    def forward(self, x: Tensor) -> Tensor:
        found = checkpoint(self.block, self.first(x), use_reentrant=self.is_reentrant)
        assert isinstance(found, Tensor)
        return found


class Mask(nn.Module):
    """What attention does: a score of -inf is no fault."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.full_like(x, -math.inf)
        return torch.where(torch.arange(3) > 1, hidden, x)


def culprit(
    model: nn.Module, loss: Callable[..., Any] | None = None, kind: str = "fp32"
) -> Culprit:
    task = nb.Task(model, loss or (lambda outputs, batch: outputs.mean()), [0])
    return Culprit(task, Precision(kind, CPU), CPU, {})


def window(value: float | None = None) -> list[Any]:
    x = torch.rand(4, 3) + 0.5
    if value is not None:
        x[1, 2] = value
    return [(x, torch.zeros(4))]


def test_find_names_the_module_and_its_input() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), Log()))
    nn.init.constant_(model[0].weight, -1.0)
    nn.init.zeros_(model[0].bias)
    found = culprit(model, lambda outputs, _: -outputs.mean()).find(window())
    assert found == (
        "module 1.1: output has 12 of 12 values non-finite; its input was finite; loss "
        "term loss is inf"
    )


def test_find_bad_weight_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        model[0].bias[1] = math.nan
    found = culprit(model).find(window())
    assert found == (
        "module 0: output has 4 of 16 values non-finite; its input was finite; it "
        "holds non-finite bias (1 of 4)"
    )


def test_find_input_comes_first() -> None:
    task = nb.Task(
        nn.Linear(3, 1),
        lambda outputs, batch: outputs.mean(),
        [0],
        forward=lambda model, batch: model(batch["image"]["pixels"]),
        count_targets=lambda batch: 4,
    )
    pixels = window(math.nan)[0][0]
    found = Culprit(task, Precision("fp32", CPU), CPU, {}).find(
        [{"image": {"pixels": pixels}}]
    )
    assert found is not None
    assert found.startswith("the batch itself holds NaN at image.pixels (1 of 12")
    assert "module Linear (all): output has 1 of 4 values non-finite" in found
    assert "its input had 1 of 12 values non-finite" in found


def test_find_value_made_between_modules() -> None:
    found = culprit(Divides()).find(window())
    assert found is not None
    assert found.startswith("module last: output has 12 of 12 values non-finite")
    assert "from no module before it" in found


def test_find_value_made_behind_all_inner_modules() -> None:
    class Behind(Divides):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)) / 0.0

    found = culprit(nn.Sequential(Behind(), nn.ReLU())).find(window())
    assert found is not None
    assert found.startswith("module 0: output has 12 of 12")
    assert found.endswith("its input was finite, its own modules' outputs too")


def test_find_looks_into_dicts_and_tuples() -> None:
    model = Named(nn.Linear(3, 3))
    with torch.no_grad():
        model.inner.weight.fill_(math.inf)  # type: ignore[union-attr, operator]
    outer = nn.Sequential(model)
    found = culprit(outer, lambda outputs, _: outputs["parts"][0].mean()).find(window())
    assert found is not None
    assert found.startswith("module 0.inner: output has 12 of 12 values")


def test_find_names_the_bad_term() -> None:
    def loss(outputs: Tensor, _batch: Any) -> dict[str, Tensor]:
        return {"fine": outputs.mean(), "kl": outputs.mean() * math.nan}

    found = culprit(nn.Linear(3, 3), loss).find(window())
    assert found == "every output of a module is finite; loss term kl is nan"


def test_find_says_which_batch_of_the_window() -> None:
    found = culprit(nn.Linear(3, 3)).find([*window(), *window(math.inf), *window()])
    assert found is not None
    assert "infinity at 0 (1 of 12 values)" in found
    assert found.endswith("(batch 2 of 3)")


def test_find_backward_names_the_last_good_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 3))
    found = culprit(model).find(window())
    assert found is not None
    assert found.startswith(
        "the loss is finite; the gradient at the output of module 0"
    )
    assert "of module 1, was finite" in found
    assert "the gradient of 0.weight (9 of 9 values)" in found


def test_find_bad_gradient_of_one_parameter() -> None:
    model = nn.Linear(3, 3)
    model.bias.register_hook(lambda gradient: gradient * math.nan)
    found = culprit(model, kind="fp16").find(window())
    assert found == (
        "the loss is finite (scaled by 65536); the gradient of bias (3 of 3 values) "
        "is not finite"
    )


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_find_works_through_gradient_checkpointing(is_reentrant: bool) -> None:
    found = culprit(Recomputed(is_reentrant)).find(window())
    assert found is not None
    assert found.startswith("the loss is finite; ")
    assert "first.weight" in found


def test_find_survives_modules_that_work_in_place() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3), nn.ReLU(inplace=True), Root(), nn.Dropout(0.1)
    )
    found = culprit(model).find(window())
    assert found is not None
    assert "the replay failed" not in found


def test_find_mask_of_minus_infinity_is_not_accused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Mask(), nn.Softmax(-1), Log(), nn.ReLU())
    with torch.no_grad():
        model[0].bias[0] = math.nan
    found = culprit(model).find(window())
    assert found is not None
    assert found.startswith("module 0: ")


def test_find_finite_window_says_so() -> None:
    found = culprit(nn.Linear(3, 3)).find(window())
    assert found is not None
    assert found.startswith("the window's batch was finite this time")


def test_find_compiled_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.compile()
    found = culprit(model).find(window(math.nan))
    assert found == "the model is compiled, so its modules cannot be looked into"


def test_find_failing_replay_is_told() -> None:
    def loss(_outputs: Tensor, _batch: Any) -> Tensor:
        raise ZeroDivisionError("mine")

    found = culprit(nn.Linear(3, 3), loss).find(window())
    assert found == "the replay failed: ZeroDivisionError: mine"


def test_find_replays_three_windows_of_a_run() -> None:
    finder = culprit(nn.Linear(3, 3))
    found = [finder.find(window(math.nan)) for _ in range(MAX_REPLAYS + 1)]
    assert [text is None for text in found] == [False] * MAX_REPLAYS + [True]


class Draws(nn.Module):
    """Draws from every generator, changes buffers, and has a gradient under way."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + random.random() + np.random.rand()
        return self.layers(x)


@pytest.mark.parametrize("value", [math.nan, None])
def test_find_changes_nothing(value: float | None) -> None:
    model = Draws()
    model(torch.rand(4, 3)).sum().backward()
    weights = copy.deepcopy(model.state_dict())
    gradients = [p.grad for p in model.parameters()]
    values = [None if g is None else g.clone() for g in gradients]
    spoilt = window(value)
    draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    assert culprit(model).find(spoilt) is not None
    assert random.getstate() == draws[0]
    assert np.random.get_state()[1].tolist() == draws[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), draws[2])
    after = model.state_dict()
    assert [k for k in weights if not torch.equal(weights[k], after[k])] == []
    for parameter, gradient, kept in zip(
        model.parameters(), gradients, values, strict=True
    ):
        assert parameter.grad is gradient
        assert kept is None or torch.equal(kept, gradient)  # type: ignore[arg-type]
    assert not any(module._forward_hooks for module in model.modules())
