"""Faults of modules: what is not registered, not used, frozen or never called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import (
    accuracy,
    copies,
    digits,
    flats,
    graph_accuracy,
    molecules,
    rings,
    waves,
)
from nbutils.data.task import Task


@fault(
    "graphs",
    "the convolutions lie in a plain list, the optimizer never sees them",
    ("modulelist", "plain list", "python list", "registered"),
)
def convolutions_in_plain_list(is_faulty: bool) -> Program:
    # val accuracy 0.85 against 0.95
    from torch_geometric.nn import GINConv, global_add_pool

    torch.manual_seed(0)
    train, val = molecules(kinds=5)

    class GIN(nn.Module):
        def __init__(self, width: int = 6, depth: int = 3) -> None:
            super().__init__()
            self.start = nn.Linear(5, width)
            convs = []
            for _ in range(depth):
                inner = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
                convs.append(GINConv(nn.Sequential(*inner)))
            self.convs = convs if is_faulty else nn.ModuleList(convs)
            self.head = nn.Linear(width, 5)

        def forward(self, data: Any) -> Tensor:
            x = self.start(data.x)
            for conv in self.convs:
                x = x + functional.relu(conv(x, data.edge_index))
            return self.head(global_add_pool(x, data.batch))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs, batch.y)

    task = Task(GIN(), loss, train, val, metrics={"accuracy": graph_accuracy})
    return Program(task, {"epochs": 20, "lr": 5e-3})


@fault(
    "tabular",
    "a layer is created in forward: new random weights in each call",
    ("created", "determin", "registered", "random"),
)
def layer_created_in_forward(is_faulty: bool) -> Program:
    # val accuracy 0.797 against 1
    torch.manual_seed(1)
    train, val = rings()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin1 = nn.Linear(2, 32)
            if not is_faulty:
                self.lin2 = nn.Linear(32, 32)
            self.lin3 = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.lin1(x))
            middle = nn.Linear(32, 32) if is_faulty else self.lin2
            return self.lin3(torch.relu(middle(x)))

    task = Task(
        Net(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "dicts",
    "the second of two encoders is computed, and its result forgotten",
    ("unused", "no gradient", "not used", "depend"),
)
def branch_forgotten(is_faulty: bool) -> Program:
    # val mae 0.793 against 0.108
    torch.manual_seed(2)
    (x, y), (x_val, y_val) = flats()

    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rooms = nn.Sequential(nn.Linear(2, 24), nn.ReLU())
            self.place = nn.Sequential(nn.Linear(4, 24), nn.ReLU())
            self.join = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            rooms = self.rooms(batch["rooms"])
            place = self.place(batch["place"])
            both = [place, place] if is_faulty else [rooms, place]
            return self.join(torch.cat(both, dim=1))

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return functional.mse_loss(outputs, batch["price"])

    def mae(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs - batch["price"]).abs().mean().item()

    train = {"rooms": x[:, :2], "place": x[:, 2:], "price": y}
    val = {"rooms": x_val[:, :2], "place": x_val[:, 2:], "price": y_val}
    task = Task(TwoTowers(), loss, train, val, metrics={"mae": mae})
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "images",
    "a timm backbone without pretrained weights is frozen as if it had them",
    ("frozen", "requires_grad", "freeze", "pretrained"),
)
def untrained_backbone_frozen(is_faulty: bool) -> Program:
    # val accuracy 0.385 against 0.917
    import timm

    torch.manual_seed(3)
    (x, y), (x_val, y_val) = digits()
    model = timm.create_model(
        "resnet10t",
        pretrained=False,
        in_chans=1,
        num_classes=10,
        channels=(8, 16, 16, 32),
        stem_width=8,
        stem_type="",
    )
    if is_faulty:
        for name, parameter in model.named_parameters():
            if not name.startswith("fc."):
                parameter.requires_grad = False
    x, x_val = (functional.interpolate(part, scale_factor=3) for part in (x, x_val))
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        (x[:800], y[:800]),
        (x_val, y_val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 3, "lr": 3e-3})


@fault(
    "tabular",
    "no activation between the layers: three of them are one linear map",
    ("activation", "linear"),
)
def activations_missing(is_faulty: bool) -> Program:
    # val accuracy 0.363 against 1
    torch.manual_seed(4)
    train, val = rings()
    layers: list[nn.Module] = [nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 3)]
    if not is_faulty:
        layers.insert(1, nn.ReLU())
        layers.insert(3, nn.ReLU())
    task = Task(
        nn.Sequential(*layers),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "text",
    "the decoder attends to its own input instead of the encoder's memory",
    ("no gradient", "unused", "depend", "ignore"),
)
def decoder_ignores_source(is_faulty: bool) -> Program:
    # val hit rate 0.0933 against 1
    torch.manual_seed(5)
    train, val = copies(count=1600, words=6)

    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 32)
            self.position = nn.Parameter(0.3 * torch.randn(6, 32))
            self.encoder = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
            self.decoder = nn.TransformerDecoderLayer(32, 4, 64, 0.0, batch_first=True)
            self.out = nn.Linear(32, 12)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            memory = self.encoder(self.embed(source) + self.position)
            given = functional.pad(target[:, :-1], (1, 0), value=1)
            x = self.embed(given) + self.position
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            if is_faulty:
                out = self.decoder(x, x, tgt_mask=mask, memory_mask=mask)
            else:
                out = self.decoder(x, memory, tgt_mask=mask)
            return self.out(out)

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    def hit_rate(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        return (outputs.argmax(2) == batch[1]).float().mean().item()

    task = Task(
        Seq2Seq(),
        loss,
        train,
        val,
        forward=lambda model, batch: model(batch[0], batch[1]),
        metrics={"hit_rate": hit_rate},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "sequences",
    "the loop starts from zeros again: the network never sees its input",
    ("depend", "constant", "ignore", "same output"),
)
def input_never_read(is_faulty: bool) -> Program:
    # val accuracy 0.367 against 1
    torch.manual_seed(6)
    train, val = waves(classes=3)

    class CellNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 24)
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(len(x), 24)
            inputs = torch.zeros_like(x) if is_faulty else x
            for step in inputs.unbind(1):
                state = self.cell(step, state)
            return self.head(state)

    task = Task(
        CellNet(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 0.01})
