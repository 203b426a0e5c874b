"""Small models and data that record what was done to them.

The traps (a kill, an interrupt, an error) lie in the models, so that they hit every
library at the same place.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset

__all__ = [
    "IGNORED",
    "SEEN",
    "STEPS",
    "Adam",
    "Blobs",
    "Classifier",
    "Constant",
    "OneHot",
    "Padded",
    "Sgd",
    "Shares",
    "Tagger",
    "Values",
    "collate_padded",
    "digest",
    "kill",
    "mean_output",
    "out_of_memory",
    "settle",
    "token_loss",
]

IGNORED = -100
NUM_TOKENS = 11
SEEN: list[list[tuple[float, float]]] = []  # (id, draw) of each training batch
STEPS: list[dict[str, Any]] = []  # gradients, rate and weights of each update
DRAW, FEATURES = 1, 5


class _Traced:
    """Keeps the gradients and rate of every update, and the weights after it."""

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:  # some libraries compute the gradients in here
            with torch.enable_grad():
                loss = closure()
        groups: Any = self.param_groups  # type: ignore[attr-defined]
        parameters = [p for group in groups for p in group["params"]]
        grads = [p.grad.flatten() for p in parameters if p.grad is not None]
        small = sum(p.numel() for p in parameters) < 1000
        kept = torch.cat(grads).tolist() if small and grads else []
        row = {"lr": groups[0]["lr"], "grads": kept}
        super().step()  # type: ignore[misc]
        row["weights"] = digest(parameters)
        STEPS.append(row)
        return loss


class Sgd(_Traced, torch.optim.SGD):
    """SGD that keeps a trace."""


class Adam(_Traced, torch.optim.Adam):
    """Adam that keeps a trace."""


def digest(parameters: Any) -> str:
    """A fingerprint of tensors, bit for bit."""
    found = hashlib.sha256()
    for parameter in parameters:
        found.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class Shares(nn.Module):
    """A weight per sample: the gradient of the mean output shows who is in it."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_samples))

    def forward(self, x: Tensor) -> Tensor:
        """The weight of each sample, ``(B,)``."""
        return x @ self.weight


def mean_output(outputs: Tensor, _targets: Tensor) -> Tensor:
    """Mean of the outputs."""
    return outputs.float().mean()


class OneHot(Dataset[Any]):
    """Sample i is unit vector i."""

    def __init__(self, num_samples: int) -> None:
        self.x = torch.eye(num_samples)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], torch.zeros(())


class Padded(Dataset[Any]):
    """Sequences of 2 to 9 tokens, each labelled with another token."""

    def __init__(self, num_samples: int = 16) -> None:
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(2, 10, (num_samples,), generator=generator).tolist()
        self.tokens = [
            torch.randint(NUM_TOKENS, (2, n), generator=generator) for n in lengths
        ]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index][0], self.tokens[index][1]


def collate_padded(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pad tokens with 0 and labels with -100."""
    columns = zip(*samples, strict=True)
    pad = nn.utils.rnn.pad_sequence
    tokens, labels = (
        pad(list(column), batch_first=True, padding_value=value)
        for column, value in zip(columns, (0, IGNORED), strict=True)
    )
    return tokens, labels


class Tagger(nn.Module):
    """A label for each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(NUM_TOKENS, 8)
        self.head = nn.Linear(8, NUM_TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, T, tokens)``."""
        return self.head(self.embed(x))


def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that count."""
    return cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


class Blobs(Dataset[Any]):
    """Two classes; column 0 is the sample's number, column 1 a fresh random draw.

    Args:
        num_samples: How many.
        augment: Whether to draw, from torch's global generator.
        bad: A sample whose features are NaN.
    """

    def __init__(
        self, num_samples: int = 40, *, augment: bool = False, bad: int | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(num_samples, 2 + FEATURES, generator=generator)
        self.x[:, 0] = torch.arange(num_samples)
        self.x[:, DRAW] = 0
        self.y = (self.x[:, 2] > 0).long()
        if bad is not None:
            self.x[bad, 2:] = float("nan")
        self.augment = augment

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index].clone()
        if self.augment:
            x[DRAW] = torch.rand(())
        return x, self.y[index]


class Classifier(nn.Module):
    """An MLP that writes down its batches and steps into a trap.

    Args:
        width: Hidden units.
        dropout: Share of them.
        trap: Called with the batch before its training forward, from number 1 on.
    """

    def __init__(
        self,
        width: int = 16,
        dropout: float = 0.0,
        trap: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.body = nn.Sequential(
            nn.Linear(FEATURES + 1, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2),
        )
        self.trap = trap
        self.started = ""

    def forward(self, x: Tensor) -> Tensor:
        """Scores of two classes; the number of the sample is no feature."""
        if self.training:
            if not self.started:
                self.started = digest(self.parameters())
            SEEN.append([(i, d) for i, d in x[:, :2].tolist()])
            if self.trap is not None:
                self.trap(len(SEEN), x)
        return self.body(x[:, 1:])


class Values(Dataset[Any]):
    """Ten numbers, the last two far from the rest; batches of 4 leave those two."""

    def __init__(self, num_samples: int = 10) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.tensor([10.0 if index >= 8 else 1.0])


class Constant(nn.Module):
    """Predicts a weight that is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Zeros ``(B, 1)``; the loss is then the square of the target."""
        return x * self.weight

    loss = staticmethod(mse_loss)


def kill() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def settle() -> None:
    """Time for a save in the background, as between the batches of a real model."""
    time.sleep(0.5)


def out_of_memory() -> None:
    """Raise what CUDA raises."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity "
        "of 14.74 GiB of which 1.06 GiB is free."
    )
