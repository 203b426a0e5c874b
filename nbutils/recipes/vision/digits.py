"""Scikit-learn's handwritten digits as image files, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from nbutils.errors import EnvironmentProblem
from nbutils.recipes.vision.extras import import_extra

__all__ = ["BUILTIN_NAME", "NUM_DIGITS", "builtin_folder", "write_digits"]

BUILTIN_NAME = "digits"
"""The value of ``data_dir`` that means this data set; any other is a folder."""
NUM_DIGITS = 1797
_PEAK = 16  # the data set counts ink from 0 to 16


def builtin_folder() -> Path:
    """Where the digits are kept: ``data/digits`` in the working directory."""
    return Path("data") / BUILTIN_NAME


def write_digits(folder: Path) -> int:
    """Make ``folder`` hold all digits as ``<class>/<nnnn>.png``.

    Only missing files are written, each one whole or not at all, so a second call
    does nothing and a call after an interruption completes the work.

    Returns:
        How many files were written.

    Raises:
        EnvironmentProblem: scikit-learn is missing, or the folder cannot be written.
    """
    if sum(1 for _ in folder.glob("[0-9]/[0-9][0-9][0-9][0-9].png")) == NUM_DIGITS:
        return 0
    images, labels = _load()
    written = 0
    try:
        for label in range(10):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / str(label) / f"{number:04d}.png"
            if not path.exists():
                _write_png(path, pixels)
                written += 1
    except OSError as error:
        raise EnvironmentProblem(
            f"the digits cannot be written to {folder}: {error}. Start from a "
            "directory that you may write to, with a few MB free."
        ) from error
    return written


def _load() -> tuple[np.ndarray, np.ndarray]:
    """All digits as uint8 images of 8 x 8 pixels, and their labels."""
    digits = import_extra("sklearn.datasets").load_digits()
    return np.round(digits.images * (255 / _PEAK)).astype(np.uint8), digits.target


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(pixels).save(beside, format="PNG")
    beside.replace(path)
