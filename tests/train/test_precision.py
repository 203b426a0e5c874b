"""The fp32 loss island: whatever form outputs have, the loss sees them in fp32."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.train.precision import Precision, to_fp32
from nbutils.train.step import forward_loss

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "logits other")


@dataclasses.dataclass
class Plain:
    logits: Any
    name: str = "plain"


@dataclasses.dataclass(frozen=True)
class Frozen:
    logits: Any


@dataclasses.dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: a dataclass that is a dict, and refuses ``update``."""

    loss: Any = None
    logits: Any = None

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if getattr(self, item.name) is not None:
                self[item.name] = getattr(self, item.name)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def update(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError("ModelOutput cannot be updated")

    def __reduce__(self) -> Any:
        values = tuple(getattr(self, item.name) for item in dataclasses.fields(self))
        return type(self), values


def first(logits: Any) -> Any:
    return logits


FORMS: dict[str, tuple[Any, Any]] = {
    "tensor": (first, first),
    "tuple": (lambda x: (x, "text"), lambda o: o[0]),
    "list": (lambda x: [x], lambda o: o[0]),
    "namedtuple": (lambda x: Pair(x, None), lambda o: o.logits),
    "dict": (lambda x: {"logits": x}, lambda o: o["logits"]),
    "nested": (lambda x: {"a": [(x, {"b": x})]}, lambda o: o["a"][0][1]["b"]),
    "defaultdict": (lambda x: defaultdict(list, logits=x), lambda o: o["logits"]),
    "read-only": (lambda x: MappingProxyType({"logits": x}), lambda o: o["logits"]),
    "dataclass": (Plain, lambda o: o.logits),
    "frozen dataclass": (Frozen, lambda o: o.logits),
    "model output": (lambda x: ModelOutput(logits=x), lambda o: o.logits),
    "model output key": (lambda x: ModelOutput(logits=x), lambda o: o["logits"]),
    "namespace": (lambda x: SimpleNamespace(logits=x), lambda o: o.logits),
    "deep": (lambda x: Plain({"a": Frozen((x,))}), lambda o: o.logits["a"].logits[0]),
    "distribution": (
        lambda x: torch.distributions.Categorical(logits=x, validate_args=False),
        lambda o: o.logits,
    ),
}


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("form", FORMS)
def test_loss_island_is_fp32_for_outputs_of_any_form(form: str, kind: str) -> None:
    wrap, unwrap = FORMS[form]
    seen: dict[str, Any] = {}

    def forward(model: nn.Module, batch: Any) -> Any:
        seen["outputs"] = model(batch[0])
        return wrap(seen["outputs"])

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        logits = unwrap(outputs)
        seen["logits"], seen["product"] = logits, logits @ logits.T
        seen["type"] = type(outputs)
        return logits.square().mean()

    task = nb.Task(nn.Linear(4, 3), loss, [0], forward=forward)
    _, _, total = forward_loss(
        task, task.model, (torch.randn(5, 4),), Precision(kind, CPU), {}
    )
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    assert seen["outputs"].dtype is half
    assert seen["logits"].dtype is seen["product"].dtype is torch.float32
    assert total.dtype is torch.float32
    total.backward()
    assert task.model.weight.grad is not None


def test_loss_island_leaves_types_and_other_values_alone() -> None:
    half = torch.ones(2, dtype=torch.float16)
    assert to_fp32(Plain(half)).name == "plain"
    assert type(to_fp32(ModelOutput(logits=half))) is ModelOutput
    outputs = {"n": 3, "text": "a", "long": torch.ones(2, dtype=torch.int64)}
    assert to_fp32(outputs) == outputs
    kept = Plain(half)
    to_fp32(kept)
    assert kept.logits is half  # what the model returned is not written to


def test_loss_island_widens_the_fields_of_a_graph() -> None:
    data = pytest.importorskip("torch_geometric.data")
    graph = data.Data(x=torch.ones(2, 3, dtype=torch.bfloat16), y=torch.ones(2).long())
    wide = to_fp32(graph)
    assert (wide.x.dtype, wide.y.dtype) == (torch.float32, torch.int64)
    assert graph.x.dtype is torch.bfloat16


def test_loss_island_off_computes_as_the_forward_does() -> None:
    seen: dict[str, Any] = {}

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        seen["product"] = outputs @ outputs.T
        return outputs.float().mean()

    task = nb.Task(nn.Linear(4, 3), loss, [0])
    precision = Precision("bf16", CPU, loss_fp32=False)
    forward_loss(task, task.model, (torch.randn(5, 4),), precision, {})
    assert seen["product"].dtype is torch.bfloat16
