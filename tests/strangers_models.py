"""Networks and data sets as people write them who have never seen this project."""

from __future__ import annotations

import dataclasses
import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, IterableDataset


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def xy(count: int = 40, features: int = 5, classes: int = 3):
    x = torch.randn(count, features, generator=generator())
    weights = torch.randn(features, classes, generator=generator(1))
    return x, (x @ weights).argmax(1)


def mlp(features: int = 5, classes: int = 3, hidden: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


class Sample(NamedTuple):
    image: Tensor
    label: Tensor


class Rows(Dataset):
    """Samples of one of many forms over the same data."""

    def __init__(self, form=None, count: int = 30) -> None:
        self.x, self.y = xy(count)
        self.form = form

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        assert type(index) is int
        x, y = self.x[index], self.y[index]
        return (x, y) if self.form is None else self.form(x, y, index)


def as_dict(x, y, index):
    return {"feat": x.numpy(), "label": int(y), "weight": 1.0, "id": f"s{index}"}


def as_named(x, y, index):
    return Sample(x, y)


def as_nested(x, y, index):
    meta = (f"n{index}", index, np.float32(1.5), complex(index, 1))
    return {"in": {"x": x, "flag": bool(index % 2)}, "meta": meta, "y": y}


def augmented(x, y, index):
    return x + 0.1 * torch.randn(5) + 0.01 * float(
        np.random.rand()
    ) * random.random(), y


class Stream(IterableDataset):
    def __init__(self, count: int) -> None:
        self.x, self.y = xy(count)

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(self.x), step):
            yield self.x[index], self.y[index]


class SizedStream(Stream):
    def __len__(self) -> int:
        return len(self.x)


class Sequences(Dataset):
    """Token sequences of different lengths."""

    def __init__(self, count: int = 32) -> None:
        g = generator(1)
        lengths = torch.randint(3, 9, (count,), generator=g).tolist()
        self.items = [
            (torch.randint(1, 20, (n,), generator=g), i % 2)
            for i, n in enumerate(lengths)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pad(samples):
    tokens, labels = zip(*samples, strict=True)
    padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    lengths = torch.tensor([len(t) for t in tokens])
    mask = padded != 0
    labels = torch.tensor(labels)
    return {"tok": padded, "len": lengths, "y": labels, "tag": padded % 4, "mask": mask}


class SequenceClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, batch):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(batch["tok"]),
            batch["len"].cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        _, (hidden, _) = self.lstm(packed)
        return self.head(hidden[-1])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, batch):
        return self.head(self.lstm(self.embed(batch["tok"]))[0])


def masked_loss(outputs, batch):
    flat, tags = outputs.flatten(0, 1), batch["tag"].flatten()
    mask = batch["mask"].flatten().float()
    return (F.cross_entropy(flat, tags, reduction="none") * mask).sum() / mask.sum()


class LanguageModel(nn.Module):
    def __init__(self, *, tie: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(32, 16), nn.Embedding(16, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 32, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        if tie:
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.tokens(ids) + self.places(torch.arange(length))
        return self.head(self.blocks(x, mask=mask, is_causal=True))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.body = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, source, target):
        mask = self.body.generate_square_subsequent_mask(target.shape[1])
        x = self.body(self.embed(source), self.embed(target), tgt_mask=mask)
        return self.head(x)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 16)
        self.classes, self.value = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x):
        hidden = self.body(x).relu()
        return {"cls": self.classes(hidden), "reg": self.value(hidden).squeeze(-1)}


def two_losses(outputs, batch):
    return {
        "cls": F.cross_entropy(outputs["cls"], batch[1]),
        "reg": F.mse_loss(outputs["reg"], batch[2]),
    }


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(16, 3) for _ in range(3)])

    def forward(self, x):
        hidden = self.body(x)
        return tuple(head(hidden) for head in self.heads)


def mixture_loss(outputs, batch):
    logits, mean, log_scale = outputs
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Normal(mean, log_scale.exp()),
    )
    return -density.log_prob(batch[1]).mean()


@dataclasses.dataclass
class AsDataclass:
    mean: Tensor
    log_var: Tensor


class AsTuple(NamedTuple):
    mean: Tensor
    log_var: Tensor


class Gaussian(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(4, 2), form

    def forward(self, x):
        return self.form(*self.layer(x).unbind(-1))


def gaussian_loss(outputs, batch):
    return F.gaussian_nll_loss(outputs.mean, batch[1], outputs.log_var.exp())


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x):
        mean, log_var = self.encode(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_var / 2).exp()
        return self.decode(code), mean, log_var


def vae_loss(outputs, batch):
    made, mean, log_var = outputs
    rest = 1 + log_var - mean**2 - log_var.exp()
    return {"rec": F.mse_loss(made, batch[0]), "kl": -0.5 * rest.sum(1).mean()}


class Covariance(nn.Module):
    """Complex snapshots (B, T, N) to a covariance (B, N, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, dtype=torch.complex64)

    def forward(self, x):
        y = self.layer(x)
        return y.mH @ y / x.shape[1]


def nmse(outputs, batch):
    error = (outputs - batch[1]).abs().square().sum((1, 2))
    return (error / batch[1].abs().square().sum((1, 2))).mean()


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = (
            nn.Linear(5, 16),
            nn.Dropout(0.2),
            nn.Linear(16, 3),
        )
        self.is_on = False

    def gradient_checkpointing_enable(self) -> None:
        self.is_on = True

    def _body(self, x):
        return self.drop(self.first(x).relu())

    def forward(self, x):
        if self.is_on and self.training:
            return self.last(checkpoint(self._body, x, use_reentrant=False))
        return self.last(self._body(x))


class Stateful(nn.Module):
    """Counts its calls, replaces buffers, and keeps one that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.calls, self.total = 0, np.zeros(2)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("grid", torch.arange(5.0).expand(2, 5))

    def get_extra_state(self):
        return {"calls": self.calls, "total": self.total}

    def set_extra_state(self, state) -> None:
        self.calls, self.total = state["calls"], state["total"]

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.total = self.total + len(x)
            self.seen = self.seen + len(x)
            self.scratch = x.detach()[:, :3].mean(0)
        return self.layer(x + 0 * self.grid[0])


class Codebook(nn.Module):
    """Vector quantisation: the code book moves inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(4, 8)
        self.register_buffer("codes", torch.randn(8, 4))

    def forward(self, x):
        z = self.encode(x)
        nearest = torch.cdist(z, self.codes).argmin(1)
        q = self.codes[nearest]
        if self.training:
            self.codes.index_add_(0, nearest, 0.05 * (z.detach() - q))
        return self.decode(z + (q - z).detach()), z, q.detach()


class Teacher(nn.Module):
    """A student and a frozen average of it, moved inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(8, 4)
        self.teacher = nn.Linear(8, 4).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, x):
        with torch.no_grad():
            if self.training:
                pairs = zip(
                    self.teacher.parameters(), self.student.parameters(), strict=True
                )
                for slow, fast in pairs:
                    slow.lerp_(fast, 0.1)
            target = self.teacher(x)
        return self.student(x + 0.1 * self.training * torch.randn_like(x)), target


class Pairing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch):
        a, b = F.normalize(self.a(batch["a"])), F.normalize(self.b(batch["b"]))
        return a @ b.T * self.scale.exp()


def pairing_loss(outputs, batch):
    own = torch.arange(len(outputs))
    return (F.cross_entropy(outputs, own) + F.cross_entropy(outputs.T, own)) / 2
