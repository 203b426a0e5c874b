"""Healthy: streams, and batches in unusual containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from gallery.case import Program, healthy
from gallery.data_unusual import (
    accuracy,
    clusters,
    curve,
    generator,
    gratings,
    mlp,
    small_cnn,
)
from nbutils.data.task import Task


class Stream(IterableDataset):
    """Samples drawn from torch's generator, new ones in each epoch."""

    def __init__(self, num: int) -> None:
        self.num = num

    def _draws(self) -> Iterator[Tensor]:
        for _ in range(self.num):
            yield torch.randn(6)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x in self._draws():
            yield x, (x[0] * x[1] + x[2] > 0).long()


class SizedStream(Stream):
    """One that knows how long it is."""

    def __len__(self) -> int:
        return self.num


class FixedStream(Stream):
    """The same samples each time."""

    def _draws(self) -> Iterator[Tensor]:
        yield from torch.randn(self.num, 6, generator=generator(1))


@healthy("tabular", "a stream without a length, cut by steps; validation is one too")
def stream_without_length() -> Program:
    torch.manual_seed(0)
    model, loss = mlp(6, 64, 2), nn.CrossEntropyLoss()
    metrics = {"acc": accuracy}
    task = Task(model, loss, Stream(640), FixedStream(200), metrics=metrics)
    return Program(task, {"epochs": 8, "lr": 3e-3, "max_steps": 160})


@healthy("tabular", "a stream with a length, new samples in each epoch, a cosine on it")
def stream_with_length() -> Program:
    torch.manual_seed(0)
    model, loss = mlp(6, 64, 2), nn.CrossEntropyLoss()
    task = Task(model, loss, SizedStream(640), FixedStream(200))
    return Program(task, {"epochs": 8, "lr": 3e-3, "schedule": "cosine"})


class Buckets(IterableDataset):
    """Makes whole batches itself, of lengths that are alike."""

    def __init__(self, num: int, seed: int) -> None:
        self.num, self.seed = num, seed

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        g = generator(self.seed)
        for _ in range(self.num):
            rows, length = torch.randint(4, 12, (2,), generator=g).tolist()
            x = torch.randn(rows, length, 2, generator=g)
            yield {"x": x, "y": x.prod(dim=-1).mean(dim=1, keepdim=True)}


@healthy("sequences", "the stream makes batches itself: each of its own size")
def batches_of_any_size() -> Program:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = mlp(2, 48, 48, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.step(batch["x"]).mean(dim=1)

    torch.manual_seed(0)
    task = Task(
        Mean(),
        lambda outputs, batch: F.mse_loss(outputs, batch["y"]),
        DataLoader(Buckets(60, 0), batch_size=None),
        DataLoader(Buckets(20, 1), batch_size=None),
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


class Sample(NamedTuple):
    """A named tuple in which the image does not come first."""

    key: str
    label: int
    image: Tensor


@healthy("images", "samples are named tuples with a text first and the image last")
def named_tuples() -> Program:
    torch.manual_seed(0)
    images, labels = gratings(400)
    samples = [
        Sample(f"scan-{row:04d}", int(labels[row]), images[row]) for row in range(400)
    ]
    task = Task(
        small_cnn(),
        lambda outputs, batch: F.cross_entropy(outputs, batch.label),
        samples[:320],
        samples[320:],
        forward=lambda model, batch: model(batch.image),
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@dataclasses.dataclass
class Visit:
    """A batch as a dataclass."""

    history: Tensor
    outcome: Tensor
    patient: list[str]


@healthy("tabular", "the batch is a dataclass; validation holds other patients")
def patients_apart() -> Program:
    torch.manual_seed(0)
    x, y = clusters(500, 10, 2, spread=2.0)
    patient = [f"p{row // 5:03d}" for row in range(500)]
    rows = [(x[row], int(y[row]), patient[row]) for row in range(500)]

    def collate(samples: list[tuple[Tensor, int, str]]) -> Visit:
        history, outcome, who = zip(*samples, strict=True)
        return Visit(torch.stack(history), torch.tensor(outcome), list(who))

    task = Task(
        mlp(10, 32, 2),
        lambda outputs, batch: F.cross_entropy(outputs, batch.outcome),
        Subset(rows, [row for row in range(500) if row // 5 % 5]),
        Subset(rows, [row for row in range(500) if not row // 5 % 5]),
        forward=lambda model, batch: model(batch.history),
        collate=collate,
    )
    return Program(task, {"epochs": 8})


class Mixed(Dataset):
    """Bytes, half floats, int32, booleans and texts in nested dicts."""

    def __init__(self, start: int, end: int) -> None:
        self.range = range(start, end)

    def __len__(self) -> int:
        return len(self.range)

    def __getitem__(self, index: int) -> dict[str, Any]:
        g = generator(self.range[index])
        pixels = torch.randint(0, 256, (1, 8, 8), generator=g, dtype=torch.uint8)
        label = torch.randint(2, (), generator=g)
        pixels[:, :4] = pixels[:, :4] // (1 + label)
        meta = {
            "age": np.int32(20 + self.range[index] % 60),
            "ok": True,
            "name": f"image {self.range[index]}.png",
            "weight": torch.tensor(1.5, dtype=torch.float16),
        }
        return {"image": {"pixels": pixels}, "meta": meta, "label": int(label)}


@healthy("dicts", "nested dicts of bytes, half floats, int32, booleans and texts")
def nested_and_mixed_types() -> Program:
    torch.manual_seed(0)

    def forward(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        pixels = batch["image"]["pixels"].float().flatten(1) / 255 - 0.5
        age = batch["meta"]["age"].float()[:, None] / 80
        return model(torch.cat([pixels, age], dim=1))

    task = Task(
        mlp(65, 32, 2),
        lambda outputs, batch: F.cross_entropy(outputs, batch["label"]),
        Mixed(0, 400),
        Mixed(400, 500),
        forward=forward,
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})


@healthy("tabular", "the data is a DataLoader with a dict collate and no workers")
def loader_with_collate() -> Program:
    torch.manual_seed(0)
    x, y = curve(500)
    rows = [(x[row].numpy(), float(y[row])) for row in range(500)]

    def collate(samples: list[tuple[np.ndarray, float]]) -> dict[str, Tensor]:
        inputs = torch.from_numpy(np.stack([sample[0] for sample in samples]))
        return {"x": inputs, "y": torch.tensor([[sample[1]] for sample in samples])}

    task = Task(
        mlp(6, 48, 1),
        lambda outputs, batch: F.mse_loss(outputs, batch["y"]),
        DataLoader(rows[:400], 20, shuffle=True, num_workers=0, collate_fn=collate),
        DataLoader(rows[400:], 50, collate_fn=collate),
        forward=lambda model, batch: model(batch["x"]),
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Arrays(Dataset):
    """Views of a read-only array, transposed; labels are NumPy scalars."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.images.flags.writeable = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64]:
        return self.images[index].transpose(2, 0, 1), self.labels[index]


@healthy("arrays", "read-only NumPy images with channels last, transposed as views")
def read_only_arrays() -> Program:
    torch.manual_seed(0)
    images, labels = gratings(400, channels=3)
    x, y = images.movedim(1, -1).contiguous().numpy(), labels.numpy()
    data = Arrays(x[:320], y[:320]), Arrays(x[320:], y[320:])
    task = Task(small_cnn(3), nn.CrossEntropyLoss(), *data)
    return Program(task, {"epochs": 8, "lr": 3e-3})
