"""Batches come apart in order, every sample once, whatever they are made of."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch_geometric.data import Batch, Data, HeteroData

import nbutils as nb
from nbutils.data import batch_size
from nbutils.data.contract import Contract
from nbutils.train.buffers import LiveBuffers
from nbutils.train.oom import MicroBatches
from nbutils.train.precision import Precision
from nbutils.train.split import split_batch
from nbutils.train.step import TrainStep

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "x y")


@dataclass
class Record:
    x: Tensor
    names: list[str]
    scale: float = 2.0


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)


class Encoding(UserDict[str, Any]):
    """As a tokenizer gives it: a mapping that is no dict, with a life of its own."""

    def __init__(self, data: Any = None, origin: str = "fast") -> None:
        super().__init__(data)
        self.origin = origin


def column(size: int, *shape: int) -> Tensor:
    """Sample ``i`` is filled with ``i``."""
    index = torch.arange(size).reshape(size, *[1] * len(shape))
    return index.expand(size, *shape).clone()


def graph(number: int) -> Data:
    num_nodes = number % 3 + 1
    edges = torch.zeros(2, num_nodes).long()
    return Data(x=torch.full((num_nodes, 2), number), edge_index=edges, y=number)


def hetero(number: int) -> HeteroData:
    data = HeteroData()
    data["star"].x = torch.full((number % 3 + 1, 2), number)
    data["planet"].x = torch.full((2, 1), number)
    data["star", "has", "planet"].edge_index = torch.zeros(2, 1).long()
    return data


def detections(size: int) -> list[dict[str, Tensor]]:
    return [
        {"boxes": torch.full((i % 3 + 1, 4), i), "labels": torch.full((i % 3 + 1,), i)}
        for i in range(size)
    ]


# Each form: how a batch of ``size`` is made, and the samples of it, as numbers.
FORMS: dict[str, tuple[Any, Any]] = {
    "tensor": (lambda n: column(n, 3), lambda b: b[:, 0].tolist()),
    "pair": (lambda n: (column(n, 3), column(n)), lambda b: b[1].tolist()),
    "list": (lambda n: [column(n, 3), column(n)], lambda b: b[1].tolist()),
    "dict": (
        lambda n: {"x": column(n, 3), "y": column(n), "temperature": torch.tensor(2.0)},
        lambda b: b["y"].tolist(),
    ),
    "named": (lambda n: Pair(column(n, 2), column(n)), lambda b: b.y.tolist()),
    "ordered": (lambda n: OrderedDict(x=column(n)), lambda b: b["x"].tolist()),
    "read_only": (
        lambda n: MappingProxyType({"x": column(n)}),
        lambda b: b["x"].tolist(),
    ),
    "encoding": (
        lambda n: Encoding({"ids": column(n, 4)}),
        lambda b: b["ids"][:, 0].tolist(),
    ),
    "record": (
        lambda n: Record(column(n, 2), [str(i) for i in range(n)]),
        lambda b: [int(name) for name in b.names],
    ),
    "frozen": (
        lambda n: Frozen(column(n), {"z": column(n)}),
        lambda b: b.extra["z"].tolist(),
    ),
    "namespace": (
        lambda n: SimpleNamespace(x=column(n, 2), flag=None),
        lambda b: b.x[:, 0].tolist(),
    ),
    "nested": (
        lambda n: {"in": ({"x": column(n, 2)}, [column(n)]), "y": column(n)},
        lambda b: b["in"][1][0].tolist(),
    ),
    "strings": (lambda n: [str(i) for i in range(n)], lambda b: list(map(int, b))),
    "strings_in_dict": (
        lambda n: {"text": [str(i) for i in range(n)], "y": column(n)},
        lambda b: list(map(int, b["text"])),
    ),
    "objects": (
        lambda n: {"x": column(n, 9), "meta": [{"id": i, "t": "a"} for i in range(n)]},
        lambda b: [entry["id"] for entry in b["meta"]],
    ),
    "numbers": (
        lambda n: {"x": column(n, 9), "ids": list(range(n))},
        lambda b: b["ids"],
    ),
    "arrays": (
        lambda n: {"x": column(n, 9), "a": np.arange(n)},
        lambda b: b["a"].tolist(),
    ),
    "sparse": (
        lambda n: (column(n, 9).float().add(1).to_sparse(), column(n)),
        lambda b: b[0].to_dense()[:, 0].sub(1).long().tolist(),
    ),
    "sparse_rows": (
        lambda n: (column(n, 9).float().add(1).to_sparse_csr(), column(n)),
        lambda b: b[0].to_dense()[:, 0].sub(1).long().tolist(),
    ),
    "graphs": (
        lambda n: Batch.from_data_list([graph(i) for i in range(n)]),
        lambda b: b.y.tolist(),
    ),
    "hetero_graphs": (
        lambda n: Batch.from_data_list([hetero(i) for i in range(n)]),
        lambda b: [int(g["planet"].x[0, 0]) for g in b.to_data_list()],
    ),
    "list_of_graphs": (
        lambda n: [graph(i) for i in range(n)],
        lambda b: [g.y for g in b],
    ),
    "graphs_beside_more": (
        lambda n: {
            "graph": Batch.from_data_list([graph(i) for i in range(n)]),
            "row": column(n, 5),
            "name": [str(i) for i in range(n)],
        },
        lambda b: list(map(int, b["name"])),
    ),
    "ragged_list": (
        lambda n: [torch.full((i % 4 + 1,), i) for i in range(n)] if n > 1 else [],
        lambda b: [int(t[0]) for t in b],
    ),
    "detection": (
        lambda n: ([torch.full((3, 8 + i % 2, 8), i) for i in range(n)], detections(n)),
        lambda b: [int(image[0, 0, 0]) for image in b[0]],
    ),
    "detection_targets": (
        lambda n: ([torch.full((3, 8, 8), i) for i in range(n)], detections(n)),
        lambda b: [int(target["boxes"][0, 0]) for target in b[1]],
    ),
    "samples_as_dicts": (
        lambda n: [{"x": torch.zeros(3, 8), "label": column(n)[i]} for i in range(n)],
        lambda b: [int(sample["label"]) for sample in b],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10, deadline=None)
@given(size=st.integers(4, 23), num_parts=st.integers(1, 30))
def test_split_parts_joined_are_the_whole(form: str, size: int, num_parts: int) -> None:
    make, samples = FORMS[form]
    whole = make(size)
    assert batch_size(whole) == size
    parts = split_batch(whole, num_parts)
    assert len(parts) == min(num_parts, size)
    found = [samples(part) for part in parts]
    assert list(chain.from_iterable(found)) == list(range(size))
    lengths = [len(part) for part in found]
    assert max(lengths) - min(lengths) <= 1
    if form != "read_only":
        assert {type(part).__name__ for part in parts} == {type(whole).__name__}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_split_leaves_the_batch_as_it_was() -> None:
    for make, samples in FORMS.values():
        whole = make(5)
        split_batch(whole, 3)
        assert list(samples(whole)) == [0, 1, 2, 3, 4]


def test_split_keeps_the_attributes_of_a_mapping_and_its_shared_values() -> None:
    whole = Encoding({"ids": column(4, 2), "type": "text"}, origin="slow")
    parts = split_batch(whole, 2)
    assert [part.origin for part in parts] == ["slow", "slow"]
    assert [part["type"] for part in parts] == ["text", "text"]


def test_split_shared_table_goes_whole_to_every_part() -> None:
    table = torch.randn(50, 8)
    batch = {"x": column(6, 2), "y": column(6), "table": table, "size": (224, 224)}
    for part in split_batch(batch, 3):
        assert part["table"] is table
        assert part["size"] == (224, 224)
        assert len(part["y"]) == 2


def test_split_table_as_long_as_the_batch_is_cut_unless_a_contract_says_no() -> None:
    batch = {"x": column(6, 2), "table": torch.zeros(6, 8)}
    assert [len(part["table"]) for part in split_batch(batch, 2)] == [3, 3]
    contract = Contract({"x": "int64 (B, 2)", "table": "float32 (V, 8)"})
    assert [len(part["table"]) for part in split_batch(batch, 2, contract)] == [6, 6]


def test_split_tuple_of_numbers_is_a_shape_beside_columns() -> None:
    batch = {"x": column(3, 2), "size": (3, 224, 224)}
    assert [part["size"] for part in split_batch(batch, 3)] == [(3, 224, 224)] * 3


def test_split_nested_tensor_by_its_rows() -> None:
    rows = [torch.full((n, 2), float(n)) for n in (1, 4, 2, 3)]
    batch = (torch.nested.nested_tensor(rows, layout=torch.jagged), column(4))
    parts = split_batch(batch, 2)
    lengths = [[len(row) for row in part[0].unbind()] for part in parts]
    assert lengths == [[1, 4], [2, 3]]


@pytest.mark.parametrize(
    ("specs", "batch", "axis"),
    [
        ({"x": "int64 (T, B, 2)", "y": "int64 (B,)"}, {"x": 1, "y": 0}, 1),
        ({"x": "int64 (..., B, 2)", "y": "int64 (B,)"}, {"x": 1, "y": 0}, 1),
    ],
)
def test_split_along_the_axis_that_a_contract_declares(
    specs: dict[str, str], batch: dict[str, Any], axis: int
) -> None:
    whole = {"x": column(4, 7, 2).transpose(0, 1), "y": column(4)}
    assert batch.keys() == whole.keys()
    parts = split_batch(whole, 2, Contract(specs))
    assert [tuple(part["x"].shape) for part in parts] == [(7, 2, 2)] * 2
    assert torch.equal(torch.cat([part["x"] for part in parts], axis), whole["x"])
    assert [part["y"].tolist() for part in parts] == [[0, 1], [2, 3]]


PACKED: dict[str, Any] = {
    "offsets": {"ids": torch.arange(9), "offsets": torch.tensor([0, 3, 5])},
    "offsets_and_labels": {
        "ids": torch.arange(9), "offsets": torch.tensor([0, 3, 5]), "y": column(3),
    },
    "cu_seqlens": {
        "t": torch.zeros(9, 2), "cu": torch.tensor([0, 3, 5, 9]), "y": column(3),
    },
    "lengths": {"t": torch.zeros(9, 2), "lengths": torch.tensor([2, 3, 4])},
    "batch_vector": {
        "x": torch.zeros(9, 2), "batch": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]),
        "y": column(3),
    },
    "packed_sequence": (
        pack_padded_sequence(torch.zeros(5, 3, 2), torch.tensor([5, 3, 1])), column(3),
    ),
    "time_first": (torch.zeros(7, 4, 3), column(4)),
    "time_first_behind": {"y": column(4), "x": torch.zeros(7, 4, 3)},
    "outvoted": {"table": torch.zeros(50, 8), "x": column(4, 2), "y": column(4)},
}  # fmt: skip


@pytest.mark.parametrize("form", PACKED)
def test_split_batch_that_would_come_apart_wrongly_is_refused(form: str) -> None:
    with pytest.raises(nb.ContractError, match="this batch cannot be split") as caught:
        split_batch(PACKED[form], 2)
    assert "batch_size" in str(caught.value)


def test_split_graphs_joined_by_hand_are_refused() -> None:
    batch = Batch(x=torch.zeros(3, 1), batch=torch.tensor([0, 0, 1]), ptr=[0, 2, 3])
    with pytest.raises(nb.ContractError, match="were not joined by"):
        split_batch({"g": batch, "y": column(2)}, 2)


@pytest.mark.parametrize(
    "batch",
    [
        {
            "x": column(8, 5),
            "y": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]),
            "w": column(3),
        },
        {"x": column(8, 5), "index": column(8), "table": torch.zeros(50, 8)},
        {"x": column(8, 5), "y": column(8), "scale": torch.ones(1)},
        (column(8, 5), torch.zeros(50, 7)),
    ],
)
def test_split_healthy_batches_beside_tables_are_cut(batch: Any) -> None:
    first = [
        part["x"] if isinstance(part, dict) else part[0]
        for part in split_batch(batch, 2)
    ]
    assert [len(x) for x in first] == [4, 4]


# Law 1 through the split: the gradient of the parts is that of the whole window.


class Update:
    """Keeps the gradients instead of applying them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.grads: list[Tensor] = []

    def __call__(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        self.grads = [p.grad.clone() for p in self.model.parameters()]
        self.model.zero_grad()
        return loss, torch.zeros(())


def token_task(model: nn.Module) -> nb.Task:
    def loss(outputs: Tensor, batch: Any) -> Tensor:
        error = (outputs.squeeze(-1) - batch["y"]) ** 2 * batch["mask"]
        return error.sum() / batch["mask"].sum()

    return nb.Task(
        model,
        loss,
        [0],
        forward=lambda model, batch: model(batch["x"]),
        count_targets=lambda batch: batch["mask"].sum(),
    )


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    limit=st.integers(1, 9),
    seed=st.integers(0, 1000),
    empty=st.booleans(),
)
def test_split_window_has_the_gradient_of_the_whole(
    sizes: list[int], limit: int, seed: int, empty: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    window = [
        {
            "x": torch.randn(size, 5, 3, generator=generator),
            "y": torch.randn(size, 5, generator=generator),
            "mask": (torch.rand(size, 5, generator=generator) > 0.5).float(),
        }
        for size in sizes
    ]
    window[0]["mask"][0] = 0.0 if empty else 1.0  # a sample without any target
    window[-1]["mask"][-1, 0] = 1.0
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    task = token_task(model)
    found: list[list[Tensor]] = []
    losses: list[float] = []
    for start_at in (None, limit):
        buffers = LiveBuffers(model)
        micro = MicroBatches(
            model, CPU, buffers, enabled=True, on_split=print, task=task
        )
        micro.start_at(start_at)
        update: Any = Update(model)
        precision = Precision("fp32", CPU)
        step = TrainStep(task, model, update, precision, CPU, {}, micro, buffers)
        losses.append(step(window).loss.item())
        found.append(update.grads)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-6)
