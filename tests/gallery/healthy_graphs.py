"""Healthy: graphs of PyTorch Geometric, one by one or as one large graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import generator, mlp
from nbutils.data.task import Task


def _graphs(num: int, width: int = 4) -> list[Any]:
    """Rings and stars with noise features; each has its own number of nodes."""
    from torch_geometric.data import Data
    from torch_geometric.utils import to_undirected

    g = generator(0)
    graphs = []
    for row in range(num):
        nodes = int(torch.randint(5, 15, (), generator=g))
        kind = row % 3
        node = torch.arange(nodes)
        if kind == 0:
            edges = torch.stack([node, (node + 1) % nodes])
        elif kind == 1:
            edges = torch.stack([torch.zeros(nodes - 1, dtype=torch.long), node[1:]])
        else:
            edges = torch.stack([node.repeat(2), torch.cat([node + 1, node + 2])])
            edges = edges % nodes
        x = torch.randn(nodes, width, generator=g)
        x[:, 0] = 1
        graph = Data(x=x, edge_index=to_undirected(edges), y=torch.tensor(kind))
        graph.y = graph.y.view(1)
        graphs.append(graph)
    return graphs


def _community(seed: int = 0, num: int = 150, links: float = 0.1) -> dict[str, Tensor]:
    """One graph of three groups; features say little, neighbours much."""
    g = generator(seed)
    y = torch.randint(3, (num,), generator=g)
    x = 0.6 * F.one_hot(y, 3).float() + torch.randn(num, 3, generator=g)
    same = y[:, None] == y[None, :]
    chance = torch.where(same, links, 0.01)
    drawn = torch.rand(num, num, generator=g).triu(1)
    source, target = ((drawn < chance) & (drawn > 0)).nonzero().T
    edges = torch.stack([torch.cat([source, target]), torch.cat([target, source])])
    return {"x": x, "y": y, "edge_index": edges}


class GraphClassifier(nn.Module):
    """Two convolutions of any kind, pooling, a head."""

    def __init__(self, make: Any, classes: int = 3) -> None:
        super().__init__()
        self.first = make(4, 32)
        self.second = make(32, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, graphs: Any) -> Tensor:
        from torch_geometric.nn import global_add_pool

        hidden = self.first(graphs.x, graphs.edge_index).relu()
        hidden = self.second(hidden, graphs.edge_index).relu()
        size = int(graphs.num_graphs)
        return self.head(global_add_pool(hidden, graphs.batch, size) / 10)


def _graph_loss(logits: Tensor, graphs: Any) -> Tensor:
    return F.cross_entropy(logits, graphs.y)


def _graph_accuracy(logits: Tensor, graphs: Any) -> Tensor:
    return (logits.argmax(dim=1) == graphs.y).float().mean()


@healthy("graphs", "GIN on graphs of different sizes, with batch norm inside")
def gin_graph_classes() -> Program:
    from torch_geometric.nn import GINConv

    torch.manual_seed(0)
    graphs = _graphs(300)

    def make(before: int, after: int) -> nn.Module:
        layers = [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        return GINConv(nn.Sequential(*layers, nn.Linear(after, after)), train_eps=True)

    task = Task(
        GraphClassifier(make),
        _graph_loss,
        graphs[:240],
        graphs[240:],
        metrics={"acc": _graph_accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})


@healthy("graphs", "EdgeConv: messages from pairs of nodes, the largest one wins")
def edge_conv_graph_classes() -> Program:
    from torch_geometric.nn import EdgeConv

    torch.manual_seed(0)
    graphs = _graphs(300)
    model = GraphClassifier(lambda a, b: EdgeConv(mlp(2 * a, b, b), aggr="add"))
    task = Task(model, _graph_loss, graphs[:240], graphs[240:])
    return Program(task, {"epochs": 10, "lr": 3e-3})


@healthy("graphs", "a regression per graph with SAGE, graphs of a DataLoader of PyG")
def sage_graph_regression() -> Program:
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import SAGEConv

    torch.manual_seed(0)
    graphs = _graphs(300)
    for graph in graphs:
        ends = graph.edge_index[1]
        met = graph.x[graph.edge_index[0], 1] * graph.x[ends, 1]
        graph.y = met.mean().view(1)
    task = Task(
        GraphClassifier(lambda a, b: SAGEConv(a, b, aggr="add"), classes=1),
        lambda outputs, batch: F.mse_loss(outputs.squeeze(1), batch.y),
        DataLoader(graphs[:240], batch_size=16, shuffle=True),
        DataLoader(graphs[240:], batch_size=60),
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})


class NodeClassifier(nn.Module):
    """Two convolutions on all nodes of the graph."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.first = make(3, 16)
        self.second = make(16, 3)

    def forward(self, graph: Any) -> Tensor:
        hidden = self.first(graph.x, graph.edge_index).relu()
        hidden = F.dropout(hidden, 0.3, self.training)
        return self.second(hidden, graph.edge_index)


def _masked_loss(logits: Tensor, graph: Any) -> Tensor:
    return F.cross_entropy(logits[graph.mask], graph.y[graph.mask])


@healthy("graphs", "one graph: training and validation differ in a mask of nodes alone")
def gcn_transductive() -> Program:
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    torch.manual_seed(0)
    fields = _community()
    is_train = torch.rand(150) < 0.4
    task = Task(
        NodeClassifier(GCNConv),
        _masked_loss,
        [Data(**fields, mask=is_train)],
        [Data(**fields, mask=~is_train)],
        count_targets=lambda graph: graph.mask.sum(),
    )
    return Program(task, {"epochs": 60, "lr": 1e-2, "batch_size": 1})


@healthy("graphs", "GAT on many small graphs with a label for each node")
def gat_node_classes() -> Program:
    from torch_geometric.data import Data
    from torch_geometric.nn import GATConv

    torch.manual_seed(0)
    graphs = [Data(**_community(seed, 40 + seed, 0.25)) for seed in range(40)]
    for graph in graphs:
        graph.mask = torch.rand(graph.num_nodes) < 0.8

    def make(before: int, after: int) -> nn.Module:
        return GATConv(before, after, heads=4, concat=False)

    task = Task(
        NodeClassifier(make),
        _masked_loss,
        graphs[:32],
        graphs[32:],
        count_targets=lambda batch: batch.mask.sum(),
    )
    return Program(task, {"epochs": 25, "lr": 1e-2, "batch_size": 4})


class Bipartite(nn.Module):
    """Users and items of a heterogeneous graph; users get a label."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import HeteroConv, SAGEConv

        likes, liked = ("user", "likes", "item"), ("item", "liked_by", "user")
        self.first = HeteroConv(
            {likes: SAGEConv((4, 6), 32), liked: SAGEConv((6, 4), 32)}
        )
        self.second = SAGEConv((32, 32), 32)
        self.head = nn.Linear(32, 2)

    def forward(self, graph: Any) -> Tensor:
        hidden = self.first(graph.x_dict, graph.edge_index_dict)
        hidden = {kind: value.relu() for kind, value in hidden.items()}
        edges = graph["item", "liked_by", "user"].edge_index
        return self.head(self.second((hidden["item"], hidden["user"]), edges).relu())


@healthy("graphs", "a heterogeneous graph, and isolated nodes in it")
def heterogeneous_graph() -> Program:
    from torch_geometric.data import HeteroData

    torch.manual_seed(0)

    def make(seed: int) -> HeteroData:
        g = generator(seed)
        graph = HeteroData()
        kind = torch.randint(2, (12,), generator=g)
        item = torch.randn(12, 6, generator=g)
        item[:, 0] += 2.0 * kind
        user = torch.randint(20, (40,), generator=g)
        ware = torch.randint(12, (40,), generator=g)
        votes = torch.zeros(20).index_add(0, user, 2.0 * kind[ware] - 1)
        graph["user"].x = torch.randn(20, 4, generator=g)
        graph["user"].y = (votes > 0).long()
        graph["item"].x = item
        graph["user", "likes", "item"].edge_index = torch.stack([user, ware])
        graph["item", "liked_by", "user"].edge_index = torch.stack([ware, user])
        return graph

    graphs = [make(seed) for seed in range(80)]
    task = Task(
        Bipartite(),
        lambda logits, graph: F.cross_entropy(logits, graph["user"].y),
        graphs[:64],
        graphs[64:],
    )
    return Program(task, {"epochs": 9, "batch_size": 8, "lr": 3e-3})


class LinkPredictor(nn.Module):
    """Scores known links and as many drawn ones."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.first, self.second = GCNConv(3, 32), GCNConv(32, 16)

    def forward(self, graph: Any) -> tuple[Tensor, Tensor]:
        hidden = self.first(graph.x, graph.edge_index).relu()
        hidden = self.second(hidden, graph.edge_index)
        drawn = torch.randint(
            len(hidden), graph.asked_edge_index.shape, device=hidden.device
        )
        pairs = torch.cat([graph.asked_edge_index, drawn], dim=1)
        score = (hidden[pairs[0]] * hidden[pairs[1]]).sum(dim=1)
        truth = torch.arange(len(score), device=score.device) < len(score) // 2
        return score, truth.float()


@healthy("graphs", "link prediction: no labels, wrong links are drawn in the model")
def link_prediction() -> Program:
    from torch_geometric.data import Data

    torch.manual_seed(0)
    fields = _community(num=200, links=0.2)
    edges = fields["edge_index"][:, fields["edge_index"][0] < fields["edge_index"][1]]
    edges = edges[:, torch.randperm(edges.shape[1])]
    known, asked, held = edges.split([edges.shape[1] - 200, 100, 100], dim=1)
    seen = torch.cat([known, known.flip(0)], dim=1)
    x = 1.5 * fields["x"]

    def graph(links: Tensor) -> Data:
        return Data(x=x, edge_index=seen, asked_edge_index=links)

    task = Task(
        LinkPredictor(),
        lambda outputs, _graph: F.binary_cross_entropy_with_logits(*outputs),
        [graph(asked)],
        [graph(held)],
    )
    return Program(task, {"epochs": 60, "batch_size": 1, "lr": 1e-2})


@healthy("graphs", "a point cloud per sample: order-free sums over dense neighbours")
def point_clouds() -> Program:
    class DeepSet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point, self.whole = mlp(3, 64, 64), mlp(64, 32, 3)

        def forward(self, points: Tensor) -> Tensor:
            return self.whole(self.point(points).amax(dim=1))

    torch.manual_seed(0)
    y = torch.randint(3, (400,))
    points = F.normalize(torch.randn(400, 32, 3), dim=-1)
    flat = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.2], [1.0, 0.2, 0.2]])
    points = points * flat[y][:, None]
    data = ((points[:320], y[:320]), (points[320:], y[320:]))
    return Program(Task(DeepSet(), nn.CrossEntropyLoss(), *data), {"epochs": 10})
