"""The built-in digits: whole files, once, completed after an interruption."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from nbutils.errors import EnvironmentProblem
from nbutils.recipes.vision import digits
from nbutils.recipes.vision.tree import list_tree


def test_write_digits_partial_earlier_write_is_completed(tmp_path):
    folder = tmp_path / "digits"
    assert digits.write_digits(folder) == digits.NUM_DIGITS
    removed = sorted(folder.rglob("*.png"))[10:1000:99]
    kept = sorted(folder.rglob("*.png"))[0]
    before = kept.stat().st_mtime_ns
    for path in removed:
        path.unlink()
    assert digits.write_digits(folder) == len(removed)
    assert digits.write_digits(folder) == 0
    assert kept.stat().st_mtime_ns == before
    names, files, num_other = list_tree(folder)
    assert names == tuple("0123456789")
    assert (len(files), num_other) == (digits.NUM_DIGITS, 0)
    assert not list(folder.rglob(".*"))


def test_write_digits_file_holds_the_digit_of_its_folder(tmp_path):
    digits.write_digits(tmp_path)
    source = load_digits()
    for number in (0, 700, 1796):
        path = tmp_path / str(source.target[number]) / f"{number:04d}.png"
        pixels = np.asarray(Image.open(path))
        assert np.abs(pixels / 255 * 16 - source.images[number]).max() < 0.04


def test_write_digits_unwritable_place_raises(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="digits cannot be written to"):
        digits.write_digits(blocker / "digits")
