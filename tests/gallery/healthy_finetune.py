"""Healthy: parts that rest, move by other rules, or are shared."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, clusters, gratings, markov, mlp, split
from nbutils.data.task import Task


class FrozenBackbone(nn.Module):
    """A convolutional encoder that stays as it was, batch statistics included."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.head = nn.Linear(width, classes)

    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.encoder(images)
        return self.head(features)


def _encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 48, 7, padding=3),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@healthy("images", "the backbone is frozen, only a linear head learns")
def frozen_backbone() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    model = FrozenBackbone(_encoder(), 48, 4)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 15, "lr": 1e-2})


@healthy("images", "the backbone is frozen and trained on features cached in memory")
def cached_features_of_frozen_backbone() -> Program:
    torch.manual_seed(0)
    images, labels = gratings(400)
    encoder = _encoder().eval()
    with torch.no_grad():
        features = encoder(images)
    train, val = split(320, features, labels)
    model = nn.Sequential(nn.BatchNorm1d(48), nn.Linear(48, 4))
    task = Task(model, F.cross_entropy, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 15, "lr": 1e-2})


class LoRALinear(nn.Module):
    """A frozen linear layer plus a low-rank change that begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.down.T) @ self.up.T * self.scale


@healthy("tabular", "LoRA: low-rank changes with a zero factor over frozen layers")
def lora_adapters() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 4, spread=1.5))
    model = mlp(16, 64, 64, 4)
    for position in (0, 2, 4):
        model[position] = LoRALinear(model[position])
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 1e-2})


@healthy("tabular", "only biases, norms and the head are trained (BitFit)")
def biases_only() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 4))
    layers = [nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64)]
    model = nn.Sequential(*layers, nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4))
    for name, parameter in model.named_parameters():
        is_head = name.startswith("6.")
        parameter.requires_grad_(is_head or parameter.ndim == 1)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 5e-3})


class PromptTuned(nn.Module):
    """Learnt vectors before the tokens of a transformer that is frozen."""

    def __init__(self, vocab: int = 20, width: int = 32, prompts: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True)
        self.tokens = nn.Embedding(vocab, width).requires_grad_(False)
        self.body = nn.TransformerEncoder(layer, 2).requires_grad_(False)
        self.prompts = nn.Parameter(torch.randn(prompts, width) * 0.1)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        prompts = self.prompts.expand(len(tokens), -1, -1)
        hidden = torch.cat([prompts, self.tokens(tokens)], dim=1)
        return self.head(self.body(hidden)[:, : self.prompts.shape[0]].mean(dim=1))


@healthy("text", "prompt tuning: vectors before the tokens of a frozen transformer")
def prompt_tuning() -> Program:
    torch.manual_seed(0)
    tokens = markov(500, 16)
    labels = ((tokens < 11).sum(dim=1) > 8).long()
    train, val = split(400, tokens, labels)
    task = Task(PromptTuned(), F.cross_entropy, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 8, "lr": 1e-2})


class BagOfVectors(nn.Module):
    """Mean of word vectors that are given and stay, then a small network."""

    def __init__(self, vectors: Tensor, classes: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding.from_pretrained(vectors, freeze=True, padding_idx=0)
        self.head = mlp(vectors.shape[1], 32, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        present = (tokens != 0).unsqueeze(-1)
        total = (self.vectors(tokens) * present).sum(dim=1)
        return self.head(total / present.sum(dim=1).clamp(min=1))


@healthy("text", "word vectors are loaded and frozen, one row of them is zero")
def frozen_word_vectors() -> Program:
    torch.manual_seed(0)
    tokens = markov(500, 20)
    labels = ((tokens < 11).sum(dim=1) > 10).long()
    lengths = torch.randint(14, 21, (500, 1))
    tokens = tokens.masked_fill(torch.arange(20) >= lengths, 0)
    train, val = split(400, tokens, labels)
    vectors = torch.randn(20, 24)
    vectors[0] = 0
    task = Task(BagOfVectors(vectors, 2), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


class Distilled(nn.Module):
    """A student; the frozen teacher lives in the same module."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student

    def train(self, mode: bool = True) -> Distilled:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            taught = self.teacher(x)
        return {"student": self.student(x), "teacher": taught}


def _distillation(outputs: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> dict:
    heat = 2.0
    told = F.log_softmax(outputs["student"] / heat, dim=1)
    taught = F.log_softmax(outputs["teacher"] / heat, dim=1)
    soft = F.kl_div(told, taught, reduction="batchmean", log_target=True)
    return {
        "soft": soft * heat**2,
        "hard": F.cross_entropy(outputs["student"], batch[1]),
    }


@healthy("tabular", "distillation from a frozen teacher held by the module")
def distillation() -> Program:
    torch.manual_seed(0)
    x, y = clusters(600, 10, 4)
    teacher = nn.Linear(10, 4)  # the best linear rule for clusters of equal spread
    with torch.no_grad():
        centres = torch.stack([x[y == label].mean(dim=0) for label in range(4)])
        teacher.weight.copy_(centres)
        teacher.bias.copy_(-centres.square().sum(dim=1) / 2)
    train, val = split(480, x, y)
    model = Distilled(teacher, mlp(10, 16, 4))
    task = Task(model, _distillation, train, val, loss_weights={"hard": 0.3})
    return Program(task, {"epochs": 10, "lr": 3e-3})


class MomentumPair(nn.Module):
    """BYOL: an online network, and an average of it that moves in ``forward``."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.online = encoder
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = nn.Sequential(
            nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, width)
        )

    @torch.no_grad()
    def _follow(self) -> None:
        pairs = zip(self.target.parameters(), self.online.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 0.01)

    def forward(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.training:
            self._follow()
        with torch.no_grad():
            aims = torch.cat([self.target(views[1]), self.target(views[0])])
        guesses = [self.predictor(self.online(view)) for view in views]
        return torch.cat(guesses), aims


def _byol(outputs: tuple[Tensor, Tensor], _batch: tuple[Tensor, Tensor]) -> Tensor:
    return 2 - 2 * F.cosine_similarity(*outputs, dim=-1).mean()


@healthy("tabular", "BYOL: a momentum copy inside the module moves without gradients")
def momentum_copy() -> Program:
    torch.manual_seed(0)
    x, _ = clusters(500, 16, 5)
    views = (x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x))
    train, val = split(400, *views)
    encoder = nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16)
    )
    model = MomentumPair(encoder, 16)
    task = Task(model, _byol, train, val, forward=lambda net, batch: net(batch))
    return Program(task, {"epochs": 10})


class Recomputed(nn.Module):
    """Residual blocks whose activations are computed again in the backward pass."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = hidden + checkpoint(block, hidden, use_reentrant=False)
        return self.leave(hidden)


@healthy("tabular", "gradient checkpointing called in the model")
def checkpointed_blocks() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=2.0))
    task = Task(Recomputed(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8})
