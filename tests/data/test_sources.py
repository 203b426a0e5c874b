"""Data that cannot be read is refused when the task is made, in one sentence."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nbutils.data.sources import as_source


class Endless(Dataset):
    def __getitem__(self, index):
        return torch.zeros(3), 0


def told(data) -> str:
    problems: list[str] = []
    as_source(data, "train_data", problems)
    return " ".join(problems)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (Endless(), "Endless without __len__"),
        (DataLoader(Endless(), sampler=[0, 1]), "Endless without __len__"),
        ({"x": torch.ones(2, 3), "y": [0, 1]}, r"\['y'\] is list.*torch.tensor\(\)"),
        ((torch.ones(2), torch.ones(2).numpy()), "is ndarray.*torch.from_numpy"),
        ((torch.ones(2, requires_grad=True),), "requires a gradient.*detach"),
        ((torch.ones(2), torch.ones(())), "is Tensor; a tensor of shape"),
    ],
)
def test_as_source_odd_data_is_refused_with_advice(data, sentence):
    assert re.search(sentence, told(data))


def test_as_source_good_data_is_silent():
    assert not told((torch.ones(2, 3), torch.zeros(2)))
