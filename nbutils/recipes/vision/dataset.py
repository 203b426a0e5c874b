"""Images of a class-per-folder tree as samples ``(image_CHW, label)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nbutils.recipes.vision.images import read_image
from nbutils.recipes.vision.tree import ImageTree

__all__ = ["ImageFolderDataset"]


class ImageFolderDataset(Dataset[tuple[Tensor, int]]):
    """Part of an image tree under one transform of its own.

    Args:
        tree: The scanned tree.
        indices: Which of its files belong to this part, in order.
        transform: RGB image to float tensor ``(3, H, W)``.
    """

    def __init__(
        self,
        tree: ImageTree,
        indices: Sequence[int],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.class_names = tree.class_names
        self.paths = [tree.root / tree.paths[index] for index in indices]
        self.labels = [tree.labels[index] for index in indices]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.image(index)), self.labels[index]

    def image(self, index: int) -> Image.Image:
        """The picture itself, as RGB, before any transform."""
        return read_image(self.paths[index])
