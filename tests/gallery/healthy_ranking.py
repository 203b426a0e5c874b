"""Healthy: ranking, recommendation, few shots, decisions from logged data."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, healthy
from gallery.data_unusual import clusters, generator, mlp, split
from nbutils.data.task import Task


def _purchases(num: int) -> tuple[Tensor, Tensor]:
    """Pairs of 60 users and 80 items, by a hidden taste; each pair once."""
    g = generator(0)
    users, items = torch.randn(60, 2, generator=g), torch.randn(80, 2, generator=g)
    taste = (3 * users @ items.T).softmax(dim=1) + 1e-6
    pair = torch.multinomial(taste.flatten(), num, generator=g)
    pair = pair[torch.randperm(num, generator=g)]
    return pair // 80, pair % 80


class Factors(nn.Module):
    """A vector for each user and each item: no layer is computed."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.users = nn.Embedding(60, width)
        self.items = nn.Embedding(80, width)
        nn.init.normal_(self.users.weight, std=0.1)
        nn.init.normal_(self.items.weight, std=0.1)

    def forward(self, batch: tuple[Tensor, ...]) -> Tensor:
        return self.users(batch[0]) @ self.items(batch[1]).T


@healthy("tabular", "two towers: the other items of the batch are the wrong answers")
def in_batch_negatives() -> Program:
    torch.manual_seed(0)
    train, val = split(1000, *_purchases(1200))

    def loss(scores: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        own = torch.arange(len(scores), device=scores.device)
        twins = (batch[1][:, None] == batch[1][None, :]).fill_diagonal_(False)
        return F.cross_entropy(scores.masked_fill(twins, -1e4), own)

    task = Task(Factors(), loss, train, val, forward=lambda model, batch: model(batch))
    return Program(task, {"epochs": 12, "lr": 1e-2, "batch_size": 64})


class Feedback(Dataset):
    """A purchase, and an item drawn anew that was not bought."""

    def __init__(self, user: Tensor, item: Tensor) -> None:
        self.user, self.item = user, item

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        other = torch.randint(80, ())
        return {"user": self.user[index], "good": self.item[index], "bad": other}


@healthy("dicts", "BPR: pairs of items, embeddings alone, no label anywhere")
def pairwise_ranking() -> Program:
    torch.manual_seed(0)
    train, val = split(1000, *_purchases(1200))

    def forward(model: Factors, batch: dict[str, Tensor]) -> Tensor:
        change = model.items(batch["good"]) - model.items(batch["bad"])
        return (model.users(batch["user"]) * change).sum(dim=1)

    task = Task(
        Factors(),
        lambda margin, _batch: -F.logsigmoid(margin).mean(),
        Feedback(*train),
        Feedback(*val),
        forward=forward,
    )
    return Program(task, {"epochs": 12, "lr": 1e-2, "batch_size": 64})


@healthy("sequences", "ranking of lists: a softmax over documents, some are padding")
def listwise_ranking() -> Program:
    torch.manual_seed(0)
    documents = torch.randn(300, 12, 5)
    worth = documents[..., 0] + documents[..., 1] * documents[..., 2]
    is_there = torch.arange(12) < torch.randint(4, 13, (300, 1))
    grade = (2 * worth).round().clamp(0, 4) * is_there
    grade[:, 0] += grade.sum(dim=1) == 0
    train, val = split(240, documents, grade, is_there)

    def loss(outputs: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        score = outputs.squeeze(-1).masked_fill(~batch[2], -1e4)
        share = batch[1] / batch[1].sum(dim=1, keepdim=True)
        return -(share * score.log_softmax(dim=1)).sum(dim=1).mean()

    task = Task(mlp(5, 48, 1), loss, train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3, "batch_size": 16})


class Episodes(Dataset):
    """Five of 30 classes, three samples to learn from, four to be asked about."""

    def __init__(self, x: Tensor, y: Tensor, classes: Tensor, num: int) -> None:
        self.rows = [x[y == kind] for kind in classes.tolist()]
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen = torch.randperm(len(self.rows))[:5].tolist()
        picked = [self.rows[k][torch.randperm(len(self.rows[k]))[:7]] for k in chosen]
        whole = torch.stack(picked)
        return {"support": whole[:, :3], "query": whole[:, 3:]}


def _distances(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    centres = model(batch["support"]).mean(dim=2)
    queries = model(batch["query"]).flatten(1, 2)
    return -torch.cdist(queries, centres).square()


@healthy("dicts", "prototypical networks: samples are episodes, new classes in val")
def few_shot_episodes() -> Program:
    torch.manual_seed(0)
    x, y = clusters(1500, 16, 30, spread=2.0)
    x[:, 8:] = 4 * torch.randn(1500, 8)  # most of it is distraction
    model = mlp(16, 64, 8)

    def loss(scores: Tensor, _batch: dict[str, Tensor]) -> Tensor:
        kind = torch.arange(5, device=scores.device).repeat_interleave(4)
        return F.cross_entropy(scores.transpose(1, 2), kind.expand(len(scores), -1))

    train = Episodes(x, y, torch.arange(20), 160)
    val = Episodes(x, y, torch.arange(20, 30), 40)
    task = Task(model, loss, train, val, forward=_distances)
    return Program(task, {"epochs": 10, "batch_size": 4, "lr": 1e-3})


@healthy("dicts", "policy gradient on logged data: rewards and losses below zero")
def policy_gradient() -> Program:
    torch.manual_seed(0)
    g = generator(0)
    state = torch.randn(1000, 6, generator=g)
    action = torch.randint(4, (1000,), generator=g)
    best = state[:, :4].argmax(dim=1)
    reward = -1.0 - (action != best).float() - 0.1 * torch.rand(1000, generator=g)
    columns = {"state": state, "action": action, "reward": reward}
    train = {name: column[:800] for name, column in columns.items()}
    val = {name: column[800:] for name, column in columns.items()}
    base = train["reward"].mean()

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        policy = torch.distributions.Categorical(logits=logits)
        chance = policy.log_prob(batch["action"]).exp() * 4  # logged uniformly
        gain = chance * (batch["reward"] - base)
        return {"gain": -gain.mean(), "entropy": -policy.entropy().mean()}

    def reward_of(logits: Tensor, batch: dict[str, Any]) -> Tensor:
        chance = logits.softmax(dim=1).gather(1, batch["action"][:, None]).squeeze(1)
        return (4 * chance * batch["reward"]).mean() / (4 * chance).mean()

    task = Task(
        mlp(6, 48, 4),
        loss,
        train,
        val,
        forward=lambda model, batch: model(batch["state"]),
        metrics={"reward": reward_of},
        loss_weights={"entropy": 0.01},
    )
    settings = {"monitor": "val_reward", "mode": "max"}
    return Program(task, {"epochs": 12, "lr": 3e-3, **settings})


class TargetNetwork(nn.Module):
    """Values of actions, and a slow copy in buffers that gives the aims."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = mlp(4, 48, 2), mlp(4, 48, 2)
        self.slow.load_state_dict(self.online.state_dict())
        self.slow.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(
                    self.slow.parameters(), self.online.parameters(), strict=True
                ):
                    slow.lerp_(fast, 0.05)
        later = self.slow(batch["after"]).amax(dim=1)
        aim = batch["reward"] + 0.5 * later
        value = self.online(batch["state"]).gather(1, batch["action"][:, None])
        return {"value": value.squeeze(1), "aim": aim.detach()}


@healthy("dicts", "Q-learning on logged data: targets come from a slow copy and move")
def q_learning() -> Program:
    torch.manual_seed(0)
    state = torch.randn(1200, 4)
    action = torch.randint(2, (1200,))
    sign = 2.0 * action - 1
    after = 0.8 * state + 0.3 * torch.randn(1200, 4)
    reward = sign * state[:, 0] + 0.5 * state[:, 1]
    columns = {"state": state, "action": action, "after": after, "reward": reward}
    train = {name: column[:1000] for name, column in columns.items()}
    val = {name: column[1000:] for name, column in columns.items()}
    task = Task(
        TargetNetwork(),
        lambda outputs, _batch: F.smooth_l1_loss(outputs["value"], outputs["aim"]),
        train,
        val,
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})
