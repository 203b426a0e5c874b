from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from nbutils.data import collate
from nbutils.errors import ContractError

Pair = namedtuple("Pair", "x y")


def test_collate_each_type_gets_its_batch_form():
    sample = {
        "image": torch.ones(3, 2),
        "pair": Pair(1, 2.5),
        "array": np.ones((2,), dtype=np.float32),
        "scalar": np.float64(2),
        "flag": True,
        "text": "a",
        "ids": [1, 2, 3],
        "parts": (torch.ones(1), "b"),
        "wave": 1j,
        "graph": Data(x=torch.ones(2, 1)),
    }
    batch = collate([sample, sample])
    assert batch["image"].shape == (2, 3, 2)
    assert type(batch["pair"]) is Pair
    assert batch["pair"].x.dtype == torch.int64
    assert batch["pair"].y.dtype == torch.float32
    assert batch["array"].dtype == torch.float32
    assert batch["scalar"].tolist() == [2.0, 2.0]
    assert batch["flag"].dtype == torch.bool
    assert batch["text"] == ["a", "a"]
    assert batch["ids"].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert type(batch["parts"]) is tuple
    assert batch["parts"][1] == ["b", "b"]
    assert batch["wave"].is_complex()
    assert isinstance(batch["graph"], Batch)
    assert batch["graph"].num_graphs == 2


def test_collate_whole_and_real_numbers_mix():
    assert collate([1, 2.5]).tolist() == [1.0, 2.5]


class Box:
    pass


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([], "no samples to collate"),
        ([(torch.ones(1), 0), (torch.ones(1), None)], "'1' is None in sample 1"),
        ([None], "the sample is None in sample 0"),
        ([{"a": 1}, {"a": "x"}], "'a' is int in sample 0 and str in sample 1"),
        (
            [{"w": torch.ones(3)}, {"w": torch.ones(3)}, {"w": torch.ones(5)}],
            r"'w' has shape \(3,\) in sample 0 and \(5,\) in sample 2",
        ),
        ([np.ones(2), np.ones(3)], r"shape \(2,\) in sample 0 and \(3,\) in sample 1"),
        ([[1, 2], [1, 2, 3]], r"shape \(2,\) in sample 0 and \(3,\) in sample 1"),
        ([torch.ones(1), torch.ones(1).long()], "one dtype is expected"),
        ([np.array(["a"])], "numpy array of dtype <U1"),
        ([(1, 2), (1, 2, 3)], "2 parts in sample 0 and 3 in sample 1"),
        ([{"a": 1, "b": 2}, {"a": 1}], "'b' is missing in sample 1"),
        ([{"a": 1}, {"a": 1, "b": 2}], "'b' is missing in sample 0"),
        ([{"deep": ({"box": Box()},)}], r"'deep.0.box' holds .*Box, which has no"),
        ([Data(x=torch.ones(1, 1)), Data()], r"different fields \(x\)"),
    ],
)
def test_collate_samples_that_do_not_fit_raise(samples, told):
    with pytest.raises(ContractError, match=told):
        collate(samples)


def test_collate_picture_object_advises_a_transform():
    image = pytest.importorskip("PIL.Image").new("RGB", (2, 2))
    with pytest.raises(ContractError, match="a transform that ends in a float tensor"):
        collate([(image, 1)])
