"""R2 and R3: rows that belong together, streams that last, transforms apart."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, random_split

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.data import batches as r3
from nbutils.preflight.checks.data import transforms as r2
from nbutils.preflight.session import run_checks

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def look(check, train, val=None, *, settings=None, **options):
    task = Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), train, val, **options)
    config = RunConfig().replace(**(settings or {"batch_size": 8}))
    return run_checks(task, config, [check])[0]


PAIRS = [(X[i], int(Y[i])) for i in range(40)]


def stacked(samples):
    return torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples])


def shuffled_labels(samples):
    x, y = stacked(samples)
    return x, y[torch.randperm(len(y))]


def sorted_labels(samples):
    x, y = stacked(samples)
    return x, y.sort().values


def sorted_inputs(samples):
    x, y = stacked(samples)
    return x[x[:, 0].argsort()], y


def sorted_samples(samples):
    return stacked(sorted(samples, key=lambda s: float(s[0][0])))


def mixed_up(samples):
    x, y = stacked(samples)
    order = torch.randperm(len(y))
    return 0.7 * x + 0.3 * x[order], y, y[order]


def with_negatives(samples):
    x, y = stacked(samples)
    order = torch.arange(len(y)).roll(1)
    return x, y, x[order], y[order]


@pytest.mark.parametrize("fault", [shuffled_labels, sorted_labels, sorted_inputs])
def test_r3_collate_that_mixes_up_rows_warns(fault):
    finding = look(r3.CHECK, PAIRS, collate=fault)
    assert finding.severity == "warn"
    assert "mixes up rows" in finding.title
    loader = DataLoader(PAIRS, 8, shuffle=True, collate_fn=fault)
    assert look(r3.CHECK, loader, settings={}).severity == "warn"


@pytest.mark.parametrize("healthy", [stacked, sorted_samples, mixed_up, with_negatives])
def test_r3_collate_that_keeps_rows_together_passes(healthy):
    assert look(r3.CHECK, PAIRS, collate=healthy).severity == "pass"


def test_r3_padded_rows_are_recognised():
    data = [(torch.arange(1, 3 + i % 5), i % 3) for i in range(40)]
    data = [(ids + 10 * i, label) for i, (ids, label) in enumerate(data)]

    def pad(samples, order=None):
        ids = [s[0] for s in samples]
        labels = torch.tensor([s[1] for s in samples])
        if order is not None:
            ids = sorted(ids, key=len)
        return nn.utils.rnn.pad_sequence(ids, batch_first=True), labels

    model = {
        "forward": lambda model, batch: model(batch[0][:, :1].float().repeat(1, 6))
    }
    assert look(r3.CHECK, data, collate=pad, **model).severity == "pass"
    faulty = look(r3.CHECK, data, collate=lambda s: pad(s, "sorted"), **model)
    assert "mixes up rows" in faulty.title


class Kept(IterableDataset):
    """Keeps an iterator of some kind and reads on in it."""

    def __init__(self, make) -> None:
        self.rows = make()

    def __iter__(self):
        for row in self.rows:  # noqa: UP028 (would close a generator)
            yield row


def finite():
    yield from PAIRS


def endless():
    while True:
        yield from PAIRS


@pytest.mark.parametrize(
    ("make", "severity"),
    [
        (lambda: iter(PAIRS), "fail"),
        (lambda: zip(X, Y.tolist(), strict=True), "fail"),
        (finite, "warn"),
        (endless, "pass"),
        (lambda: itertools.cycle(PAIRS), "pass"),
        (lambda: list(PAIRS), "pass"),
    ],
)
def test_r3_stream_used_up_after_an_epoch_is_told(make, severity):
    data = Kept(make)
    finding = look(r3.CHECK, data)
    assert finding.severity == severity
    if severity != "pass":
        assert "used up after one epoch" in finding.title
    if severity == "fail":
        assert len(list(data)) == 40  # it was not read


def test_r3_stream_of_one_batch_warns():
    class Stuck(IterableDataset):
        def __iter__(self):
            return itertools.cycle(PAIRS[:8])

    finding = look(r3.CHECK, Stuck())
    assert finding.severity == "warn"
    assert "one and the same batch" in finding.title
    assert look(r3.CHECK, Stuck(), settings={"batch_size": 5}).severity == "pass"


class Jittered(Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index):
        return X[index] + 0.1 * torch.randn(6), int(Y[index])


def test_r2_transform_shared_by_both_splits_is_told():
    train, val = random_split(Jittered(), [30, 10])
    finding = look(r2.CHECK, train, val)
    assert finding.severity == "warn"
    assert "share one dataset object" in finding.title
    assert look(r2.CHECK, train, PAIRS[:10]).severity == "pass"
