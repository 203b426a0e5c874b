"""Healthy tasks of strangers: each builder gives a task; its settings lie beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import strangers_models as m
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

import nbutils as nb

mlp, xy = m.mlp, m.xy

HEALTHY: dict[str, tuple[Callable[[], nb.Task], dict[str, Any]]] = {}


def healthy(**settings: Any):
    """Keep a builder with the settings of its run."""

    def keep(build):
        HEALTHY[build.__name__] = (build, {"batch_size": 8, **settings})
        return build

    return keep


def classify(data=None, val=None, model=None, **options) -> nb.Task:
    """The usual classifier with one thing changed."""
    loss = options.pop("loss", None) or nn.CrossEntropyLoss()
    data = xy() if data is None else data
    val = xy(11) if val is None else val
    return nb.Task(model or mlp(), loss, data, val, **options)


def accuracy(outputs, batch):
    return (outputs.argmax(1) == batch[1]).float().mean()


def images(count: int = 24, size: int = 8, channels: int = 3):
    x = torch.randn(count, channels, size, size, generator=m.generator())
    return x, torch.arange(count) % 3


@healthy()
def tensor_dataset():
    return classify(TensorDataset(*xy()), TensorDataset(*xy(12)))


@healthy(monitor="val_acc", mode="max", patience=3, ema_decay=0.9)
def pair_with_metric():
    return classify(metrics={"acc": accuracy})


@healthy()
def dict_samples():
    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch["label"])

    data, val = m.Rows(m.as_dict), m.Rows(m.as_dict, 9)
    return classify(data, val, loss=loss, forward=lambda model, b: model(b["feat"]))


@healthy()
def named_tuple_samples():
    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch.label)

    data, val = m.Rows(m.as_named), m.Rows(m.as_named, 9)
    return classify(data, val, loss=loss, forward=lambda model, b: model(b.image))


@healthy()
def nested_samples():
    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch["y"])

    data, val = m.Rows(m.as_nested), m.Rows(m.as_nested, 9)
    return classify(data, val, loss=loss, forward=lambda model, b: model(b["in"]["x"]))


@healthy()
def python_numbers():
    data = [(i / 32, i / 16 - 1) for i in range(32)]
    return nb.Task(
        mlp(1, 1),
        lambda outputs, batch: F.mse_loss(outputs[:, 0], batch[1].float()),
        data,
        forward=lambda model, batch: model(batch[0].float().unsqueeze(1)),
    )


@healthy()
def list_of_arrays():
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=5).astype(np.float32), np.int64(i % 3)) for i in range(30)]
    return classify(rows, rows[:9])


@healthy()
def random_augmentation():
    return classify(m.Rows(m.augmented), m.Rows(count=9))


@healthy(num_workers=2)
def worker_processes():
    return classify(m.Rows(m.augmented), m.Rows(count=9))


@healthy()
def subset_and_concat():
    first, second = random_split(
        TensorDataset(*xy(50)), [40, 10], generator=m.generator()
    )
    return classify(ConcatDataset([first, m.Rows(count=10)]), second)


@healthy()
def loader_shuffled():
    data, val = TensorDataset(*xy()), TensorDataset(*xy(13))
    return classify(DataLoader(data, 8, shuffle=True), DataLoader(val, 8))


@healthy()
def loader_weighted_sampler():
    sampler = WeightedRandomSampler(torch.ones(60), 48)
    return classify(DataLoader(TensorDataset(*xy(60)), 8, sampler=sampler))


@healthy()
def loader_batch_sampler():
    data = TensorDataset(*xy())
    batches = BatchSampler(RandomSampler(data), 8, drop_last=False)
    return classify(DataLoader(data, batch_sampler=batches))


@healthy()
def loader_custom_collate():
    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch["y"])

    return nb.Task(
        m.SequenceClassifier(),
        loss,
        DataLoader(m.Sequences(), 8, shuffle=True, collate_fn=m.pad),
        DataLoader(m.Sequences(10), 8, collate_fn=m.pad),
    )


@healthy()
def stream():
    return classify(m.Stream(30), m.Stream(10))


@healthy(schedule="cosine")
def stream_with_length():
    return classify(m.SizedStream(30), m.SizedStream(10))


@healthy(schedule="cosine", max_steps=5)
def stream_with_max_steps():
    return classify(m.Stream(30), m.Stream(10))


@healthy(accumulation=3, batch_size=5)
def masked_tokens():
    return nb.Task(
        m.Tagger(),
        m.masked_loss,
        m.Sequences(32),
        m.Sequences(9),
        collate=m.pad,
        count_targets=lambda batch: batch["mask"].sum(),
    )


@healthy(warmup_steps=2, schedule="cosine")
def tied_language_model():
    ids = torch.randint(0, 32, (40, 13), generator=m.generator())

    def loss(outputs, batch):
        return F.cross_entropy(outputs.flatten(0, 1), batch[:, 1:].flatten())

    return nb.Task(
        m.LanguageModel(tie=True),
        loss,
        list(ids),
        list(ids[:9]),
        forward=lambda model, batch: model(batch[:, :-1]),
        count_targets=lambda batch: batch[:, 1:].numel(),
    )


@healthy()
def language_model_ignored_labels():
    ids = torch.randint(0, 32, (40, 12), generator=m.generator())
    labels = ids.clone()
    labels[:, :2] = -100

    def loss(outputs, batch):
        return F.cross_entropy(outputs[:, :-1].transpose(1, 2), batch["labels"][:, 1:])

    return nb.Task(
        m.LanguageModel(tie=False),
        loss,
        {"ids": ids, "labels": labels},
        forward=lambda model, batch: model(batch["ids"]),
        count_targets=lambda batch: (batch["labels"][:, 1:] != -100).sum(),
    )


@healthy(clip_norm=0.5)
def translator():
    source = torch.randint(0, 20, (32, 7), generator=m.generator())

    def loss(outputs, batch):
        return F.cross_entropy(outputs.transpose(1, 2), batch[1][:, 1:])

    return nb.Task(
        m.Translator(),
        loss,
        (source, source.flip(1)),
        forward=lambda model, batch: model(batch[0], batch[1][:, :-1]),
    )


@healthy(loss_weights={"reg": 0.5})
def two_tasks():
    x, y = xy()

    def metrics(outputs, batch):
        return {"mae": (outputs["reg"] - batch[2]).abs().mean()}

    data = (x, y, x.sum(1))
    val = tuple(column[:11] for column in data)
    return nb.Task(m.TwoHeads(), m.two_losses, data, val, metrics=metrics)


@healthy()
def mixture_density():
    x = torch.randn(48, 2, generator=m.generator())
    return nb.Task(m.Mixture(), m.mixture_loss, (x, x[:, 0]), (x[:9], x[:9, 0]))


@healthy()
def dataclass_outputs():
    x = torch.randn(40, 4, generator=m.generator())
    return nb.Task(m.Gaussian(m.AsDataclass), m.gaussian_loss, (x, x[:, 0]))


@healthy(precision="bf16")
def named_outputs_in_bf16():
    x = torch.randn(40, 4, generator=m.generator())
    return nb.Task(m.Gaussian(m.AsTuple), m.gaussian_loss, (x, x[:, 0]))


@healthy(loss_weights={"kl": 0.1})
def variational():
    x = torch.randn(40, 8, generator=m.generator())
    declared = ("random in eval",)
    return nb.Task(m.Vae(), m.vae_loss, (x,), (x[:9],), declares=declared)


@healthy(optimizer="sgd", lr=0.01)
def regression():
    x = torch.randn(50, 4, generator=m.generator())
    return nb.Task(nn.Linear(4, 1), nn.MSELoss(), (x, x.sum(1, keepdim=True)))


@healthy()
def multi_label():
    x = torch.randn(50, 6, generator=m.generator())
    return nb.Task(mlp(6, 4), nn.BCEWithLogitsLoss(), (x, (x[:, :4] > 0).float()))


@healthy(ema_decay=0.9)
def complex_covariance():
    x = torch.randn(40, 10, 4, dtype=torch.complex64, generator=m.generator())
    wanted = x.mH @ x / 10
    return nb.Task(m.Covariance(), m.nmse, (x, wanted), (x[:9], wanted[:9]))


@healthy()
def frozen_backbone():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
    return classify(model=model.requires_grad_(False).append(nn.Linear(8, 3)))


@healthy(lr=1e-2)
def low_rank_adapters():
    first, last = m.LowRank(nn.Linear(5, 16)), m.LowRank(nn.Linear(16, 3))
    return classify(model=nn.Sequential(first, nn.ReLU(), last))


@healthy()
def lazy_layers():
    model = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyLinear(3))
    return classify(model=model)


@healthy()
def batch_norm_and_dropout():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return classify(images(), images(9), nn.Sequential(*layers, *head))


@healthy(drop_last=True)
def batch_norm_tail_of_one_dropped():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return classify(xy(41), model=model)


@healthy(gradient_checkpointing=True)
def gradient_checkpointing():
    return classify(model=m.Checkpointed())


@healthy()
def state_beside_tensors():
    return classify(model=m.Stateful())


@healthy(precision="fp16")
def half_precision():
    return classify()


@healthy(accumulation=3, batch_size=7)
def accumulation_with_tail():
    return classify(xy(50))


@healthy()
def own_optimizer_and_onecycle():
    def make_optimizer(model):
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 1e-4}, {"params": vectors}]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)

    return classify(
        make_optimizer=make_optimizer,
        make_schedule=lambda optimizer, steps: lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=steps
        ),
    )


@healthy()
def reduce_on_plateau():
    return classify(
        make_schedule=lambda optimizer, _: lr_scheduler.ReduceLROnPlateau(optimizer)
    )


@healthy()
def sparse_embedding():
    model = nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, 2))
    ids = torch.randint(0, 50, (40, 6), generator=m.generator())
    return nb.Task(
        model,
        nn.CrossEntropyLoss(),
        (ids, torch.arange(40) % 2),
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


@healthy()
def one_sample():
    return nb.Task(mlp(), nn.CrossEntropyLoss(), (torch.randn(1, 5), torch.tensor([1])))


@healthy(batch_size=256)
def batch_larger_than_data():
    return classify()


@healthy()
def weighted_smoothed_loss():
    weight = torch.tensor([1.0, 2.0, 0.5])
    return classify(loss=nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1))


@healthy()
def partial_loss():
    return classify(loss=functools.partial(F.cross_entropy, label_smoothing=0.1))


@healthy()
def contrastive():
    x = torch.randn(40, 5, generator=m.generator())
    data = {"a": x, "b": x + 0.1}
    return nb.Task(m.Pairing(), m.pairing_loss, data, declares=("samples interact",))


@healthy()
def segmentation():
    x = torch.randn(16, 1, 8, 8, generator=m.generator())
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)]
    return classify(
        (x, (x[:, 0] > 0).long()), (x, x[:, 0].ge(0).long()), nn.Sequential(*body)
    )


@healthy()
def vector_quantised():
    def loss(outputs, batch):
        made, code, nearest = outputs
        return {"rec": F.mse_loss(made, batch[0]), "commit": F.mse_loss(code, nearest)}

    x = torch.randn(40, 8, generator=m.generator())
    return nb.Task(m.Codebook(), loss, (x,), loss_weights={"commit": 0.25})


@healthy()
def student_and_teacher():
    def loss(outputs, batch):
        return 2 - 2 * F.cosine_similarity(*outputs).mean()

    return nb.Task(m.Teacher(), loss, (torch.randn(40, 8, generator=m.generator()),))


@healthy()
def double_precision_counts():
    x = torch.randn(40, 5, dtype=torch.float64, generator=m.generator())
    counts = torch.randint(0, 5, (40,), generator=m.generator()).double()

    def loss(outputs, batch):
        return F.poisson_nll_loss(outputs[:, 0], batch[1])

    return nb.Task(mlp(5, 1).double(), loss, (x, counts))


@healthy()
def speech_ctc():
    def forward(model, batch):
        return model(batch[0])[0].log_softmax(-1).transpose(0, 1)

    def loss(outputs, batch):
        count = len(batch[1])
        lengths = torch.full((count,), 12), torch.full((count,), 3)
        return F.ctc_loss(outputs, batch[1], *lengths)

    labels = torch.randint(1, 6, (24, 3), generator=m.generator())
    data = torch.randn(24, 12, 4, generator=m.generator()), labels
    return nb.Task(nn.LSTM(4, 6, batch_first=True), loss, data, forward=forward)


@healthy(batch_size=6)
def graph_classification():
    from torch_geometric.nn import GCN, global_mean_pool

    def forward(model, batch):
        nodes = model(batch.x, batch.edge_index)
        return global_mean_pool(nodes, batch.batch)

    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch.y)

    return nb.Task(GCN(3, 8, 2, 2), loss, graphs(), graphs()[:8], forward=forward)


@healthy(batch_size=6)
def graph_beside_tensor():
    from torch_geometric.nn import GCN, global_mean_pool

    samples = [{"graph": g, "row": torch.ones(4) * i} for i, g in enumerate(graphs())]

    def forward(model, batch):
        graph = batch["graph"]
        nodes = model(graph.x, graph.edge_index)
        return global_mean_pool(nodes, graph.batch) + 0 * batch["row"][:, :2]

    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch["graph"].y)

    return nb.Task(GCN(3, 8, 2, 2), loss, samples, forward=forward)


def graphs():
    from torch_geometric.data import Data

    found = []
    for number in range(24):
        size = 4 + number % 4
        ring = torch.stack([torch.arange(size), (torch.arange(size) + 1) % size])
        x = torch.randn(size, 3, generator=m.generator(number)) + number % 2
        y = torch.tensor([number % 2])
        found.append(Data(x=x, edge_index=torch.cat([ring, ring.flip(0)], 1), y=y))
    return found


@healthy(batch_size=4)
def timm_network():
    import timm

    return classify(
        images(12, 32), images(5, 32), timm.create_model("test_resnet", num_classes=3)
    )


@healthy(batch_size=4)
def torchvision_network():
    import torchvision

    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    return classify(images(12, 32), images(5, 32), model)
