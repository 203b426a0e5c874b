"""How many samples a batch holds, in forms that strangers' collate functions give."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch_geometric.data import Data

from nbutils.data import batch_size, describe, tensors, to_device


@dataclass(frozen=True)
class Record:
    x: torch.Tensor
    names: list[str]


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


def image() -> torch.Tensor:
    return ones(3, 8, 8)


def boxes(count: int) -> dict[str, torch.Tensor]:
    return {"boxes": ones(count, 4), "labels": ones(count)}


def graph(count: int) -> Data:
    return Data(x=ones(count, 2), edge_index=torch.zeros(2, count).long())


CASES: list[tuple[Any, int]] = [
    (([image()] * 4, [boxes(2), boxes(3), boxes(1), boxes(2)]), 4),
    (([image()], [boxes(2)]), 1),
    ((tuple([image()] * 4), tuple([boxes(3)] * 4)), 4),
    (([image()] * 4, ones(4)), 4),
    (([image()] * 4, [0, 1, 2, 3]), 4),
    ({"images": [image()] * 4, "labels": ones(4)}, 4),
    ([graph(3), graph(4), graph(5)], 3),
    ([graph(3)], 1),
    ({"graphs": [graph(3), graph(4)], "y": ones(2)}, 2),
    ([boxes(2), boxes(3)], 2),
    ([{"image": image(), "label": torch.tensor(1)}] * 4, 4),
    ([{"image": image(), "label": 1}] * 4, 4),
    ([ones(5), ones(7), ones(2)], 3),
    ([(ones(3, 4), 1), (ones(5, 4), 0)], 2),
    (({"x": ones(8, 2)}, {"x": ones(8, 2)}), 8),
    (({"x": ones(2, 2)}, {"x": ones(2, 2)}), 2),
    (((ones(8, 2), ones(8)), (ones(8, 2), ones(8))), 8),
    ((ones(16, 4), ones(50, 8)), 16),
    ({"x": ones(16, 4), "table": ones(50, 8), "y": ones(16)}, 16),
    ({"x": ones(8, 2), "size": [224, 224]}, 8),
    ({"x": np.ones((7, 2)), "y": ["a"] * 7}, 7),
    (Record(ones(6, 2), ["a"] * 6), 6),
    (SimpleNamespace(x=ones(6, 2), flag=None), 6),
    (graph(6), 6),
    (pack_padded_sequence(ones(5, 3, 2), torch.tensor([5, 3, 1])), 3),
]


@pytest.mark.parametrize(("batch", "size"), CASES, ids=map(str, range(len(CASES))))
def test_batch_size_of_rows_and_columns(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


def test_to_device_moves_records_and_leaves_the_original() -> None:
    record = Record(ones(2), ["a", "b"])
    namespace = SimpleNamespace(x=ones(2), inner={"y": ones(2)}, name="n")
    moved = to_device({"record": record, "rest": [namespace]}, "meta")
    assert type(moved["record"]) is Record
    assert moved["record"].names == ["a", "b"]
    assert {t.device.type for _, t in tensors(moved)} == {"meta"}
    assert {t.device.type for _, t in tensors((record, namespace))} == {"cpu"}
    assert moved["rest"][0].name == "n"


def test_describe_names_the_parts_of_a_record() -> None:
    described = describe(Record(ones(2, 3), ["a", "b"]))
    assert described == {"x": "float32 (2, 3)", "names": "list of 2 str"}
