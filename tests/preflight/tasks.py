"""Healthy tasks of many kinds; each is built by a function without arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from nbutils.data.task import Task


def pairs(count: int = 24, features: int = 6, classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, features, generator=generator)
    return x, torch.arange(count) % classes


def classifier(features: int = 6, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))


def plain() -> Task:
    return Task(classifier(), nn.CrossEntropyLoss(), pairs(), pairs(9))


def batch_norm_dropout() -> Task:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    x = torch.randn(24, 1, 6, 6)
    return Task(model, nn.CrossEntropyLoss(label_smoothing=0.1), (x, pairs()[1]))


class DictData(Dataset):
    def __init__(self, count: int = 20) -> None:
        self.x, self.y = pairs(count)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        return {
            "image": self.x[index],
            "label": int(self.y[index]),
            "name": f"sample {index}",
        }


def dict_batches() -> Task:
    return Task(
        classifier(),
        lambda outputs, batch: F.cross_entropy(outputs["logits"], batch["label"]),
        DictData(),
        DictData(7),
        forward=lambda model, batch: {"logits": model(batch["image"])},
    )


def graphs() -> Task:
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv, global_mean_pool

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = GCNConv(4, 8), nn.Linear(8, 2)

        def forward(self, graph):
            x = self.conv(graph.x, graph.edge_index).relu()
            return self.head(global_mean_pool(x, graph.batch))

    def graph(number: int) -> Data:
        nodes = 3 + number % 4
        index = torch.arange(nodes)
        edges = torch.stack([index, index.roll(1)])
        x = torch.randn(nodes, 4)
        return Data(x=x, edge_index=edges, y=torch.tensor([number % 2]))

    data = [graph(number) for number in range(14)]
    return Task(
        Net(), lambda outputs, graph: F.cross_entropy(outputs, graph.y), data, data[:5]
    )


def lazy() -> Task:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    return Task(model, nn.CrossEntropyLoss(), pairs())


def frozen() -> Task:
    model = classifier()
    model[0].requires_grad_(False)
    return Task(model, nn.CrossEntropyLoss(), pairs(), pairs())


class TiedLanguageModel(nn.Module):
    def __init__(self, tokens: int = 50, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.mix = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        size = ids.shape[1]
        mask = torch.full((size, size), float("-inf")).triu(1)
        return self.head(self.mix(self.embed(ids), src_mask=mask))


def tied() -> Task:
    ids = torch.randint(50, (16, 9))

    def loss(outputs, batch):
        targets = batch[0][:, 1:]
        return F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets.flatten())

    return Task(
        TiedLanguageModel(), loss, ids, count_targets=lambda b: b[0][:, 1:].numel()
    )


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x):
        mean, log_var = self.encode(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (log_var / 2).exp()
        return self.decode(code), mean, log_var


def multi_term() -> Task:
    def loss(outputs, batch):
        rebuilt, mean, log_var = outputs
        divergence = (mean.square() + log_var.exp() - 1 - log_var).mean() / 2
        return {"rebuild": F.mse_loss(rebuilt, batch[0]), "divergence": divergence}

    x = pairs()[0]
    return Task(Variational(), loss, x, x[:5], loss_weights={"divergence": 0.1})


def tiny() -> Task:
    return Task(classifier(), nn.CrossEntropyLoss(), pairs(3))


def one_sample() -> Task:
    return Task(classifier(), nn.CrossEntropyLoss(), pairs(1))


class Whole(nn.Module):
    """Takes one sample at a time, as whole-slide and simulator models do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        if x.shape[0] != 1:
            raise ValueError(f"one sample at a time, got {x.shape[0]}")
        return self.head(x)


def single() -> Task:
    from nbutils.config import RunConfig

    return Task(
        Whole(), nn.CrossEntropyLoss(), pairs(5), config=RunConfig(batch_size=1)
    )


class Stream(IterableDataset):
    def __iter__(self):
        x, y = pairs(40)
        return iter(zip(x, y, strict=True))


def stream() -> Task:
    return Task(classifier(), nn.CrossEntropyLoss(), Stream())


def loader() -> Task:
    data = [(x, int(y)) for x, y in zip(*pairs(), strict=True)]
    return Task(
        classifier(),
        nn.CrossEntropyLoss(),
        DataLoader(data, batch_size=5, shuffle=True),
        DataLoader(data, batch_size=7),
    )


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.cfloat) / 6)

    def forward(self, x):
        return x @ self.weight


def complex_valued() -> Task:
    x = torch.randn(20, 6, dtype=torch.cfloat)
    return Task(
        Complex(), lambda outputs, batch: (outputs - batch[0]).abs().square().mean(), x
    )


class Pairwise(nn.Module):
    """A matrix of similarities: each row looks at the whole batch, by design."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, batch):
        return self.left(batch[0]) @ self.right(batch[1]).T


def contrastive() -> Task:
    def loss(outputs, batch):
        return F.cross_entropy(outputs, torch.arange(len(outputs)))

    data = (torch.randn(20, 6), torch.randn(20, 5))
    return Task(Pairwise(), loss, data, forward=lambda model, batch: model(batch))


def pad(samples):
    ids = nn.utils.rnn.pad_sequence([s[0] for s in samples], batch_first=True)
    return ids, torch.tensor([s[1] for s in samples])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 2)

    def forward(self, ids):
        mask = (ids != 0).unsqueeze(-1)
        return self.head((self.embed(ids) * mask).sum(1) / mask.sum(1).clamp(min=1))


def padded() -> Task:
    data = [(torch.randint(1, 20, (2 + i % 5,)), i % 2) for i in range(18)]
    return Task(Bag(), nn.CrossEntropyLoss(), data, data[:4], collate=pad)


class Masked(nn.Module):
    """Missing values are NaN in the data, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        return self.head(x.nan_to_num(0.0)).squeeze(-1)


def missing_values() -> Task:
    x, y = pairs()
    x = x.masked_fill(torch.rand(x.shape) < 0.2, float("nan"))
    return Task(Masked(), nn.MSELoss(), (x, y.float()))


def segmentation() -> Task:
    x, y = torch.randn(10, 1, 6, 6), torch.randint(3, (10, 6, 6))
    y[:, 0] = 255
    return Task(
        nn.Conv2d(1, 3, 1), nn.CrossEntropyLoss(ignore_index=255), (x, y), (x, y)
    )


def multi_label() -> Task:
    x, y = pairs()
    return Task(classifier(), nn.BCEWithLogitsLoss(), (x, F.one_hot(y).float()))


def learnt_loss() -> Task:
    class Balance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, outputs, batch):
            loss = F.cross_entropy(outputs, batch[1])
            return {"task": loss * (-self.log_scale).exp(), "scale": self.log_scale + 1}

    def optimizer(model):
        return torch.optim.SGD([*model.parameters(), *balance.parameters()], lr=0.1)

    balance = Balance()
    return Task(classifier(), balance, pairs(), make_optimizer=optimizer)


def recurrent() -> Task:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1]).squeeze(-1)

    return Task(Net(), nn.MSELoss(), (torch.randn(20, 7, 4), torch.randn(20)))


def stochastic_data() -> Task:
    class Noise(Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index):
            return torch.randn(6), torch.randint(3, ()).item()

    return Task(classifier(), nn.CrossEntropyLoss(), Noise(), Noise())


HEALTHY = {
    task.__name__: task
    for task in (
        plain, batch_norm_dropout, dict_batches, graphs, lazy, frozen, tied,
        multi_term, tiny, one_sample, single, stream, loader, complex_valued,
        contrastive, padded, missing_values, segmentation, multi_label, learnt_loss,
        recurrent, stochastic_data,
    )
}  # fmt: skip
