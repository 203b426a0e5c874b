"""Any image file is read the way a viewer shows it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nbutils.errors import ContractError
from nbutils.recipes.vision.images import read_image

ORIENTATION = 0x0112


def test_read_image_grey_becomes_rgb(tmp_path):
    Image.new("L", (5, 3), 90).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert image.getpixel((0, 0)) == (90, 90, 90)


def test_read_image_sixteen_bit_is_scaled_not_clipped(tmp_path):
    ramp = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        pixels = np.asarray(read_image(tmp_path / name))
        assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_read_image_transparent_lies_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (200, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (2, 2), (0, 128)).save(tmp_path / "la.png")
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.save(tmp_path / "palette.gif")
    palette.save(tmp_path / "palette_clear.png", transparency=1)
    Image.new("RGB", (2, 2), (1, 2, 3)).save(
        tmp_path / "key.png", transparency=(1, 2, 3)
    )
    expected = {
        "rgba.png": (255, 255, 255),
        "la.png": (127, 127, 127),
        "palette.gif": (50, 60, 70),
        "palette_clear.png": (255, 255, 255),
        "key.png": (255, 255, 255),
    }
    for name, colour in expected.items():
        assert read_image(tmp_path / name).getpixel((0, 0)) == colour, name


def test_read_image_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4), "black")
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (4, 6)


@pytest.mark.parametrize(
    ("mode", "name"), [("1", "a.png"), ("CMYK", "a.tif"), ("YCbCr", "a.jpg")]
)
def test_read_image_other_modes_become_rgb(tmp_path, mode, name):
    Image.new(mode, (4, 4)).save(tmp_path / name)
    assert read_image(tmp_path / name).mode == "RGB"


def test_read_image_floats_raise_with_advice(tmp_path):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ContractError, match="32-bit floats; save it with 8 or 16"):
        read_image(tmp_path / "a.tif")


def test_read_image_wide_integers_raise_with_advice(tmp_path):
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ContractError, match="exceed 16 bits"):
        read_image(tmp_path / "a.tif")
