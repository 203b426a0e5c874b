from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch_geometric.data import Batch, Data

from nbutils.data import batch_size, describe, tensors, to_device
from nbutils.data.graphs import is_graph
from nbutils.errors import ContractError

Pair = namedtuple("Pair", "x y")


def graphs(*num_nodes: int) -> Batch:
    return Batch.from_data_list(
        [
            Data(x=torch.ones(n, 2), edge_index=torch.zeros(2, n + 1).long(), y=1.0)
            for n in num_nodes
        ]
    )


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(5, 2),
        (torch.ones(5, 2), torch.ones(5)),
        [torch.tensor(1.0), torch.ones(5)],
        {"text": ["a"] * 5, "x": torch.ones(5, 9)},
        {"deep": ({"x": torch.ones(5)},)},
        ["a", "b", "c", "d", "e"],
        {"text": ["a", "b", "c", "d", "e"]},
        graphs(1, 2, 3, 4, 5),
        {"graph": graphs(1, 2, 3, 4, 5), "x": torch.ones(5)},
    ],
)
def test_batch_size_each_form_counts_samples(batch):
    assert batch_size(batch) == 5


@pytest.mark.parametrize("batch", [{}, 3, None, torch.tensor(1.0), [], {"a": 1}])
def test_batch_size_nothing_to_count_raises(batch):
    with pytest.raises(ContractError, match="the size of this batch cannot be told"):
        batch_size(batch)


def test_to_device_nested_batch_moves_tensors_and_keeps_the_rest():
    batch = OrderedDict(
        image=torch.ones(2), pair=Pair(torch.ones(2), ["a", "b"]), n=[1, torch.ones(1)]
    )
    moved = to_device(batch, "meta")
    assert type(moved) is OrderedDict
    assert type(moved["pair"]) is Pair
    assert moved["pair"].y == ["a", "b"]
    assert {t.device.type for _, t in tensors(moved)} == {"meta"}
    assert {t.device.type for _, t in tensors(batch)} == {"cpu"}


def test_to_device_graph_batch_leaves_the_original():
    batch = graphs(2, 3)
    moved = to_device({"g": batch}, torch.device("meta"))["g"]
    assert moved.x.device.type == "meta"
    assert batch.x.device.type == "cpu"
    assert moved.num_graphs == 2


def test_to_device_read_only_mapping_becomes_dict():
    from types import MappingProxyType

    moved = to_device(MappingProxyType({"x": torch.ones(1)}), "cpu")
    assert type(moved) is dict


def test_describe_mixed_batch_names_each_part():
    batch = {
        "image": torch.ones(4, 3, 8, 8),
        "text": ["a"] * 4,
        "pair": Pair(torch.ones(4).long(), "fixed"),
        "none": None,
    }
    assert describe(batch) == {
        "image": "float32 (4, 3, 8, 8)",
        "text": "list of 4 str",
        "pair.x": "int64 (4,)",
        "pair.y": "str",
        "none": "NoneType",
    }
    assert describe(torch.ones(2)) == {"batch": "float32 (2,)"}


def test_describe_graph_batch_names_fields():
    described = describe(graphs(2, 3))
    assert described["x"] == "float32 (5, 2)"
    assert described["edge_index"] == "int64 (2, 7)"
    assert described["y"] == "float32 (2,)"


def test_is_graph_knows_graphs_only():
    assert is_graph(graphs(1))
    assert is_graph(Data())
    assert not is_graph(torch.ones(1))


def test_tensors_heterogeneous_graph_names_types():
    from torch_geometric.data import HeteroData

    graph = HeteroData()
    graph["star"].x = torch.ones(2, 1)
    graph["star", "orbits", "planet"].edge_index = torch.zeros(2, 1).long()
    paths = [path for path, _ in tensors(graph)]
    assert paths == ["star.x", "star__orbits__planet.edge_index"]
