"""Image classification: a folder per class, a timm model, per-class scores."""

from __future__ import annotations

from nbutils.recipes.vision.looks import preview, yardstick
from nbutils.recipes.vision.score import VisionYardstick

__all__ = ["VisionYardstick", "preview", "yardstick"]
