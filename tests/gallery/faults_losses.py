"""Faults of losses written by hand: signs, shapes, axes and fields of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import digits, flats, shapes, waves
from nbutils.data.task import Task


class DigitVAE(nn.Module):
    """A VAE of the scans of digits; returns pixels, mean and log-variance."""

    def __init__(self, latent: int = 8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU())
        self.mean = nn.Linear(96, latent)
        self.log_var = nn.Linear(96, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        z = mean
        if self.training:
            z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decoder(z).view_as(x), mean, log_var


def pixel_error(outputs: Any, batch: Any) -> float:
    """Mean squared error of the pixels a VAE returns first."""
    return functional.mse_loss(outputs[0], batch[0]).item()


@fault(
    "images",
    "the sign of the KL term of a VAE is flipped, so that it has no lower bound",
    ("sign", "unbounded", "lower bound", "negative"),
)
def kl_term_with_wrong_sign(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val pixel error 0.0306
    torch.manual_seed(0)
    (x, _), (x_val, _) = digits()
    sign = 1.0 if is_faulty else -1.0

    def loss(outputs: Any, batch: Any) -> dict[str, Tensor]:
        pixels, mean, log_var = outputs
        kl = sign * 0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(1)
        error = functional.mse_loss(pixels, batch[0], reduction="none")
        return {"pixels": error.sum((1, 2, 3)).mean(), "kl": 0.1 * kl.mean()}

    metrics = {"pixel_error": pixel_error}
    return Program(Task(DigitVAE(), loss, x, x_val, metrics=metrics), {"epochs": 8})


@fault(
    "images",
    "the KL term is a sum, the pixel term a mean: the code collapses",
    ("collaps", "dominat", "outweigh", "scale"),
)
def kl_term_outweighs_pixels(is_faulty: bool) -> Program:
    # val pixel error 0.0805 against 0.0317
    torch.manual_seed(1)
    (x, _), (x_val, _) = digits()

    def loss(outputs: Any, batch: Any) -> dict[str, Tensor]:
        pixels, mean, log_var = outputs
        kl = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp())
        kl = kl.sum() if is_faulty else 0.01 * kl.mean()
        return {"pixels": functional.mse_loss(pixels, batch[0]), "kl": kl}

    metrics = {"pixel_error": pixel_error}
    return Program(Task(DigitVAE(), loss, x, x_val, metrics=metrics), {"epochs": 10})


class MixtureNet(nn.Module):
    """A density network of three normals for one target."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 48), nn.Tanh())
        self.weights = nn.Linear(48, 3)
        self.means = nn.Linear(48, 3)
        self.log_stds = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> torch.distributions.MixtureSameFamily:
        hidden = self.body(x)
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=self.weights(hidden)),
            torch.distributions.Normal(
                self.means(hidden), self.log_stds(hidden).clamp(-4, 4).exp()
            ),
        )


@fault(
    "tabular",
    "the likelihood is minimised: the minus before log_prob is missing",
    ("sign", "unbounded", "lower bound", "negative"),
)
def likelihood_minimised(is_faulty: bool) -> Program:
    # val mae 42 against 0.176
    torch.manual_seed(2)
    train, val = flats()

    def loss(outputs: Any, batch: Any) -> Tensor:
        fit = outputs.log_prob(batch[1].squeeze(1)).mean()
        return fit if is_faulty else -fit

    def error_of_mean(outputs: Any, batch: Any) -> float:
        return (outputs.mean - batch[1].squeeze(1)).abs().mean().item()

    task = Task(MixtureNet(), loss, train, val, metrics={"mae": error_of_mean})
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "tabular",
    "MSE by hand of (B, 1) predictions and (B,) targets, which broadcasts to (B, B)",
    ("broadcast", "shape"),
)
def mse_broadcasts(is_faulty: bool) -> Program:
    # val mae 0.768 against 0.143
    torch.manual_seed(3)
    (x, y), (x_val, y_val) = flats()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1))

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        predicted = outputs if is_faulty else outputs.squeeze(1)
        return ((predicted - batch[1]) ** 2).mean()

    def mae(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        return (outputs.flatten() - batch[1]).abs().mean().item()

    data = (x, y.squeeze(1)), (x_val, y_val.squeeze(1))
    task = Task(model, loss, *data, metrics={"mae": mae})
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "dicts",
    "segmentation loss by hand with log-softmax over the width instead of the classes",
    ("softmax", "axis", "over dim", "sum to 1"),
)
def log_softmax_over_width(is_faulty: bool) -> Program:
    # val iou 0.488 against 0.971
    torch.manual_seed(4)
    train, val = shapes()
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        scores = functional.log_softmax(outputs, dim=-1 if is_faulty else 1)
        return -scores.gather(1, batch["mask"][:, None]).mean()

    def iou(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        found, true = outputs.argmax(1), batch["mask"]
        shares = [
            ((found == c) & (true == c)).sum() / ((found == c) | (true == c)).sum()
            for c in (1, 2)
        ]
        return (sum(shares) / 2).item()

    task = Task(
        body,
        loss,
        train,
        val,
        forward=lambda model, batch: model(batch["image"]),
        metrics={"iou": iou},
    )
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "images",
    "the loss is compared with the camera's number instead of the digit",
    ("field", "never read", "not read", "batch["),
)
def loss_reads_wrong_field(is_faulty: bool) -> Program:
    # val top1 0.149 against 0.922
    torch.manual_seed(5)
    (x, y), (x_val, y_val) = digits()

    class Scans(torch.utils.data.Dataset):
        def __init__(self, images: Tensor, labels: Tensor):
            self.images, self.labels = images, labels
            self.cameras = torch.randint(4, (len(images),))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
            return self.images[index], self.cameras[index], self.labels[index]

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs, batch[1 if is_faulty else 2])

    def top1(outputs: Tensor, batch: Any) -> float:
        return (outputs.argmax(1) == batch[2]).float().mean().item()

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 10))
    task = Task(model, loss, Scans(x, y), Scans(x_val, y_val), metrics={"top1": top1})
    return Program(task, {"epochs": 5})


@fault(
    "sequences",
    "the step losses overwrite each other, only the last step is learned",
    ("no gradient", "part of", "positions", "unused"),
)
def only_last_step_counts(is_faulty: bool) -> Program:
    # val tag rate 0.508 against 0.961
    torch.manual_seed(6)
    (x, y), (x_val, y_val) = waves(classes=2)

    def parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :, :1], (x[:, :, :1].squeeze(2).cumsum(1) > 0).long()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.zeros(40, 16))
            self.conv = nn.Conv1d(1, 16, 3, padding=1)
            self.rnn = nn.GRU(16, 32, batch_first=True)
            self.steps = nn.ModuleList([nn.Linear(32, 2) for _ in range(40)])

        def forward(self, x: Tensor) -> list[Tensor]:
            seen = self.conv(x.transpose(1, 2)).transpose(1, 2) + self.start
            states, _ = self.rnn(seen)
            return [head(states[:, t]) for t, head in enumerate(self.steps)]

    def loss(outputs: list[Tensor], batch: Any) -> Tensor:
        total = torch.zeros(())
        for t, scores in enumerate(outputs):
            step = functional.cross_entropy(scores, batch[1][:, t])
            total = step if is_faulty else total + step / len(outputs)
        return total

    def tag_rate(outputs: list[Tensor], batch: Any) -> float:
        return (torch.stack(outputs, 1).argmax(2) == batch[1]).float().mean().item()

    data = parts(x, y), parts(x_val, y_val)
    task = Task(Tagger(), loss, *data, metrics={"tag_rate": tag_rate})
    return Program(task, {"epochs": 8, "lr": 5e-3})
