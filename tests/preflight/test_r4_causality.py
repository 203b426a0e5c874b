"""R4: next-step models that see what they predict, and models that may."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.model import forward
from nbutils.preflight.session import run_checks

TOKENS, WIDTH, LENGTH = 20, 16, 12


def ids(count: int = 32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, TOKENS, (count, LENGTH), generator=generator)


class Transformer(nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(16, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.head = nn.Linear(WIDTH, TOKENS)
        self.is_causal = is_causal

    def forward(self, tokens):
        size = tokens.shape[1]
        mask = torch.full((size, size), float("-inf")).triu(1)
        x = self.embed(tokens) + self.place(torch.arange(size))
        return self.head(self.block(x, mask if self.is_causal else None))


class Recurrent(nn.Module):
    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.cell = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=both)
        self.head = nn.Linear(WIDTH * (1 + both), TOKENS)

    def forward(self, tokens):
        return self.head(self.cell(self.embed(tokens))[0]).transpose(1, 2)


def shifted_by(count: int):
    def loss(outputs, batch):
        kept = outputs[:, :-count] if count else outputs
        return F.cross_entropy(kept.flatten(0, 1), batch[0][:, count:].flatten())

    return loss


def look(model, loss, data, **options):
    task = Task(model, loss, data, **options)
    return run_checks(task, RunConfig(device="cpu"), [forward.CHECK])[0]


def test_r4_language_model_without_mask_fails_and_with_it_passes():
    finding = look(Transformer(is_causal=False), shifted_by(1), ids())
    assert finding.severity == "fail"
    assert "sees the future" in finding.title
    finding = look(Transformer(is_causal=True), shifted_by(1), ids())
    assert finding.severity == "pass"
    assert "do not see the inputs that they predict" in str(finding.details)


@pytest.mark.parametrize("both", [True, False])
def test_r4_shifted_pairs_are_judged_too(both):
    data = (ids()[:, :-1].contiguous(), ids()[:, 1:].contiguous())
    finding = look(Recurrent(both=both), nn.CrossEntropyLoss(), data)
    assert finding.severity == ("fail" if both else "pass")


@pytest.mark.parametrize("both", [True, False])
def test_r4_series_that_sees_its_next_value_warns(both):
    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(2, 8, batch_first=True, bidirectional=both)
            self.head = nn.Linear(8 * (1 + both), 2)

        def forward(self, x):
            return self.head(self.cell(x)[0])

    x = torch.randn(32, 13, 2, generator=torch.Generator().manual_seed(0))
    data = (x[:, :-1].contiguous(), x[:, 1:].contiguous())
    finding = look(Forecaster(), nn.MSELoss(), data)
    assert finding.severity == ("warn" if both else "pass")


def test_r4_targets_that_are_not_shifted_warn():
    finding = look(Transformer(is_causal=True), shifted_by(0), ids())
    assert finding.severity == "warn"
    assert "copy its input" in finding.title


def test_r4_targets_shifted_twice_warn():
    finding = look(Transformer(is_causal=True), shifted_by(2), ids())
    assert finding.severity == "warn"
    assert "t+2" in finding.title


def test_r4_masked_language_model_passes():
    tokens, labels = ids(), ids()
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.15
    labels[~mask] = -100
    tokens[mask] = 0

    def loss(outputs, batch):
        return F.cross_entropy(outputs.transpose(1, 2), batch[1])

    assert look(Transformer(is_causal=False), loss, (tokens, labels)).severity == "pass"


def test_r4_tagger_that_reads_both_ways_passes():
    finding = look(Recurrent(both=True), nn.CrossEntropyLoss(), (ids(), ids() % 4))
    assert finding.severity == "pass"


def test_r4_autoencoder_of_text_passes():
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(TOKENS, WIDTH)
            self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
            self.code = nn.Linear(WIDTH, 8)
            self.decoder = nn.GRU(WIDTH + 8, WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, TOKENS)

        def forward(self, tokens):
            x = self.embed(tokens)
            code = self.code(self.encoder(x)[1][-1])
            code = code[:, None].expand(-1, x.shape[1], -1)
            return self.head(self.decoder(torch.cat([x, code], -1))[0])

    assert look(Autoencoder(), shifted_by(1), ids()).severity == "pass"


def test_r4_prefix_that_sees_itself_passes_where_it_is_not_trained():
    class Prefix(Transformer):
        def forward(self, tokens):
            size = tokens.shape[1]
            mask = torch.full((size, size), float("-inf")).triu(1)
            mask[:6, :6] = 0
            x = self.embed(tokens) + self.place(torch.arange(size))
            return self.head(self.block(x, mask))

    def loss(outputs, batch):
        targets = batch[0][:, 1:].clone()
        targets[:, :5] = -100
        return F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets.flatten())

    assert look(Prefix(is_causal=True), loss, ids()).severity == "pass"
