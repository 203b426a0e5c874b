"""Healthy: language models and other programs on tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, generator, markov, split
from nbutils.data.task import Task


def _next_token(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class RecurrentModel(nn.Module):
    """A recurrent language model."""

    def __init__(self, kind: type[nn.RNNBase], vocab: int = 20) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, 32)
        self.rnn = kind(32, 48, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(48, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.tokens(tokens))[0])


@healthy("text", "a GRU language model: targets are the inputs moved by one")
def gru_language_model() -> Program:
    torch.manual_seed(0)
    tokens = markov(500)
    train, val = split(400, tokens[:, :-1], tokens[:, 1:])
    task = Task(RecurrentModel(nn.GRU), _next_token, train, val)
    return Program(task, {"epochs": 8, "lr": 5e-3})


@healthy("text", "an LSTM language model on bare token blocks, shifted in the loss")
def lstm_on_bare_tensor() -> Program:
    torch.manual_seed(0)
    tokens = markov(500)

    def loss(logits: Tensor, batch: tuple[Tensor]) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())

    task = Task(RecurrentModel(nn.LSTM), loss, tokens[:400], tokens[400:])
    return Program(task, {"epochs": 10, "lr": 5e-3})


class Windows(IterableDataset):
    """Consecutive windows of eight long texts, so that a state may be carried on."""

    def __init__(self, texts: Tensor, window: int = 10) -> None:
        self.texts, self.window = texts, window

    def __len__(self) -> int:
        return (self.texts.shape[1] - 1) // self.window * len(self.texts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, self.texts.shape[1] - self.window, self.window):
            for text in self.texts:
                part = text[start : start + self.window + 1]
                first = torch.tensor(start == 0)
                yield {"x": part[:-1], "y": part[1:], "first": first}


class Stateful(nn.Module):
    """Carries its state from window to window, detached (truncated backpropagation)."""

    def __init__(self, vocab: int = 20) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, 32)
        self.rnn = nn.GRU(32, 48, batch_first=True)
        self.head = nn.Linear(48, vocab)
        self.register_buffer("state", torch.zeros(1, 8, 48))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        carried = None
        if len(batch["x"]) == self.state.shape[1]:
            carried = self.state * (~batch["first"])[None, :, None]
        hidden, after = self.rnn(self.tokens(batch["x"]), carried)
        if carried is not None:
            self.state = after.detach()
        return self.head(hidden)


@healthy("text", "the recurrent state is carried over windows and detached")
def truncated_backpropagation() -> Program:
    torch.manual_seed(0)
    texts = markov(16, 401)

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), batch["y"].flatten())

    task = Task(Stateful(), loss, Windows(texts[:8]), Windows(texts[8:]))
    return Program(task, {"epochs": 8, "batch_size": 8, "lr": 5e-3})


class Causal(nn.Module):
    """A decoder-only transformer."""

    def __init__(self, vocab: int = 20, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width, padding_idx=0)
        self.places = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, 0.1, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device)
        hidden = self.tokens(tokens) + self.places[:length]
        hidden = self.body(hidden, mask=mask.triu(1), is_causal=True)
        return self.head(hidden)


@healthy("text", "a causal transformer with positions that begin at zero")
def causal_transformer() -> Program:
    torch.manual_seed(0)
    tokens = markov(500)
    train, val = split(400, tokens[:, :-1], tokens[:, 1:])
    task = Task(Causal(), _next_token, train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3, "warmup_steps": 10})


def _pad(samples: list[Tensor]) -> dict[str, Tensor]:
    whole = pad_sequence(samples, batch_first=True)
    labels = whole[:, 1:].masked_fill(whole[:, 1:] == 0, -100)
    return {"input_ids": whole[:, :-1], "labels": labels}


@healthy("text", "texts of any length, padded, weighed by tokens over accumulation")
def ragged_with_token_counts() -> Program:
    torch.manual_seed(0)
    lengths = torch.randint(7, 17, (500,), generator=generator(3)).tolist()
    texts = [text[:end] for text, end in zip(markov(500), lengths, strict=True)]

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    task = Task(
        Causal(),
        loss,
        texts[:400],
        texts[400:],
        forward=lambda model, batch: model(batch["input_ids"]),
        collate=_pad,
        count_targets=lambda batch: (batch["labels"] != -100).sum(),
    )
    return Program(task, {"epochs": 8, "lr": 3e-3, "batch_size": 8, "accumulation": 4})


class Masked(nn.Module):
    """A bidirectional encoder: tokens see each other, samples do not."""

    def __init__(self, vocab: int = 20, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, vocab)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.body(self.tokens(tokens) + self.places(places)))


def _mask(samples: list[Tensor]) -> dict[str, Tensor]:
    tokens = torch.stack(samples)
    is_hidden = torch.rand(tokens.shape) < 0.15
    is_hidden[:, 0] |= ~is_hidden.any(dim=1)
    labels = tokens.masked_fill(~is_hidden, -100)
    return {"tokens": tokens.masked_fill(is_hidden, 1), "labels": labels}


@healthy("text", "masked language model: masks drawn in collate, in validation too")
def masked_language_model() -> Program:
    torch.manual_seed(0)
    tokens = markov(1000)

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits.transpose(1, 2), batch["labels"])

    model, data = Masked(), (list(tokens[:800]), list(tokens[800:]))
    task = Task(model, loss, *data, collate=_mask)
    return Program(task, {"epochs": 15, "lr": 3e-3, "clip_norm": 1.0})


class Translator(nn.Module):
    """Encoder and decoder; the decoder is fed the right answer, moved by one."""

    def __init__(self, vocab: int = 20, width: int = 48) -> None:
        super().__init__()
        self.source = nn.Embedding(vocab, width)
        self.answer = nn.Embedding(vocab, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(2 * width, vocab)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        memory, state = self.encoder(self.source(batch["source"]))
        begun = F.pad(batch["target"][:, :-1], (1, 0), value=1)
        hidden, _ = self.decoder(self.answer(begun), state)
        sight = F.scaled_dot_product_attention(hidden, memory, memory)
        return self.head(torch.cat([hidden, sight], dim=-1))


@healthy("dicts", "seq2seq with teacher forcing: targets enter the model on purpose")
def teacher_forcing() -> Program:
    torch.manual_seed(0)
    source = markov(1000, 12).unique(dim=0)  # each text once
    source = source[torch.randperm(len(source))][:900]
    columns = {"source": source, "target": (source.flip(1) + 3) % 18 + 2}
    train = {name: column[:760] for name, column in columns.items()}
    val = {name: column[760:] for name, column in columns.items()}

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), batch["target"].flatten())

    task = Task(Translator(), loss, train, val)
    return Program(task, {"epochs": 10, "lr": 5e-3})


class SparseBag(nn.Module):
    """Sparse gradients of an embedding bag with a large vocabulary."""

    def __init__(self, vocab: int = 5000) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(vocab, 16, sparse=True)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.words(tokens))


@healthy("text", "sparse gradients, plain SGD, no clipping; most rows never occur")
def sparse_embedding() -> Program:
    torch.manual_seed(0)
    label = torch.randint(2, (500,))
    tokens = torch.randint(40, (500, 12)) + 30 * label[:, None]
    train, val = split(400, tokens, label)
    task = Task(
        SparseBag(),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=2.0),
    )
    return Program(task, {"epochs": 8, "clip_norm": None, "precision": "fp32"})
