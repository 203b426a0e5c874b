"""Faults recorded in an image classifier, as small programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, figures, mlp, small_cnn
from nbutils.data.task import Task


class Photos(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of a folder; one that cannot be read is replaced by a black one."""

    def __init__(self, count: int, seed: int, share_unreadable: float) -> None:
        self.images, self.labels = figures(count, seed=seed)
        draw = torch.Generator().manual_seed(seed + 10)
        self.unreadable = torch.rand(count, generator=draw) < share_unreadable

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        if self.unreadable[index]:
            raise OSError(f"cannot identify image file {index}")
        return self.images[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            image = self.read(index)
        except OSError:
            image = torch.zeros(3, 16, 16)
        return image, self.labels[index]


@fault(
    "images",
    "unreadable files become black images with their true label",
    ("constant", "black", "identical", "duplicate"),
    seeds=("V: poison fallback, 92 of 100 samples dummies",),
)
def dummy_images(is_faulty: bool) -> Program:
    # val acc 0.16 against 0.99
    torch.manual_seed(0)
    share = 0.92 if is_faulty else 0.0
    train, val = Photos(800, 0, share), Photos(200, 1, share)
    task = Task(
        small_cnn(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 5})


@fault(
    "images",
    "a third of the images could not be read and are black, in all classes",
    ("constant", "black", "identical", "duplicate"),
    seeds=("V: poison fallback",),
)
def some_dummy_images(is_faulty: bool) -> Program:
    # val acc 0.68 against 0.99
    torch.manual_seed(0)
    share = 0.35 if is_faulty else 0.0
    train, val = Photos(800, 0, share), Photos(200, 1, share)
    task = Task(
        small_cnn(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 5})


@fault(
    "images",
    "images are resized to a size written in the code, which is not the model's",
    ("height", "size", "shape"),
    seeds=("V: 448 against 224",),
)
def literal_image_size(is_faulty: bool) -> Program:
    # AssertionError against val acc 0.74
    import timm

    torch.manual_seed(0)
    size = 48 if is_faulty else 32
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=4,
        embed_dim=48,
        depth=3,
        num_heads=3,
        num_classes=6,
    )
    train, val = figures(600, size=size), figures(150, size=size, seed=1)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "schedule": "cosine", "warmup_steps": 20})


def freeze_backbone(model: nn.Module, head: str) -> None:
    """Train only what has ``head`` in its name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(head in name)


@fault(
    "images",
    "the backbone is frozen by the name 'head', and the head is called 'fc'",
    ("frozen", "requires_grad", "trainable"),
    seeds=("V: _freeze_backbone matched 'head' by name",),
)
def frozen_by_wrong_name(is_faulty: bool) -> Program:
    # ConfigError against val acc 0.75
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6)
    freeze_backbone(model, "head" if is_faulty else "fc")
    train, val = figures(800, size=32), figures(150, size=32, seed=1)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 5, "lr": 1e-2})


@fault(
    "images",
    "30 names of classes are reported although only some occur in a batch",
    ("metric", "recall", "zip"),
    seeds=("V: classification_report with 30 names, 10 classes present",),
)
def report_of_absent_classes(is_faulty: bool) -> Program:
    # ValueError against val recall 0.96
    torch.manual_seed(0)
    names = ("disc", "ring", "square", "cross", "bar", "diagonal")

    def macro_recall(outputs: Tensor, batch: Any) -> float:
        guess, label = outputs.argmax(1), batch[1]
        if is_faulty:
            recall = {
                name: (guess[label == c] == c).float().mean()
                for name, c in zip(names, label.unique(), strict=True)
            }
        else:
            recall = {
                names[c]: (guess[label == c] == c).float().mean()
                for c in label.unique().tolist()
            }
        return float(torch.stack(list(recall.values())).mean())

    train, val = figures(600), figures(148, seed=1)
    keep = val[1] < 4
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        train,
        (val[0][keep], val[1][keep]),
        metrics={"recall": macro_recall},
    )
    return Program(task, {"epochs": 4})


@fault(
    "images",
    "training images are in 0..1 and those of the validation still in 0..255",
    ("range", "scale", "normali", "distribution"),
    seeds=("V: transform of one split lost",),
)
def validation_in_bytes(is_faulty: bool) -> Program:
    # val acc 0.70 against 0.95
    torch.manual_seed(0)
    train, val = figures(600), figures(150, seed=1)
    images = (val[0] * 255).round() if is_faulty else val[0]
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        train,
        (images, val[1]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6})


class Folder(Dataset[tuple[Tensor, int]]):
    """Pictures whose classes are numbered by their names' order in this folder."""

    def __init__(self, count: int, seed: int, names: tuple[str, ...]) -> None:
        self.images, self.labels = figures(count, seed=seed)
        self.classes = sorted(names)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.number_of = [self.class_to_idx[name] for name in names]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.number_of[int(self.labels[index])]


@fault(
    "images",
    "a folder of the validation is spelt otherwise, which renumbers the classes",
    ("class_to_idx", "order", "mapping", "classes"),
    seeds=("V: 'egg_shells' against 'eggshells'",),
)
def class_order_differs(is_faulty: bool) -> Program:
    # val acc 0.16 against 0.99
    torch.manual_seed(0)
    names = ("disc", "ring", "square", "cross", "bar", "diagonal")
    spelt = ("disc", "_ring", "square", "cross", "bar", "diagonal")
    train = Folder(600, 0, names)
    val = Folder(150, 1, spelt if is_faulty else names)
    task = Task(
        small_cnn(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 6})


class Classifier(nn.Module):
    """Takes whatever arguments a configuration has, and ignores those it knows not."""

    def __init__(self, features: int = 8, num_classes: int = 2, **kwargs: Any) -> None:
        super().__init__()
        self.net = mlp(features, num_classes)

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows)


@fault(
    "tabular",
    "num_labels vanishes in **kwargs, so that the head has the default of 2 classes",
    ("class", "out of range", "out of bounds"),
    seeds=("A: misnamed parameters, constructors take **kwargs",),
)
def swallowed_argument(is_faulty: bool) -> Program:
    # IndexError against val acc 1.00
    torch.manual_seed(0)
    options = {"num_labels" if is_faulty else "num_classes": 5, "features": 8}
    task = Task(
        Classifier(**options),
        nn.CrossEntropyLoss(),
        blobs(600),
        blobs(200, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 5})
