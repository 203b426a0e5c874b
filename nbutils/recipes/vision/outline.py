"""The classifier without data or trained weights: what it takes, gives and weighs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from nbutils.config import RunConfig
from nbutils.data.rng import preserved_rng, seed_rng
from nbutils.data.task import Task
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem
from nbutils.recipes.vision import model as networks
from nbutils.recipes.vision.extras import import_extra
from nbutils.recipes.vision.loss import make_loss
from nbutils.recipes.vision.recipe import _accuracy

__all__ = ["outline", "weights_problem"]


class Unread(Dataset[tuple[Tensor, int]]):
    """Stands where the images will be; there are none yet."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise ContractError(
            f"sample {index} of an outline was asked for; an outline has no data. "
            "Build the task with nb.build_task(config) to read images."
        )


def outline(config: RunConfig, num_classes: int, device: Any = "meta") -> Task:
    """The task with its network on ``device`` and no image read.

    Raises:
        ConfigError: The architecture is not set, or timm does not know it.
        ContractError: The network refuses the image size.
        EnvironmentProblem: timm is missing.
    """
    with preserved_rng():
        seed_rng(config.train.seed)
        model = _network(config, num_classes, device)
    inputs = networks.data_config(model, config.model.image_size)
    channels, height, width = inputs["input_size"]
    return Task(
        model=model,
        loss=make_loss(config.loss.label_smoothing),
        train_data=Unread(),
        val_data=Unread(),
        test_data=Unread() if config.data.test_fraction else None,
        metrics={"accuracy": _accuracy(num_classes)},
        contract={
            "0": f"float32 (B, {channels}, {height}, {width})",
            "1": "int64 (B,)",
        },
        name="vision",
        config=config,
        extras={"data_config": inputs},
    )


def weights_problem(config: RunConfig) -> str:
    """Why published weights cannot be had here; empty if they can or are not asked for.

    Asks the hub, for five seconds at most, where they are not in the cache.
    """
    if not config.model.pretrained:
        return ""
    try:
        networks.check_pretrained(str(config.model.architecture))
    except ConfigError as error:
        return " ".join(error.problems)
    except EnvironmentProblem as error:
        return str(error)
    return ""


def _network(config: RunConfig, num_classes: int, device: Any) -> nn.Module:
    """The network with random weights, or with shapes only, at its image size."""
    settings = config.model
    published = networks._published_config(settings.architecture)
    size = settings.image_size or published.input_size[-1]
    networks._check_patches(settings.architecture, size)
    try:
        with torch.device(device):
            model = import_extra("timm").create_model(
                settings.architecture,
                num_classes=num_classes,
                **networks._size_arguments(published, size),
                **({"drop_rate": settings.drop_rate} if settings.drop_rate else {}),
            )
        networks._forward_once(model, size, device)
    except (AssertionError, RuntimeError, ValueError) as error:
        sizes = networks._accepted_sizes(str(settings.architecture), size)
        if size in sizes:
            raise
        raise ContractError(
            f"{settings.architecture} refuses image_size {size}: {error}. "
            f"It takes {networks._or(sizes)}. Set image_size to one of them."
        ) from error
    return model
