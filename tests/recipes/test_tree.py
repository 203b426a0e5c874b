"""Class folders: what is listed, left out, remembered, and refused."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from nbutils.errors import ContractError
from nbutils.recipes.vision import verified
from nbutils.recipes.vision.tree import scan


def test_scan_healthy_tree_lists_files_by_class(image_tree):
    (image_tree / ".hidden").mkdir()
    (image_tree / "dark" / ".00.png").write_bytes(b"half a download")
    (image_tree / "dark" / "notes.txt").write_text("not an image")
    (image_tree / "dark" / "more").mkdir()
    Image.new("RGB", (3, 3)).save(image_tree / "dark" / "more" / "x.BMP")
    tree = scan(image_tree, max_bad_fraction=0.0)
    assert tree.class_names == ("bright", "dark")
    assert tree.labels == (0,) * 12 + (1,) * 13
    assert (tree.bad_files, tree.num_other) == ((), 1)


def test_scan_bad_files_within_budget_are_left_out_and_named(image_tree):
    whole = (image_tree / "dark" / "00.png").read_bytes()
    (image_tree / "dark" / "00.png").write_bytes(whole[: len(whole) // 2])
    (image_tree / "bright" / "03.png").write_bytes(b"")
    tree = scan(image_tree, max_bad_fraction=0.1)
    assert [bad.path for bad in tree.bad_files] == ["bright/03.png", "dark/00.png"]
    assert tree.bad_files[0].reason == "the file is empty"
    assert len(tree.paths) == len(tree.labels) == 22
    assert "dark/00.png" not in tree.paths


def test_scan_bad_files_over_budget_raise_with_ten_names_and_count(image_tree):
    for path in sorted((image_tree / "dark").iterdir())[:11]:
        path.write_bytes(b"no image")
    with pytest.raises(ContractError) as caught:
        scan(image_tree, max_bad_fraction=0.1)
    text = str(caught.value)
    assert "11 of 24 image files" in text
    assert "max_bad_fraction 0.1 tolerates 2" in text
    assert text.count("  - dark/") == 10
    assert "… and 1 more" in text


def test_scan_class_of_only_bad_files_raises_and_names_it(image_tree):
    (image_tree / "torn").mkdir()
    (image_tree / "torn" / "a.png").write_bytes(b"")
    with pytest.raises(
        ContractError, match=r"hold no readable image: 'torn'.*\n.*a.png"
    ):
        scan(image_tree, max_bad_fraction=0.5)


def test_scan_class_folder_without_image_raises_and_names_it(image_tree):
    (image_tree / "void").mkdir()
    with pytest.raises(
        ContractError, match=r"1 of 3 class folders .* no image: 'void'"
    ):
        scan(image_tree, max_bad_fraction=0.0)


def test_scan_missing_folder_raises(tmp_path):
    missing = re.escape(repr(str(tmp_path / "nowhere")))
    with pytest.raises(ContractError, match=f"{missing} does not exist .*'digits'"):
        scan(tmp_path / "nowhere", 0.0)


def test_scan_file_instead_of_folder_raises(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"zip")
    with pytest.raises(ContractError, match="is a file, not a folder"):
        scan(tmp_path / "x.zip", 0.0)


def test_scan_empty_folder_raises(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"")
    with pytest.raises(ContractError, match=r"is empty\. Put one sub-folder"):
        scan(tmp_path, 0.0)


def test_scan_images_without_class_folders_raises(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(ContractError, match="holds 1 files but no class folders"):
        scan(tmp_path, 0.0)


def test_scan_no_images_in_folders_raises(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.md").write_text("soon")
    with pytest.raises(
        ContractError, match=r"no image files in its 2 folders \(2 other"
    ):
        scan(tmp_path, 0.0)


def test_scan_one_class_only_raises(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "cats" / "a.png")
    with pytest.raises(ContractError, match=r"one class only, 'cats'\. Add a second"):
        scan(tmp_path, 0.0)


def test_scan_folder_one_level_too_high_says_which_is_meant(image_tree):
    with pytest.raises(ContractError, match=r"one class only.*Did you mean.*tree"):
        scan(image_tree.parent, 0.0)


def test_scan_folders_named_like_splits_raise(image_tree):
    (image_tree / "bright").rename(image_tree / "train")
    (image_tree / "dark").rename(image_tree / "val")
    with pytest.raises(ContractError, match="split into train, val, which are not"):
        scan(image_tree, 0.0)


@pytest.fixture
def remembering(monkeypatch, tmp_path):
    """The record of decoded files, kept for trees of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "_REMEMBER_FROM", 1)
    decoded: list[str] = []
    real = verified.why_unreadable

    def counting(path):
        decoded.append(path.name)
        return real(path)

    monkeypatch.setattr(verified, "why_unreadable", counting)
    return decoded


def test_scan_large_tree_decodes_only_what_changed(remembering, image_tree):
    first = scan(image_tree, 0.1)
    assert len(remembering) == 24
    assert scan(image_tree, 0.1) == first
    assert len(remembering) == 24
    (image_tree / "dark" / "00.png").write_bytes(b"torn")
    (image_tree / "dark" / "01.png").unlink()
    (image_tree / "dark" / "01.png").symlink_to(image_tree / "gone.png")
    tree = scan(image_tree, 0.1)
    assert sorted(remembering[24:]) == ["00.png", "01.png"]
    assert [bad.path for bad in tree.bad_files] == ["dark/00.png", "dark/01.png"]
    assert scan(image_tree, 0.1) == tree


def test_scan_torn_record_is_made_anew(remembering, image_tree, tmp_path):
    scan(image_tree, 0.0)
    (record,) = (tmp_path / "cache").rglob("*.json")
    whole = record.read_bytes()
    record.write_bytes(whole[:50])
    scan(image_tree, 0.0)
    assert len(remembering) == 48
    assert record.read_bytes() == whole


def test_scan_without_place_for_the_record_says_so(
    remembering, image_tree, tmp_path, capsys
):
    (tmp_path / "cache").write_text("in the way")
    assert len(scan(image_tree, 0.0).paths) == 24
    assert "is not remembered" in capsys.readouterr().out
