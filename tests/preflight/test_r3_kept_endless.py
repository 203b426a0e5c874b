"""R3: what a collate keeps of its samples, and whether a stream ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.data import batches as r3
from nbutils.preflight.checks.static import source as s5
from nbutils.preflight.session import run_checks

DRAW = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(3, 20, (60,), generator=DRAW).tolist()
TEXTS = [
    (torch.randint(1, 9, (n,), generator=DRAW), i % 3) for i, n in enumerate(LENGTHS)
]
DAYS = [
    dict(zip("abc", torch.rand(3, 1, generator=DRAW), strict=True)) for _ in range(60)
]


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 3, padding_idx=0)

    def forward(self, ids):
        return self.table(ids).sum(1)


def look(data, val=None, *, model=None, settings=None, **options):
    task = Task(model or nn.Linear(2, 2), nn.CrossEntropyLoss(), data, val, **options)
    config = RunConfig().replace(batch_size=8, **(settings or {}))
    findings = run_checks(task, config, [s5.CHECK, r3.CHECK])
    return next(finding for finding in findings if finding.id == "R3")


def padded(samples):
    ids = pad_sequence([s[0] for s in samples], batch_first=True)
    return ids, torch.tensor([s[1] for s in samples])


def of_one_length(samples):
    return padded([s for s in samples if abs(len(s[0]) - len(samples[0][0])) < 4])


def cut_to_shortest(samples):
    size = min(len(s[0]) for s in samples)
    return padded([(s[0][:size], s[1]) for s in samples])


def cut_to_four(samples):
    return padded([(s[0][:4], s[1]) for s in samples])


def label_of_first(samples):
    return padded(samples)[0], torch.tensor([samples[0][1]] * len(samples))


def without_rare(samples):
    """Packs texts into one long row: the first dimension is not the samples'."""
    return torch.cat([s[0] for s in samples])[None], torch.tensor([samples[0][1]])


@pytest.mark.parametrize(
    ("collate", "title"),
    [
        (of_one_length, "drops samples"),
        (cut_to_shortest, "length of the shortest"),
        (label_of_first, "repeats one sample's value"),
        (padded, ""),
        (cut_to_four, ""),
        (without_rare, ""),
    ],
)
def test_r3_collate_that_loses_something_is_told(collate, title):
    finding = look(TEXTS, model=Bag(), collate=collate)
    assert (title in finding.title) if title else finding.severity == "pass"
    assert finding.severity == ("warn" if title else "pass"), finding.title


@pytest.mark.parametrize(("source", "is_told"), [("a", True), ("b", False)])
def test_r3_collate_that_reads_another_field_is_told(source, is_told):
    def collate(samples):
        names = {"a": "a", "b": source, "c": "c"}
        return {k: torch.stack([s[names[k]] for s in samples]) for k in names}

    finding = look(DAYS, collate=collate)
    assert ("puts 'a' of the samples into 'b'" in finding.title) == is_told


class Stream(IterableDataset):
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


def forever():
    while True:
        yield from ((torch.randn(2), i % 2) for i in range(50))


def counted():
    for _ in itertools.count():
        yield torch.randn(2), 1


def once():
    yield from ((torch.full((2,), float(i)), i % 2) for i in range(50))


def until_broken():
    while True:
        for i in range(50):
            yield torch.full((2,), float(i)), i % 2
        break


def first_shard():
    for _ in range(10):
        yield from ((torch.full((2,), float(i)), i % 2) for i in range(5))


def limited():
    return itertools.islice(forever(), 40)


@pytest.mark.parametrize("make", [forever, counted])
def test_r3_endless_stream_is_told_where_nothing_else_ends_the_run(make):
    assert "an epoch never ends" in look(Stream(make)).title
    assert look(Stream(make), settings={"max_steps": 5}).severity == "pass"
    of_val = look(Stream(once), Stream(make), settings={"max_steps": 5})
    assert "the validation never ends" in of_val.title


@pytest.mark.parametrize("make", [once, until_broken, limited])
def test_r3_stream_that_ends_is_left_in_peace(make):
    finding = look(Stream(make), Stream(make))
    assert finding.severity == "pass", finding.title


def test_r3_stream_that_goes_round_is_told():
    assert "repeats the same few samples" in look(Stream(first_shard)).title
