"""Two models no laptop can hold, planned in this process: time and memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from nbutils.data.task import Task
from nbutils.preflight import preflight


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        rows, size, width = x.shape
        q, k, v = (
            part.view(rows, size, self.heads, -1).transpose(1, 2)
            for part in self.mix(self.before(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, size, width))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Transformer(nn.Module):
    def __init__(self, tokens: int = 50304, width: int = 5120, depth: int = 40) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(2048, width)
        self.blocks = nn.ModuleList(Block(width, 40) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)

    def encode(self, ids):
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, ids):
        return self.head(self.encode(ids)).transpose(1, 2)


class Text(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int):
        ids = torch.randint(50304, (2049,))
        return ids[:-1], ids[1:]


def transformer() -> tuple[Task, dict[str, Any]]:
    """A language model of 13 B parameters."""
    with torch.device("meta"):
        model = Transformer()
    contract = {"0": "int64 (B, 2048)", "1": "int64 (B, 2048)"}
    task = Task(model, nn.CrossEntropyLoss(), Text(), contract=contract)
    return task, {"stated": 13.1, "batch_size": 8}


class Cube(nn.Module):
    """A 3-D network over a climate cube, 2.7 B parameters."""

    def __init__(self, channels: int = 2048, depth: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, channels, 3, padding=1),
                nn.GroupNorm(32, channels),
                nn.GELU(),
            )
            for _ in range(depth)
        )

    def forward(self, x):
        x = F.avg_pool3d(self.stem(x), 4)
        for layer in self.layers:
            x = x + layer(x)
        return x.flatten(2).transpose(1, 2)


class Graph(nn.Module):
    """A graph attention network, 1.2 B parameters."""

    def __init__(self, width: int = 4096, depth: int = 36) -> None:
        super().__init__()
        from torch_geometric.nn import GATv2Conv

        self.first = nn.Linear(64, width)
        heads = {"heads": 16, "concat": True}
        self.layers = nn.ModuleList(
            GATv2Conv(width, width // 16, **heads) for _ in range(depth)
        )

    def forward(self, graph):
        x = self.first(graph.x)
        for layer in self.layers:
            x = x + layer(x, graph.edge_index).relu()
        return x


class Multimodal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.cube, self.graph = Transformer(), Cube(), Graph()
        self.text.head = nn.Identity()  # the fused classifier is the head
        width = 1024
        self.parts = nn.ModuleList(nn.Linear(n, width) for n in (5120, 2048, 4096))
        self.cross = nn.MultiheadAttention(width, 8, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, batch):
        from torch_geometric.utils import to_dense_batch

        text = self.parts[0](self.text.encode(batch["text"]))
        cube = self.parts[1](self.cube(batch["cube"]))
        nodes, _ = to_dense_batch(
            self.graph(batch["graph"]), batch["graph"].batch, max_num_nodes=50
        )
        others = torch.cat([cube, self.parts[2](nodes)], 1)
        fused, _ = self.cross(text, others, others, need_weights=False)
        return self.head(fused.mean(1))


class Planets(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        from torch_geometric.data import Data

        edges = torch.randint(50, (2, 100))
        return {
            "cube": torch.randn(2, 12, 32, 64),
            "graph": Data(x=torch.randn(50, 64), edge_index=edges),
            "text": torch.randint(50304, (512,)),
            "label": index % 2,
        }


def multimodal() -> tuple[Task, dict[str, Any]]:
    """Text, a climate cube and a graph, fused by cross-attention: 16.8 B parameters."""
    with torch.device("meta"):
        model = Multimodal()
    task = Task(model, lambda out, b: F.cross_entropy(out, b["label"]), Planets())
    return task, {"stated": 16.8, "batch_size": 2}


def main() -> None:
    """Plan the model that the command line names."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    task, settings = {"transformer": transformer, "multimodal": multimodal}[
        sys.argv[1]
    ]()
    stated = settings.pop("stated")
    report = preflight(task, on_failure="return", **settings)
    finding = next(f for f in report.findings if f.id == "S8")
    details = dict(finding.details)
    plan = json.loads(details.get("plan as JSON", "null"))
    told = {
        "stated": stated,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "seconds": time.perf_counter() - start,
        "rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "severity": finding.severity,
        "title": finding.title,
        "actual": finding.actual,
        "fix": finding.fix,
        "total_gib": plan and plan["device"]["total"] / 2**30,
        "remark": details.get("remark on CUDA", ""),
        "assumed": details.get("taken as large as they can be", ""),
        "skipped": sorted(f.id for f in report.findings if f.severity == "skip"),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
