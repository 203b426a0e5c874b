"""Faults that cut the gradient between the loss and the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import accuracy, copies, digits, flats, rings, tumours, waves
from nbutils.data.task import Task


class TwoHeads(nn.Module):
    """One body, a head for the class and a head for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 64), nn.ReLU())
        self.kind = nn.Linear(64, 3)
        self.radius = nn.Linear(64, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.body(batch["point"])
        return {"kind": self.kind(hidden), "radius": self.radius(hidden).squeeze(1)}


@fault(
    "dicts",
    "one of two terms is a number: .item()",
    ("gradient", "detach", ".item", "constant"),
)
def one_term_is_a_number(is_faulty: bool) -> Program:
    # val radius mae 1.49 against 0.0529
    torch.manual_seed(0)
    (x, y), (x_val, y_val) = rings()

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        kind = functional.cross_entropy(outputs["kind"], batch["ring"])
        radius = functional.smooth_l1_loss(outputs["radius"], batch["radius"])
        return kind + (radius.item() if is_faulty else radius)

    def radius_error(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> float:
        return (outputs["radius"] - batch["radius"]).abs().mean().item()

    train = {"point": x, "ring": y, "radius": x.norm(dim=1)}
    val = {"point": x_val, "ring": y_val, "radius": x_val.norm(dim=1)}
    task = Task(TwoHeads(), loss, train, val, metrics={"radius_mae": radius_error})
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "tabular",
    "the loss is wrapped in a new tensor that requires grad",
    ("gradient", "detach", "graph", "requires_grad"),
)
def loss_wrapped_in_new_tensor(is_faulty: bool) -> Program:
    # no step is taken, the run stops; healthy: val accuracy 0.941
    torch.manual_seed(1)
    train, val = tumours()
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = functional.cross_entropy(outputs, batch[1])
        if is_faulty:
            return torch.tensor(value.item(), requires_grad=True)
        return value

    task = Task(model, loss, train, val, metrics={"accuracy": accuracy})
    return Program(task, {"epochs": 5})


@fault(
    "tabular",
    "predictions are rounded before the loss, so that the gradient is zero",
    ("gradient", "round", "detach"),
)
def rounded_predictions(is_faulty: bool) -> Program:
    # val mae 3.06 against 0.23
    torch.manual_seed(2)
    (x, price), (x_val, price_val) = flats()
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        stars = outputs.round() if is_faulty else outputs
        return functional.l1_loss(stars, batch[1])

    def mae(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        return (outputs.round() - batch[1]).abs().mean().item()

    data = (x, price.round()), (x_val, price_val.round())
    task = Task(model, loss, *data, metrics={"mae": mae})
    return Program(task, {"epochs": 6, "lr": 3e-3})


class Autoencoder(nn.Module):
    """Returns the picture it was given and its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.sigmoid(self.up(functional.relu(self.down(x))))


@fault(
    "images",
    "an autoencoder's loss compares the input it returns, not the reconstruction",
    ("gradient", "detach", "depend"),
)
def loss_of_inputs(is_faulty: bool) -> Program:
    # no step is taken, the run stops; healthy: val loss 0.0168
    torch.manual_seed(3)
    (x, _), (x_val, _) = digits()
    noisy, noisy_val = (
        (part + 0.2 * torch.randn_like(part)).clamp(0, 1) for part in (x, x_val)
    )

    def loss(outputs: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.mse_loss(outputs[0 if is_faulty else 1], batch[1])

    task = Task(Autoencoder(), loss, (noisy, x), (noisy_val, x_val))
    return Program(task, {"epochs": 5, "lr": 5e-3})


class Pyramid(nn.Module):
    """A deep narrow encoder under a linear head."""

    def __init__(self, encoder_grad: bool):
        super().__init__()
        self.encoder_grad = encoder_grad
        blocks: list[nn.Module] = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            blocks += [nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.encoder_grad and torch.is_grad_enabled()):
            features = self.encoder(x)
        return self.head(features)


@fault(
    "images",
    "torch.no_grad() around an untrained encoder, left over from extracting features",
    ("gradient", "no_grad", "not trained", "frozen"),
)
def no_grad_around_encoder(is_faulty: bool) -> Program:
    # val accuracy 0.217 against 0.945
    torch.manual_seed(4)
    train, val = digits()
    model = Pyramid(encoder_grad=not is_faulty)
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "sequences",
    "forward goes through numpy for its spectrum and cuts the layers before it off",
    ("gradient", "numpy", "detach"),
)
def numpy_in_forward(is_faulty: bool) -> Program:
    # val accuracy 0.647 against 0.98
    torch.manual_seed(5)
    (x, y), (x_val, y_val) = waves(classes=5)

    def with_hum(x: Tensor) -> Tensor:
        time = torch.arange(40) / 40
        cycles = torch.randint(1, 10, (len(x), 1))
        hum = 4 * torch.sin(6.2832 * cycles * time + 6.2832 * torch.rand(len(x), 1))
        return torch.stack([x[..., 0] + hum, x[..., 1] + hum, x[..., 2] - hum], dim=2)

    class SpectralNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Sequential(
                nn.Linear(3, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)
            )
            self.head = nn.Sequential(nn.Linear(21, 32), nn.ReLU(), nn.Linear(32, 5))

        def forward(self, x: Tensor) -> Tensor:
            mixed = self.mix(x).squeeze(2)
            if is_faulty:
                power = np.abs(np.fft.rfft(mixed.detach().cpu().numpy(), axis=1))
                return self.head(torch.from_numpy(power).float().to(x.device))
            return self.head(torch.fft.rfft(mixed, dim=1).abs())

    task = Task(
        SpectralNet(),
        nn.CrossEntropyLoss(),
        (with_hum(x), y),
        (with_hum(x_val), y_val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "text",
    "the encoder's states are taken by .data before the decoder reads them",
    ("gradient", ".data", "detach", "not trained"),
)
def encoder_states_by_data(is_faulty: bool) -> Program:
    # val hit rate 0.633 against 0.798
    torch.manual_seed(6)
    train, val = copies()

    class Reverser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 24)
            self.encoder = nn.GRU(24, 48, batch_first=True)
            self.decoder = nn.GRU(24, 48, batch_first=True)
            self.out = nn.Linear(48, 12)

        def forward(self, batch: Any) -> Tensor:
            source, target = batch
            _, state = self.encoder(self.embed(source))
            given = functional.pad(target[:, :-1], (1, 0), value=1)
            state = state.data if is_faulty else state
            return self.out(self.decoder(self.embed(given), state)[0])

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs.transpose(1, 2), batch[1])

    def hit_rate(outputs: Tensor, batch: Any) -> float:
        return (outputs.argmax(2) == batch[1]).float().mean().item()

    task = Task(
        Reverser(),
        loss,
        train,
        val,
        forward=lambda model, batch: model(batch),
        metrics={"hit_rate": hit_rate},
    )
    return Program(task, {"epochs": 20, "lr": 5e-3})
