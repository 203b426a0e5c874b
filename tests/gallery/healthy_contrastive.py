"""Healthy: losses that compare the samples of a batch with each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from gallery.case import Program, healthy
from gallery.data_unusual import clusters, generator, gratings, mlp, split
from nbutils.data.task import Task


class TwoViews(Dataset):
    """Two random crops with noise of each image; no labels."""

    def __init__(self, images: Tensor, crop: int = 12) -> None:
        self.images = images
        self.crop = crop

    def __len__(self) -> int:
        return len(self.images)

    def _view(self, image: Tensor) -> Tensor:
        room = image.shape[-1] - self.crop + 1
        top, left = torch.randint(room, (2,)).tolist()
        view = image[:, top : top + self.crop, left : left + self.crop]
        return view + 0.1 * torch.randn_like(view)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return self._view(image), self._view(image)


def _embedder(out: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, out),
    )


def _both(model: nn.Module, views: tuple[Tensor, Tensor]) -> Tensor:
    return model(torch.cat(list(views)))


def _nt_xent(outputs: Tensor, _views: tuple[Tensor, Tensor]) -> Tensor:
    unit = F.normalize(outputs, dim=1)
    num = len(unit) // 2
    logits = (unit @ unit.T / 0.2).masked_fill(
        torch.eye(2 * num, dtype=torch.bool, device=unit.device), -1e9
    )
    partner = torch.arange(2 * num, device=unit.device).roll(num)
    return F.cross_entropy(logits, partner)


@healthy("images", "SimCLR: each sample's loss depends on the whole batch")
def simclr() -> Program:
    torch.manual_seed(0)
    images, _ = gratings(360, classes=8)
    train, val = TwoViews(images[:288]), TwoViews(images[288:])
    task = Task(_embedder(), _nt_xent, train, val, forward=_both)
    return Program(task, {"epochs": 8, "drop_last": True})


def _barlow(outputs: Tensor, _views: tuple[Tensor, Tensor]) -> Tensor:
    one, two = outputs.chunk(2)
    one = (one - one.mean(0)) / (one.std(0) + 1e-5)
    two = (two - two.mean(0)) / (two.std(0) + 1e-5)
    cross = one.T @ two / len(one)
    on_diagonal = (cross.diagonal() - 1).square().sum()
    return on_diagonal + 0.02 * (cross.square().sum() - cross.diagonal().square().sum())


@healthy("images", "Barlow twins: a loss over correlations of the batch")
def barlow_twins() -> Program:
    torch.manual_seed(0)
    images, _ = gratings(360, classes=8)
    train, val = TwoViews(images[:288]), TwoViews(images[288:])
    task = Task(
        _embedder(),
        _barlow,
        train,
        val,
        forward=_both,
        declares=("samples interact",),
    )
    return Program(task, {"epochs": 8, "drop_last": True})


class TwoTowers(nn.Module):
    """CLIP in small: an encoder each for images and captions, a learnt temperature."""

    def __init__(self, vocab: int, width: int = 16) -> None:
        super().__init__()
        self.image = _embedder(width)
        self.words = nn.EmbeddingBag(vocab, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        image = F.normalize(self.image(batch["image"]), dim=1)
        words = F.normalize(self.words(batch["caption"]), dim=1)
        return self.log_scale.clamp(max=math.log(100)).exp() * image @ words.T


def _clip_loss(logits: Tensor, _batch: dict[str, Tensor]) -> Tensor:
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@healthy("dicts", "CLIP: outputs are (B, B), there are no labels, a learnt temperature")
def clip() -> Program:
    torch.manual_seed(0)
    images, kind = gratings(480, classes=12)
    caption = kind[:, None] * 3 + torch.randint(3, (480, 4))
    columns = {"image": images, "caption": caption}
    train = {name: column[:400] for name, column in columns.items()}
    val = {name: column[400:] for name, column in columns.items()}
    task = Task(TwoTowers(36), _clip_loss, train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3, "batch_size": 16})


class Triplets(Dataset):
    """Anchor, another of its class, one of another class."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        same = (self.y == self.y[index]).nonzero().flatten()
        other = (self.y != self.y[index]).nonzero().flatten()
        friend = same[torch.randint(len(same), ())]
        stranger = other[torch.randint(len(other), ())]
        return self.x[index], self.x[friend], self.x[stranger]


@healthy("tabular", "triplets drawn anew at each reading; easy ones give exact zeros")
def triplets() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 6, spread=2.0))

    def loss(outputs: tuple[Tensor, ...], _batch: tuple[Tensor, ...]) -> Tensor:
        return F.triplet_margin_loss(*outputs, margin=0.5)

    task = Task(
        mlp(16, 64, 8),
        loss,
        Triplets(*train),
        Triplets(*val),
        forward=lambda model, batch: tuple(F.normalize(model(x)) for x in batch),
    )
    return Program(task, {"epochs": 8})


class ProxyLoss(nn.Module):
    """Learnt proxies, one a class: the loss owns parameters."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(classes, width))

    def forward(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        cosine = F.normalize(outputs) @ F.normalize(self.proxies).T
        return F.cross_entropy(8 * cosine, batch[1])


@healthy("tabular", "proxies of metric learning are parameters of the loss")
def proxy_loss() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 6, spread=1.5))
    task = Task(mlp(16, 64, 8), ProxyLoss(6, 8), train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


class ArcFace(nn.Module):
    """Cosine head with an angular margin, which needs labels while it trains."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.body = mlp(16, 64, width)
        self.centres = nn.Parameter(torch.randn(classes, width))

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        cosine = F.normalize(self.body(batch[0])) @ F.normalize(self.centres).T
        if self.training:
            angle = cosine.clamp(-0.999, 0.999).acos()
            own = F.one_hot(batch[1], len(self.centres)).bool()
            cosine = torch.where(own, (angle + 0.3).cos(), cosine)
        return 16 * cosine


@healthy("tabular", "ArcFace: labels enter the model on purpose, in training only")
def arcface() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 6))
    task = Task(
        ArcFace(6, 8),
        nn.CrossEntropyLoss(),
        train,
        val,
        forward=lambda model, batch: model(batch),
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


class ClassesTimesSamples(Sampler):
    """Batches of four classes with four samples each, as hard mining wants them."""

    def __init__(self, labels: Tensor, num_batches: int) -> None:
        self.rows = [(labels == c).nonzero().flatten() for c in labels.unique()]
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.num_batches):
            chosen = torch.randperm(len(self.rows))[:4].tolist()
            yield [
                int(row)
                for c in chosen
                for row in self.rows[c][torch.randperm(len(self.rows[c]))[:4]]
            ]


def _hardest(outputs: Tensor, batch: list[Tensor]) -> Tensor:
    far = torch.cdist(outputs, outputs)
    same = batch[1][:, None] == batch[1][None, :]
    positive = far.masked_fill(~same, 0).amax(dim=1)
    negative = far.masked_fill(same, 1e9).amin(dim=1)
    return F.softplus(positive - negative).mean()


@healthy("tabular", "a DataLoader with its own batch sampler of classes times samples")
def hardest_triplets() -> Program:
    torch.manual_seed(0)
    train, val = split(480, *clusters(600, 16, 8, spread=1.5))
    sampler = ClassesTimesSamples(train[1], 30)
    loader = DataLoader(TensorDataset(*train), batch_sampler=sampler)
    fixed = ClassesTimesSamples(val[1], 6)
    held = DataLoader(TensorDataset(*val), batch_sampler=fixed)
    return Program(Task(mlp(16, 64, 8), _hardest, loader, held), {"epochs": 6})


def _cox(risk: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    _, time, has_event = batch
    order = time.argsort(descending=True)
    risk, has_event = risk.flatten()[order], has_event[order]
    per_event = (risk.logcumsumexp(dim=0) - risk)[has_event]
    return per_event.sum() / has_event.sum().clamp(min=1)


@healthy("tabular", "Cox partial likelihood: risk sets couple samples, half censored")
def cox_survival() -> Program:
    torch.manual_seed(0)
    x = torch.randn(600, 8)
    hazard = (x[:, 0] + 0.5 * x[:, 1] * x[:, 2]).exp()
    event = torch.distributions.Exponential(hazard).sample()
    censoring = torch.distributions.Exponential(torch.ones(600)).sample()
    train, val = split(500, x, torch.minimum(event, censoring), event <= censoring)
    task = Task(mlp(8, 32, 1), _cox, train, val)
    return Program(task, {"epochs": 10, "batch_size": 64})


def _pairs(x: Tensor, y: Tensor, seed: int) -> list[tuple[Tensor, Tensor, int]]:
    """Pairs of points; each fifth is one point twice, without any change."""
    order = torch.randperm(len(x), generator=generator(seed)).tolist()
    samples = []
    for row, other in enumerate(order):
        other = row if row % 5 == 0 else other
        samples.append((x[row], x[other], int(y[row] == y[other])))
    return samples


@healthy("tabular", "a siamese network; a fifth of its pairs are identical twins")
def siamese_with_twins() -> Program:
    torch.manual_seed(0)
    train, val = split(480, *clusters(600, 16, 3, spread=1.5))

    def loss(distance: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        same = batch[2].float()
        apart = (1 - distance).clamp(min=0).square()
        return (same * distance.square() + (1 - same) * apart).mean()

    task = Task(
        mlp(16, 48, 8),
        loss,
        _pairs(*train, seed=1),
        _pairs(*val, seed=2),
        forward=lambda model, batch: F.pairwise_distance(
            model(batch[0]), model(batch[1])
        ),
    )
    return Program(task, {"epochs": 8})
