"""How long one process takes to read and augment one image."""

from __future__ import annotations

import time

from nbutils.config import RunConfig
from nbutils.data.rng import preserved_rng
from nbutils.data.task import Task
from nbutils.errors import ContractError
from nbutils.recipes.vision.data_look import find_images
from nbutils.recipes.vision.images import read_image
from nbutils.recipes.vision.model import make_transform

__all__ = ["seconds_to_read"]

MAX_IMAGES = 64
MAX_SECONDS = 1.0


def seconds_to_read(config: RunConfig, task: Task) -> float | None:
    """Seconds per image, decoded and augmented as for training; none without images.

    Args:
        config: Names the folder.
        task: The outline, which knows the network's input.
    """
    transform = make_transform(task.extras["data_config"], training=True)
    count, start = 0, 0.0
    with preserved_rng():
        for path in find_images(config, MAX_IMAGES + 1):
            try:
                transform(read_image(path))
            except ContractError:
                continue  # the look names unreadable files
            if not start:  # the first image also pays for what is loaded lazily
                start = time.perf_counter()
                continue
            count += 1
            if time.perf_counter() - start > MAX_SECONDS:
                break
    return (time.perf_counter() - start) / count if count else None
