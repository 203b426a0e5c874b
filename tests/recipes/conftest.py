"""A small tree of images in every mode that a user's folder may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """Two classes of twelve small pictures of odd sizes."""
    generator = np.random.default_rng(0)
    for name, base in (("bright", 170), ("dark", 0)):
        folder = tmp_path / "tree" / name
        folder.mkdir(parents=True)
        for number in range(12):
            size = (9 + number, 14, 3)
            pixels = base + generator.integers(0, 80, size)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / f"{number:02d}.png")
    return tmp_path / "tree"
