"""One image file, read the way a viewer shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nbutils.errors import ContractError

__all__ = ["read_image", "why_unreadable"]

_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(path: Path) -> Image.Image:
    """The picture as a viewer shows it, as 8-bit RGB.

    EXIF rotation is applied, transparency laid over white, 16-bit grey scaled to 8;
    of an animation the first frame is taken.

    Raises:
        ContractError: The file cannot be decoded; says which and why.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL's decoders raise a dozen types, struct.error too
        reason = str(error) or type(error).__name__
        if path.is_file() and path.stat().st_size == 0:
            reason = "the file is empty"
        raise ContractError(f"image {path} cannot be read: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of PIL to RGB without clipping or losing transparency."""
    if image.mode in _WIDE_MODES:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its integers exceed 16 bits; save it with 8 or 16")
        image = Image.fromarray(np.round(grey / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it holds 32-bit floats; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode[-1:] in ("A", "a"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def why_unreadable(path: Path) -> str:
    """Why a file cannot be read; empty when it can."""
    try:
        read_image(path)
    except ContractError as error:
        return str(error).removeprefix(f"image {path} cannot be read: ")
    return ""
