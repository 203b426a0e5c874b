"""R4 and R5: batches of one, evaluation that leaves traces, padding, axes, casts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.loss import loss as r5
from nbutils.preflight.checks.model import forward as r4
from nbutils.preflight.session import run_checks

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(65, 4, generator=DRAW)
Y = (X[:, 0] > 0).long()
LENGTHS = torch.randint(4, 30, (64,), generator=DRAW).tolist()
TEXTS = [
    (torch.randint(1, 9, (n,), generator=DRAW), i % 3) for i, n in enumerate(LENGTHS)
]
TAGGED = [(ids, ids % 3 + 1) for ids, _ in TEXTS]


def titles(check, model, loss, data, val=None, **options):
    task = Task(model, loss, data, val, **options)
    config = RunConfig().replace(batch_size=16, device="cpu")
    finding = run_checks(task, config, [check])[0]
    assert "fault of nbutils" not in str(finding.details)
    return finding.title if finding.severity != "pass" else ""


class Squeezed(nn.Module):
    def __init__(self, axes):
        super().__init__()
        self.net, self.axes = nn.Linear(4, 2), axes

    def forward(self, x):
        out = self.net(x).unsqueeze(1)
        return out.squeeze(*self.axes)


@pytest.mark.parametrize(("axes", "is_told"), [((), True), ((1,), False)])
def test_r4_squeezed_batch_of_one_is_told(axes, is_told):
    found = titles(r4.CHECK, Squeezed(axes), nn.CrossEntropyLoss(), (X, Y))
    assert ("lose the batch dimension" in found) == is_told


class Centred(nn.Module):
    """Subtracts a running mean, which follows what it sees."""

    def __init__(self, follows_in_eval):
        super().__init__()
        self.net, self.follows = nn.Linear(4, 2), follows_in_eval
        self.register_buffer("centre", torch.zeros(4))
        self.register_buffer("num_seen", torch.zeros(()))

    def forward(self, x):
        self.num_seen += 1  # moves in eval mode, too, and changes no output
        if self.training or self.follows:
            with torch.no_grad():
                self.centre.lerp_(x.mean(0) + 1, 0.5)
        return self.net(x - self.centre)


@pytest.mark.parametrize("follows", [True, False])
def test_r4_buffer_that_evaluation_moves_is_told(follows):
    found = titles(r4.CHECK, Centred(follows), nn.CrossEntropyLoss(), (X, Y))
    assert ("evaluating changes the model's buffers" in found) == follows


class Reader(nn.Module):
    def __init__(self, reads):
        super().__init__()
        self.table = nn.Embedding(10, 12, padding_idx=0)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.head, self.reads = nn.Linear(12, 3), reads

    def forward(self, ids):
        hidden = self.gru(self.table(ids))[0]
        if self.reads == "last":
            return self.head(hidden[:, -1])
        last = (ids != 0).sum(1) - 1
        return self.head(hidden[torch.arange(len(ids)), last])


def padded(samples):
    ids = pad_sequence([s[0] for s in samples], batch_first=True)
    return ids, torch.tensor([s[1] for s in samples])


def padded_by_length(samples):
    return padded(sorted(samples, key=lambda s: -len(s[0])))


@pytest.mark.parametrize(
    ("reads", "collate", "is_told"),
    [
        ("last", padded, True),
        ("end of text", padded, False),
        ("end of text", padded_by_length, False),
    ],
)
def test_r4_padding_that_changes_outputs_is_told(reads, collate, is_told):
    loss = nn.CrossEntropyLoss()
    found = titles(r4.CHECK, Reader(reads), loss, TEXTS, collate=collate)
    assert ("padding changes a sample's output" in found) == is_told, found


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, ids):
        return self.head(self.table(ids))


def padded_tags(samples):
    return tuple(
        pad_sequence([s[i] for s in samples], batch_first=True) for i in (0, 1)
    )


@pytest.mark.parametrize("ignored", [-100, 0])
def test_r5_padding_known_from_the_samples_counts_in_no_loss(ignored):
    def loss(outputs, batch):
        tags = batch[1].flatten()
        return functional.cross_entropy(
            outputs.flatten(0, 1), tags, ignore_index=ignored
        )

    found = titles(r5.CHECK, Tagger(), loss, TAGGED, collate=padded_tags)
    assert ("padding counts in the loss" in found) == (ignored == -100), found


def test_r5_ignored_label_of_real_words_is_told():
    ids = torch.randint(1, 30, (64, 10), generator=DRAW)
    labels = torch.where(ids > 20, 1, 0) + torch.where(ids > 25, 1, 0)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 3))

    def loss(ignored):
        return lambda out, b: functional.cross_entropy(
            out.flatten(0, 1), b[1].flatten(), ignore_index=ignored
        )

    assert "is a class of the head" in titles(r5.CHECK, model, loss(0), (ids, labels))
    assert not titles(r5.CHECK, model, loss(-100), (ids, labels))
    ids[:, 7:], labels[:, 7:] = 0, 0  # words, then padding
    labels[:, :7] = labels[:, :7].clamp(min=1)
    assert "is a class of" not in titles(r5.CHECK, model, loss(0), (ids, labels))


@pytest.mark.parametrize(("axis", "is_told"), [(2, True), (1, False)])
def test_r5_softmax_over_another_axis_than_the_targets_pick_is_told(axis, is_told):
    images = torch.randn(48, 1, 8, 8, generator=DRAW)
    masks = (images[:, 0] > 0).long()

    def loss(outputs, batch):
        scores = outputs.log_softmax(axis)
        return -scores.gather(1, batch[1][:, None]).mean()

    found = titles(r5.CHECK, nn.Conv2d(1, 2, 3, padding=1), loss, (images, masks))
    assert ("targets pick along axis 1" in found) == is_told


class Normal(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, x):
        mean, log_std = self.net(x).chunk(2, 1)
        return torch.distributions.Normal(mean.squeeze(1), log_std.squeeze(1).exp())


@pytest.mark.parametrize(
    ("sign", "rewards", "is_told"),
    [(1, False, True), (-1, False, False), (1, True, False)],
)
def test_r5_likelihood_with_the_wrong_sign_is_told(sign, rewards, is_told):
    targets = X[:, 0] * 2

    def loss(outputs, batch):
        fit = outputs.log_prob(batch[1])
        weights = torch.linspace(0.5, 1.5, len(fit)) if rewards else 1.0
        return sign * (weights * fit).mean()

    found = titles(r5.CHECK, Normal(), loss, (X, targets))
    assert ("likelihood of the data is minimised" in found) == is_told


class Spectrum(nn.Module):
    def __init__(self, casts):
        super().__init__()
        self.net, self.casts = nn.Linear(6, 2), casts

    def forward(self, x):
        waves = torch.fft.rfft(x, n=10)
        found = waves.to(torch.float32) if self.casts else waves.abs()
        return self.net(found)


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("casts", [True, False])
def test_r4_complex_values_cast_to_real_are_told(casts):
    found = titles(r4.CHECK, Spectrum(casts), nn.CrossEntropyLoss(), (X, Y))
    assert ("complex values are cast" in found) == casts


@pytest.mark.parametrize("is_outer", [True, False])
def test_r4_metric_that_broadcasts_is_told(is_outer):
    def error(outputs, batch):
        guess = outputs if is_outer else outputs.squeeze(1)
        return float((guess - batch[1]).abs().mean())

    def same_label(outputs, batch):
        pairs = batch[1][:, None] == batch[1]
        return float(pairs.float().mean() + 0 * outputs.sum())

    def loss(outputs, batch):
        return functional.mse_loss(outputs.squeeze(1), batch[1])

    metrics = {"error": error, "same_label": same_label}
    data = (X, X[:, 0].clone())
    found = titles(r4.CHECK, nn.Linear(4, 1), loss, data, metrics=metrics)
    assert ("metric 'error' compares every output" in found) == is_outer
    assert "same_label" not in found


@pytest.mark.parametrize("is_guarded", [True, False])
def test_r4_metric_that_fails_where_one_class_is_predicted_is_told(is_guarded):
    def precision(outputs, batch):
        total = int((outputs.argmax(1) == 0).sum())
        right = int(((outputs.argmax(1) == 0) & (batch[1] == 0)).sum())
        return right / (max(total, 1) if is_guarded else total)

    model = nn.Linear(4, 2)
    nn.init.constant_(model.bias[:1], 9.0)  # gives the first class to begin with
    loss, metrics = nn.CrossEntropyLoss(), {"precision": precision}
    found = titles(r4.CHECK, model, loss, (X, Y), metrics=metrics)
    assert ("where all samples get one class" in found) != is_guarded


class Hiding(nn.Module):
    """A block whose causal mask may hide the diagonal, and so the whole first row."""

    def __init__(self, diagonal):
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.diagonal = diagonal

    def forward(self, ids):
        full = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool)
        hidden = self.blocks(self.table(ids), mask=full.triu(self.diagonal))
        return self.head(hidden).mT


@pytest.mark.parametrize("diagonal", [0, 1])
def test_r5_nan_that_only_validation_meets_is_told(diagonal):
    ids = torch.randint(0, 9, (48, 7), generator=DRAW)
    found = titles(
        r5.CHECK, Hiding(diagonal), nn.CrossEntropyLoss(), (ids, ids), (ids, ids)
    )
    assert ("NaN for the val batch of 16 in eval mode" in found) == (diagonal == 0)


@pytest.mark.parametrize("scale", [3.0, 0.9])
def test_r5_outputs_that_explode_are_told(scale):
    layers = [nn.Linear(16, 16, bias=False) for _ in range(30)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, scale)
    model = nn.Sequential(nn.Linear(4, 16), *layers, nn.Linear(16, 2))
    found = titles(r5.CHECK, model, nn.CrossEntropyLoss(), (X, Y))
    assert ("the outputs explode" in found) == (scale > 1)
