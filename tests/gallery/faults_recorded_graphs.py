"""Faults recorded in batches of graphs and of fields with many axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import mlp
from nbutils.data.task import Task


def molecules(count: int, seed: int) -> list[Any]:
    """Random graphs with two kinds of nodes; which kind has more edges to itself."""
    from torch_geometric.data import Data

    draw = torch.Generator().manual_seed(seed)
    graphs = []
    for index in range(count):
        nodes = int(torch.randint(6, 14, (), generator=draw))
        kind = torch.rand(nodes, generator=draw) < 0.5
        is_alike = kind[:, None] == kind[None]
        likely = 0.6 if index % 2 else 0.1
        chance = torch.where(is_alike, likely, 0.7 - likely)
        chosen = torch.rand(nodes, nodes, generator=draw) < chance
        edges = (chosen | chosen.T).fill_diagonal_(False).nonzero().T.contiguous()
        features = torch.stack([kind, ~kind], 1).float()
        graphs.append(Data(x=features, edge_index=edges, y=torch.tensor([index % 2])))
    return graphs


class Pairs(nn.Module):
    """Messages of neighbours, and the mean over each graph."""

    def __init__(self, knows_graphs: bool) -> None:
        super().__init__()
        self.message = mlp(4, 24, 24)
        self.head = mlp(24, 2, 24)
        self.knows_graphs = knows_graphs

    def forward(self, batch: Any) -> Tensor:
        source, target = batch.edge_index
        edge = self.message(torch.cat([batch.x[source], batch.x[target]], 1))
        if not self.knows_graphs:
            return self.head(edge.mean(0, keepdim=True))
        owner, count = batch.batch[target], int(batch.num_graphs)
        total = edge.new_zeros(count, 24).index_add(0, owner, edge)
        number = owner.bincount(minlength=count).clamp_min(1).unsqueeze(1)
        return self.head(total / number)


def graph_loss(outputs: Tensor, batch: Any) -> Tensor:
    """Cross-entropy with the label of each graph."""
    return nn.functional.cross_entropy(outputs, batch.y)


def graph_accuracy(outputs: Tensor, batch: Any) -> float:
    """Share of right graphs."""
    return float((outputs.argmax(1) == batch.y).float().mean())


@fault(
    "graphs",
    "the mean is over all nodes of a batch, which suits a batch of one graph only",
    ("batch of", "shape", "input batch_size", "more than one"),
    seeds=("A: two graphs per batch raise a RuntimeError",),
)
def mean_over_all_graphs(is_faulty: bool) -> Program:
    # ValueError against val acc 0.99
    torch.manual_seed(0)
    task = Task(
        Pairs(knows_graphs=not is_faulty),
        graph_loss,
        molecules(300, 0),
        molecules(96, 1),
        metrics={"acc": graph_accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


class Joined:
    """Graphs of a batch in one."""

    def __init__(self, graphs: Sequence[Any], shifts_edges: bool) -> None:
        sizes = torch.tensor([graph.num_nodes for graph in graphs])
        starts = sizes.cumsum(0) - sizes
        shifts = starts if shifts_edges else torch.zeros_like(starts)
        pairs = zip(graphs, shifts, strict=True)
        self.x = torch.cat([graph.x for graph in graphs])
        self.edge_index = torch.cat([g.edge_index + s for g, s in pairs], 1)
        edges = torch.tensor([graph.num_edges for graph in graphs])
        self.owner = torch.arange(len(graphs)).repeat_interleave(edges)
        self.y = torch.cat([graph.y for graph in graphs])


@fault(
    "graphs",
    "collate joins graphs, and all their edges point to nodes of the first one",
    ("edge", "offset", "collate", "other sample"),
    seeds=("A: graphs per batch",),
)
def edges_not_shifted(is_faulty: bool) -> Program:
    # val acc 0.46 against 0.99
    torch.manual_seed(0)

    def collate(graphs: Sequence[Any]) -> dict[str, Tensor]:
        return vars(Joined(graphs, shifts_edges=not is_faulty))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.message = mlp(4, 24, 24)
            self.head = mlp(24, 2, 24)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            source, target = batch["edge_index"]
            nodes, owner = batch["x"], batch["owner"]
            edge = self.message(torch.cat([nodes[source], nodes[target]], 1))
            total = edge.new_zeros(len(batch["y"]), 24).index_add(0, owner, edge)
            number = owner.bincount(minlength=len(total)).clamp_min(1)
            return self.head(total / number.unsqueeze(1))

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch["y"])

    def right(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return float((outputs.argmax(1) == batch["y"]).float().mean())

    task = Task(
        Network(),
        loss,
        molecules(300, 0),
        molecules(96, 1),
        collate=collate,
        count_targets=lambda batch: len(batch["y"]),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "arrays",
    "the first convolution was sized for four cells of time, and the data have twelve",
    ("channel", "shape", "size"),
    seeds=("A: 8 channels against 24",),
)
def convolution_of_other_channels(is_faulty: bool) -> Program:
    # RuntimeError against val loss 5.4e-05
    torch.manual_seed(0)
    times = 12 if is_faulty else 4

    class Cube(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(2 * 4, 16, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(16, 1),
            )

        def forward(self, fields: Tensor) -> Tensor:
            return self.net(fields.flatten(1, 2))

    def fields(count: int, seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        warmth = torch.rand(count, 1, 1, 1, 1, generator=draw)
        latitude = torch.linspace(-1, 1, 11).mul(math.pi / 2).cos().view(1, 1, 1, -1, 1)
        noise = 0.1 * torch.randn(count, 2, times, 11, 7, generator=draw)
        return warmth * latitude + noise, warmth.flatten(1)

    task = Task(Cube(), nn.MSELoss(), fields(600, 0), fields(150, 1))
    return Program(task, {"epochs": 10, "lr": 5e-3})
