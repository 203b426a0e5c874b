"""Faults in graphs, generative models and a policy."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_second import dense
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


class NodeNet(nn.Module):
    """Two rounds of messages, and a head for each node."""

    def __init__(self, width: int, classes: int) -> None:
        from torch_geometric.nn import SAGEConv

        super().__init__()
        self.conv1, self.conv2 = SAGEConv(width, 32), SAGEConv(32, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, data: Any) -> Tensor:
        h = self.conv1(data.x, data.edge_index).relu()
        return self.head(self.conv2(h, data.edge_index).relu())


def node_loss(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch.y)


def node_accuracy(outputs: Tensor, batch: Any) -> float:
    return (outputs.argmax(1) == batch.y).float().mean().item()


def trees(count: int, seed: int, both_ways: bool) -> list[Any]:
    """Random trees; a node's class tells whether its children's marks exceed 0."""
    from torch_geometric.data import Data

    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        size = int(torch.randint(8, 16, (1,), generator=g))
        child = torch.arange(1, size)
        parent = (torch.rand(size - 1, generator=g) * child).long()
        x = torch.randn(size, 1, generator=g)
        total = torch.zeros(size).index_add(0, parent, x[1:, 0])
        edges = torch.stack([parent, child])
        if both_ways:
            edges = torch.cat([edges, edges.flip(0)], dim=1)
        is_leaf = torch.bincount(parent, minlength=size) == 0
        row = torch.cat([x, is_leaf[:, None].float()], dim=1)
        out.append(Data(row, edges, y=(total > 0).long() + is_leaf.long() * 2))
    for data in out:
        data.y = data.y.clamp(max=2)
    return out


@fault(
    "graphs",
    "bonds of an undirected graph are stored in one direction: messages go from parent "
    "to child, and what matters is below",
    ("direct", "undirected", "revers", "both ways", "one way", "message", "isolated"),
)
def edges_in_one_direction(is_faulty: bool) -> Program:
    # twin: train loss 1.096 to 0.1425, val {'loss': 0.1787, 'acc': 0.9134}
    # faulty: train loss 1.0995 to 0.3348, says {'loss': 0.3512, 'acc': 0.7631}
    # its model on the twin's validation: {'loss': 0.3354, 'acc': 0.7988}
    torch.manual_seed(0)
    task = Task(
        NodeNet(2, 3),
        node_loss,
        trees(150, 0, not is_faulty),
        trees(50, 1, not is_faulty),
        metrics={"acc": node_accuracy},
        count_targets=lambda batch: len(batch.y),
    )
    return Program(task, {"epochs": 20, "lr": 1e-2})


def rings_and_chains(count: int, seed: int, form: str) -> list[Any]:
    """Rings whose marked nodes stand together, or take turns with the others."""
    from torch_geometric.data import Data

    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        size = int(torch.randint(8, 14, (1,), generator=g))
        kind = int(torch.randint(2, (1,), generator=g))
        label = torch.randperm(size, generator=g)
        is_marked = (torch.arange(size) < size // 2).float()
        if not kind:
            is_marked = (torch.arange(size) % 2 == 0).float() * 1.0
            is_marked[size // 2 * 2 :] = 0
        x = torch.stack([is_marked, 1 - is_marked], dim=1)
        x = torch.empty_like(x).index_copy(0, label, x)
        ring = torch.stack([torch.arange(size), (torch.arange(size) + 1) % size], dim=1)
        pairs = label[ring][torch.randperm(size, generator=g)]
        if form == "from_one":
            pairs = pairs + 1
        edges = pairs.view(2, -1) if form == "viewed" else pairs.t().contiguous()
        edges = torch.cat([edges, edges.flip(0)], dim=1)
        out.append(Data(x, edges, y=torch.tensor([kind])))
    return out


class GraphNet(nn.Module):
    def __init__(self) -> None:
        from torch_geometric.nn import GINConv

        super().__init__()
        self.conv1 = GINConv(dense(2, 24, 24))
        self.conv2 = GINConv(dense(24, 24, 24))
        self.head = nn.Linear(24, 2)

    def forward(self, data: Any) -> Tensor:
        from torch_geometric.nn import global_add_pool

        h = self.conv1(data.x, data.edge_index).relu()
        h = self.conv2(h, data.edge_index).relu()
        return self.head(global_add_pool(h, data.batch) / 10)


def ring_task(form: str) -> Task:
    torch.manual_seed(0)
    return Task(
        GraphNet(),
        node_loss,
        rings_and_chains(200, 0, form),
        rings_and_chains(80, 1, form),
        metrics={"acc": node_accuracy},
    )


@fault(
    "graphs",
    "atoms are counted from one in the file, and from zero in the graph: the last bond "
    "points behind the last atom, or into the next graph",
    ("edge_index", "index", "out of range", "out of bounds", "too large"),
)
def edges_count_from_one(is_faulty: bool) -> Program:
    # twin: train loss 0.6895 to 0.0, val {'loss': 0.0, 'acc': 1.0}
    # faulty: IndexError: Found indices in 'edge_index' that are larger than 330 (go
    task = ring_task("from_one" if is_faulty else "right")
    return Program(task, {"epochs": 15, "lr": 1e-2})


@fault(
    "graphs",
    "a list of pairs (E, 2) is made (2, E) by view where a transpose was meant: bonds "
    "join at random",
    ("edge", "transpos", "pairs", "symmetr"),
)
def edge_pairs_viewed(is_faulty: bool) -> Program:
    # twin: train loss 0.6895 to 0.0, val {'loss': 0.0, 'acc': 1.0}
    # faulty: train loss 0.6919 to 0.6734, says {'loss': 0.7046, 'acc': 0.5}
    # its model on the twin's validation: {'loss': 0.8524, 'acc': 0.1625}
    task = ring_task("viewed" if is_faulty else "right")
    return Program(task, {"epochs": 15, "lr": 1e-2})


@fault(
    "graphs",
    "on one graph with masks, the loss is taken over all nodes: those of validation "
    "are trained as well",
    ("mask", "leak", "overlap", "same nodes", "both splits", "identical", "same graph"),
)
def train_mask_forgotten(is_faulty: bool) -> Program:
    # twin: train loss 1.3225 to 0.0417, val {'loss': 0.5788, 'acc': 0.7785}
    # faulty: train loss 1.3263 to 0.1019, says {'loss': 0.0988, 'acc': 0.9866}
    # its model on the twin's validation: {'loss': 0.1074, 'acc': 0.9866}
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    torch.manual_seed(0)
    count = 300
    y = torch.randint(3, (count,))
    source, target = torch.randint(count, (2, 1600))
    keep = (y[source] == y[target]) | (torch.rand(1600) < 0.3)
    edges = torch.stack([source, target])[:, keep]
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    x = F.one_hot(y, 3).float() + 0.7 * torch.randn(count, 3)
    x = torch.cat([x, torch.randn(count, 30)], dim=1)
    in_train = torch.rand(count) < 0.5

    def one(mask: Tensor) -> list[Any]:
        return [Data(x, edges, y=y, mask=mask)]

    class Citations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = GCNConv(33, 32), GCNConv(32, 3)
            self.own = nn.Linear(33, 3)

        def forward(self, data: Any) -> Tensor:
            h = F.relu(self.conv1(data.x, data.edge_index))
            return self.conv2(h, data.edge_index) + self.own(data.x)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        if is_faulty:
            return F.cross_entropy(outputs, batch.y)
        return F.cross_entropy(outputs[batch.mask], batch.y[batch.mask])

    def right(outputs: Tensor, batch: Any) -> float:
        hits = (outputs.argmax(1) == batch.y)[batch.mask]
        return hits.float().mean().item()

    task = Task(
        Citations(),
        loss,
        one(in_train),
        one(~in_train),
        metrics={"acc": right},
        count_targets=lambda batch: batch.mask.sum(),
    )
    return Program(task, {"epochs": 60, "lr": 1e-2, "batch_size": 1})


class Moons(Dataset):
    """Points of two half circles."""

    def __init__(self, count: int, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        turn = math.pi * torch.rand(count, generator=g)
        side = torch.randint(2, (count,), generator=g).float()
        x = torch.stack([turn.cos() + side - 0.5, turn.sin() * (1 - 2 * side)], dim=1)
        self.x = 1.4 * x + 0.03 * torch.randn(count, 2, generator=g)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


@fault(
    "arrays",
    "the diffusion loss compares with noise that is drawn a second time, not with the "
    "noise that was added",
    ("noise", "random", "unpredict", "drawn", "determin"),
)
def two_different_noises(is_faulty: bool) -> Program:
    # twin: train loss 0.9237 to 0.4133, val {'loss': 0.5069}
    # faulty: train loss 0.7343 to 1.0297, says {'loss': 0.9635}
    # its model on the twin's validation: {'loss': 1.0347}
    torch.manual_seed(0)
    kept = torch.cos(torch.linspace(0.05, 0.99, 50) * math.pi / 2)

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Embedding(50, 16)
            self.net = dense(18, 64, 64, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.net(torch.cat([x, self.time(t)], dim=1))

    def forward(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        t = torch.randint(50, (len(batch),))
        noise = torch.randn_like(batch)
        signal = kept[t][:, None]
        noisy = signal * batch + (1 - signal**2).sqrt() * noise
        if is_faulty:
            noise = torch.randn_like(batch)
        return {"guess": model(noisy, t), "noise": noise}

    def loss(outputs: dict[str, Tensor], batch: Tensor) -> Tensor:
        return F.mse_loss(outputs["guess"], outputs["noise"])

    task = Task(Denoiser(), loss, Moons(500, 0), Moons(200, 1), forward=forward)
    return Program(task, {"epochs": 30, "lr": 3e-3})


@fault(
    "arrays",
    "the nearest code replaces the encoder's output without a straight-through "
    "estimate: the encoder gets no gradient",
    ("gradient", "encoder", "straight", "not reached", "no grad", "never"),
)
def codes_without_straight_through(is_faulty: bool) -> Program:
    # twin: train loss 1.0909 to 0.4066, val {'loss': 0.3992}
    # faulty: train loss 1.0909 to 0.7755, says {'loss': 0.9259}
    # its model on the twin's validation: {'loss': 0.9259}
    torch.manual_seed(0)
    shapes = torch.randn(12, 24)
    kind = torch.randint(12, (500,))
    x = torch.cat([shapes[kind], 2.5 * torch.randn(500, 40)], dim=1)

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = dense(64, 48, 32), dense(32, 48, 24)
            self.codes = nn.Embedding(8, 8)
            nn.init.normal_(self.codes.weight, std=0.3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.encoder(x).tanh().view(-1, 4, 8)
            with torch.no_grad():
                near = torch.cdist(z, self.codes.weight.expand(len(z), -1, -1))
            code = self.codes(near.argmin(-1))
            taken = code if is_faulty else z + (code - z).detach()
            return {"x": self.decoder(taken.flatten(1)), "z": z, "code": code}

    def loss(outputs: dict[str, Tensor], batch: Tensor) -> dict[str, Tensor]:
        move = F.mse_loss(outputs["code"], outputs["z"].detach())
        clean = batch[:, :24]
        return {"recon": F.mse_loss(outputs["x"], clean), "codes": move}

    train, val = list(x[:380]), list(x[380:])
    task = Task(Quantised(), loss, train, val, forward=lambda m, b: m(b))
    return Program(task, {"epochs": 30, "lr": 5e-3})


@fault(
    "dicts",
    "the policy's loss draws a new action, and rewards it as the logged one",
    ("action", "random", "sampl", "determin", "drawn", "learn", "differs"),
)
def reward_of_another_action(is_faulty: bool) -> Program:
    # twin: train loss -0.0384 to -0.6732, val {'loss': -0.7694, 'best': 0.91}
    # faulty: train loss -0.0157 to -0.057, says {'loss': -0.1405, 'best': 0.28}
    # its model on the twin's validation: {'loss': -0.073, 'best': 0.28}
    torch.manual_seed(0)
    state = torch.randn(800, 6)
    best = (state @ torch.randn(6, 4)).argmax(1)
    action = torch.randint(4, (800,))
    reward = (action == best).float() - 0.25 + 0.1 * torch.randn(800)

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        policy = torch.distributions.Categorical(logits=outputs)
        taken = policy.sample() if is_faulty else batch["action"]
        # Actions were logged by a uniform policy: importance weights of 4 p.
        weight = 4 * policy.log_prob(taken).exp()
        return -(weight * batch["reward"]).mean()

    def right(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(1) == batch["best"]).float().mean().item()

    columns = {"state": state, "action": action, "reward": reward, "best": best}
    task = Task(
        dense(6, 48, 4),
        loss,
        {name: column[:600] for name, column in columns.items()},
        {name: column[600:] for name, column in columns.items()},
        forward=lambda model, batch: model(batch["state"]),
        metrics={"best": right},
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})
