"""Healthy: generative models, with randomness in the model or in the loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import (
    accuracy,
    bumps,
    clusters,
    gratings,
    mlp,
    small_cnn,
    split,
)
from nbutils.data.task import Task


def _images(num_train: int = 320, num_val: int = 80) -> tuple[Tensor, Tensor]:
    images = bumps(num_train + num_val)
    return images[:num_train], images[num_train:]


class VAE(nn.Module):
    """Draws its code while training and takes the mean in evaluation."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), mlp(256, 128, 2 * code))
        self.decoder = mlp(code, 128, 256)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        logits = self.decoder(code).view_as(images)
        return {"logits": logits, "mean": mean, "log_variance": log_variance}


def _elbo(outputs: dict[str, Tensor], batch: tuple[Tensor]) -> dict[str, Tensor]:
    mean, log_variance = outputs["mean"], outputs["log_variance"]
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
    seen = F.binary_cross_entropy_with_logits(
        outputs["logits"], batch[0], reduction="none"
    )
    return {"seen": seen.flatten(1).sum(dim=1).mean(), "kl": divergence.mean()}


@healthy("images", "VAE: the sum over pixels gives losses of hundreds, codes are drawn")
def vae() -> Program:
    torch.manual_seed(0)
    train, val = _images()
    return Program(Task(VAE(), _elbo, train, val), {"epochs": 20, "lr": 2e-3})


@healthy("images", "beta-VAE: the weight of the KL term rises from zero over the run")
def beta_vae_with_warmup() -> Program:
    torch.manual_seed(0)
    train, val = _images()
    task = Task(VAE(), _elbo, train, val, loss_weights={"kl": 2.0})
    phases = {"kl": [(0.0, 0.0), (0.5, 1.0)]}
    return Program(task, {"epochs": 20, "lr": 2e-3, "loss_phases": phases})


class Coupling(nn.Module):
    """RealNVP: half of the entries scale and shift the others."""

    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.body = mlp(1, 32, 2)
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keep, move = x.chunk(2, dim=1)
        if self.flip:
            keep, move = move, keep
        log_scale, shift = self.body(keep).chunk(2, dim=1)
        log_scale = log_scale.tanh()
        move = move * log_scale.exp() + shift
        pair = (move, keep) if self.flip else (keep, move)
        return torch.cat(pair, dim=1), log_scale.sum(dim=1)


class Flow(nn.Module):
    """Log-density of points by six couplings that begin as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Coupling(bool(depth % 2)) for depth in range(6))

    def forward(self, x: Tensor) -> Tensor:
        volume = torch.zeros(len(x), device=x.device)
        for step in self.steps:
            x, change = step(x)
            volume = volume + change
        return volume - (x.square().sum(dim=1) + 2 * math.log(2 * math.pi)) / 2


@healthy("tabular", "a normalising flow: the model gives the loss, below zero at last")
def normalising_flow() -> Program:
    torch.manual_seed(0)
    first = 0.2 * torch.randn(1000, 1)
    x = torch.cat([first, 3 * first.square() + 0.03 * torch.randn(1000, 1)], dim=1)
    task = Task(Flow(), lambda outputs, _batch: -outputs.mean(), x[:800], x[800:])
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Denoiser(nn.Module):
    """Predicts the noise that was added, given the time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(2 + 8, 96, 96, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = time[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0], device=x.device)
        return self.body(torch.cat([x, waves.sin(), waves.cos()], dim=1))


def _noise_prediction(model: nn.Module, batch: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    x = batch[0]
    time = torch.rand(len(x), device=x.device)
    noise = torch.randn_like(x)
    level = (time * math.pi / 2).sin()[:, None]
    return model((1 - level**2).sqrt() * x + level * noise, time), noise


@healthy("tabular", "DDPM: noise and time are drawn in each pass, in evaluation too")
def diffusion() -> Program:
    torch.manual_seed(0)
    angle = 6.3 * torch.rand(1200)
    ring = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(1200, 2)
    task = Task(
        Denoiser(),
        lambda outputs, _batch: F.mse_loss(*outputs),
        ring[:1000],
        ring[1000:],
        forward=_noise_prediction,
    )
    return Program(task, {"epochs": 20, "lr": 3e-3, "ema_decay": 0.99})


class NoiseInLoss:
    """Score matching: the loss calls the model itself with noise it drew."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, outputs: Tensor, batch: tuple[Tensor]) -> Tensor:
        noise = torch.randn_like(batch[0])
        aim = -noise / 0.3
        return 0.09 * F.mse_loss(self.model(batch[0] + 0.3 * noise), aim)


@healthy("tabular", "score matching: the loss calls the model, outputs are not used")
def score_matching_in_loss() -> Program:
    torch.manual_seed(0)
    x, _ = clusters(1000, 2, 3, spread=0.1)
    model = mlp(2, 96, 96, 2)
    task = Task(model, NoiseInLoss(model), x[:800], x[800:])
    return Program(task, {"epochs": 15, "lr": 3e-3})


class MaskedAutoencoder(nn.Module):
    """Sees a quarter of the patches, drawn anew, and fills in the others."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Linear(16, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.hidden = nn.Parameter(torch.zeros(width))
        layer = nn.TransformerEncoderLayer(width, 4, 96, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.leave = nn.Linear(width, 16)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        patches = F.unfold(images, 4, stride=4).transpose(1, 2)
        score = torch.rand(patches.shape[:2], device=images.device)
        is_hidden = score.argsort(dim=1) >= 8
        tokens = torch.where(is_hidden[..., None], self.hidden, self.enter(patches))
        answer = self.leave(self.body(tokens + self.places))
        return {"answer": answer, "patches": patches, "is_hidden": is_hidden}


def _filled_in(outputs: dict[str, Tensor], _batch: tuple[Tensor]) -> Tensor:
    error = (outputs["answer"] - outputs["patches"]).square().mean(dim=-1)
    return error[outputs["is_hidden"]].mean()


@healthy("images", "a masked autoencoder: targets are made in the model, at random")
def masked_autoencoder() -> Program:
    torch.manual_seed(0)
    train, val = _images(480)
    task = Task(MaskedAutoencoder(), _filled_in, train - 0.5, val - 0.5)
    return Program(task, {"epochs": 15, "lr": 2e-3})


class VQVAE(nn.Module):
    """A codebook of buffers that follows its codes; gradients pass straight through."""

    def __init__(self, num_codes: int = 32, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, width, 4, stride=4)
        self.decoder = nn.ConvTranspose2d(width, 1, 4, stride=4)
        codes = 0.3 * torch.randn(num_codes, width)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", codes.clone())

    @torch.no_grad()
    def _follow(self, flat: Tensor, chosen: Tensor) -> None:
        onehot = F.one_hot(chosen, len(self.codes)).to(flat.dtype)
        self.counts.lerp_(onehot.sum(dim=0), 0.05)
        self.sums.lerp_(onehot.T @ flat, 0.05)
        self.codes.copy_(self.sums / (self.counts[:, None] + 1e-3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        hidden = self.encoder(images)
        flat = hidden.movedim(1, -1).reshape(-1, hidden.shape[1])
        chosen = torch.cdist(flat.detach(), self.codes).argmin(dim=1)
        code = self.codes[chosen].view_as(hidden.movedim(1, -1)).movedim(-1, 1)
        if self.training:
            self._follow(flat.detach(), chosen)
        through = hidden + (code - hidden).detach()
        return {"image": self.decoder(through), "hidden": hidden, "code": code}


def _commitment(outputs: dict[str, Tensor], batch: tuple[Tensor]) -> dict[str, Tensor]:
    return {
        "seen": F.mse_loss(outputs["image"], batch[0]),
        "commit": F.mse_loss(outputs["hidden"], outputs["code"].detach()),
    }


@healthy("images", "VQ-VAE: the codebook is a buffer and moves without the optimizer")
def vq_vae() -> Program:
    torch.manual_seed(0)
    train, val = _images()
    task = Task(
        VQVAE(), _commitment, train - 0.5, val - 0.5, loss_weights={"commit": 0.25}
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("images", "a denoising autoencoder: the target is the input, x is y")
def target_is_the_input() -> Program:
    torch.manual_seed(0)
    train, val = _images()
    model = nn.Sequential(
        nn.Dropout(0.2),
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1),
    )
    task = Task(model, nn.MSELoss(), (train, train), (val, val))
    return Program(task, {"epochs": 15, "lr": 3e-3})


def _attacked(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The answers for inputs moved against the model (FGSM), in training only."""
    x, y = batch
    if model.training:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        x = (x + 0.1 * slope.sign()).detach()
    return model(x)


@healthy("images", "adversarial training: a backward pass inside the forward pass")
def adversarial_training() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        train,
        val,
        forward=_attacked,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})
