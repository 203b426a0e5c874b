from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbutils.config import RunConfig
from nbutils.errors import ConfigError, ContractError
from nbutils.recipes.beforehand import (
    has_outline,
    look,
    outline,
    seconds_to_read,
    weights_problem,
)
from nbutils.recipes.vision import data_look


def config_of(folder: Path | str | None, **settings) -> RunConfig:
    return RunConfig.preset("vision/quick", data_dir=folder, **settings)


def test_look_at_images_counts_classes_sizes_and_shows_samples(image_tree):
    found = look(config_of(image_tree))
    assert found.title == "24 images in 2 classes"
    assert found.class_counts == {"bright": 12, "dark": 12}
    assert found.split == {"training": 16, "validation": 4, "test": 4}
    facts = dict(found.facts)
    assert facts["images per class"] == "12 each"
    assert "14 × 9 to 14 × 20 pixels" in facts["sizes"]
    assert facts["unreadable"] == "none of 24 opened"
    assert len(found.thumbnails) == 12
    assert {t.label for t in found.thumbnails} == {"bright", "dark"}
    assert all(t.uri.startswith("data:image/jpeg;base64,") for t in found.thumbnails)
    assert sum(len(t.uri) for t in found.thumbnails) < 60_000
    assert found.remarks == []


def test_look_at_images_remarks_bad_files_uneven_and_empty_classes(image_tree):
    for number in range(12, 140):
        Image.new("L", (4, 4)).save(image_tree / "dark" / f"{number}.png")
    (image_tree / "bright" / "00.png").write_bytes(b"no image")
    (image_tree / "empty").mkdir()
    (image_tree / "dark" / "readme.txt").write_text("x", encoding="utf-8")
    found = look(config_of(image_tree))
    remarks = "\n".join(found.remarks)
    assert "No image in 'empty'" in remarks
    assert "uneven: 140 images of 'dark', 12 of 'bright'" in remarks
    assert "Unreadable: bright/00.png: cannot identify image file" in remarks
    assert dict(found.facts)["other files"] == "1, not used"


def test_look_at_many_files_stops_and_says_the_first(image_tree, monkeypatch):
    monkeypatch.setattr(data_look, "MAX_FILES", 5)
    found = look(config_of(image_tree))
    assert found.is_partial
    assert found.title == "the first 5 images in 1 class"
    assert "Only the first 5 images were counted" in found.remarks[0]


def test_look_few_images_of_a_class_are_remarked(image_tree):
    for path in sorted((image_tree / "dark").iterdir())[3:]:
        path.unlink()
    remarks = look(config_of(image_tree)).remarks
    assert "Fewer than 10 images in 'dark'" in remarks[0]


def test_look_max_samples_limits_the_split(image_tree):
    found = look(config_of(image_tree, max_samples=10))
    assert found.num_samples == 10
    assert sum(found.split.values()) == 10


def test_look_at_missing_folder_names_a_near_one(image_tree):
    with pytest.raises(ContractError, match="Did you mean"):
        look(config_of(image_tree.with_name("tre")))


def test_look_at_a_file_or_folder_without_images_is_refused(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"1")
    with pytest.raises(ContractError, match="is a file, not a folder"):
        look(config_of(file))
    for name in ("a", "b"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "t.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ContractError, match="holds no image files in its 2 folders"):
        look(config_of(tmp_path / "texts"))
    with pytest.raises(ConfigError, match="data_dir is not set"):
        look(config_of(None))


def test_look_at_digits_before_they_are_written_leaves_no_file():
    found = look(config_of("digits"))
    assert found.num_samples == 1797
    assert [t.label for t in found.thumbnails] == [str(n) for n in range(10)]
    assert not Path("data").exists()


def test_look_without_a_recipe_is_the_general_one(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    config = RunConfig(data_dir=str(tmp_path / "x.npy"))
    assert look(config).num_samples == 4
    with pytest.raises(ConfigError, match="name a file or a folder"):
        look(RunConfig())


def test_outline_makes_shapes_without_weights_or_data():
    config = config_of("nowhere", architecture="resnet18", image_size=64)
    assert has_outline(config)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    task = outline(config, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.is_meta for p in task.model.parameters())
    assert task.contract.specs["0"].dims == ("B", 3, 64, 64)
    assert task.model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 7)
    with pytest.raises(ContractError, match="an outline has no data"):
        task.train_data[0]


def test_outline_with_weights_is_the_same_network():
    config = config_of("nowhere")
    real, meta = outline(config, 3, "cpu"), outline(config, 3)
    shapes = [[p.shape for p in t.model.parameters()] for t in (real, meta)]
    assert shapes[0] == shapes[1]
    assert not any(p.is_meta for p in real.model.parameters())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"architecture": "resnet_50"}, "did you mean 'resnet50'"),
        ({"architecture": None}, "architecture is not set"),
        (
            {"architecture": "vit_tiny_patch16_224", "image_size": 33},
            "set image_size=32 or 48",
        ),
    ],
)
def test_outline_that_cannot_be_says_what_to_set(settings, sentence):
    with pytest.raises((ConfigError, ContractError), match=sentence):
        outline(config_of("nowhere", **settings), 3)


def test_outline_of_an_image_size_that_the_network_refuses_names_others():
    config = config_of("nowhere", architecture="levit_128s", image_size=37)
    with pytest.raises(ContractError, match=r"refuses image_size 37.*It takes"):
        outline(config, 3)


def test_outline_without_a_recipe_is_refused():
    assert not has_outline(RunConfig())
    with pytest.raises(ConfigError, match="no recipe is set"):
        outline(RunConfig(), 3)


def test_weights_problem_is_the_recipes_own_sentence(monkeypatch):
    def refuse(architecture: str) -> None:
        raise ConfigError([f"{architecture} has no weights."])

    assert weights_problem(config_of("x")) == ""
    monkeypatch.setattr("nbutils.recipes.vision.model.check_pretrained", refuse)
    config = config_of("x", pretrained=True)
    assert weights_problem(config) == "test_resnet has no weights."
    monkeypatch.setattr(
        "nbutils.recipes.vision.model.check_pretrained", lambda architecture: None
    )
    assert weights_problem(config) == ""
    assert weights_problem(RunConfig(pretrained=True)) == ""


def test_seconds_to_read_times_the_users_own_images(image_tree):
    config = config_of(image_tree)
    (image_tree / "bright" / "00.png").write_bytes(b"no image")
    seconds = seconds_to_read(config, outline(config, 2))
    assert 0 < seconds < 1
    assert seconds_to_read(config_of("nowhere"), outline(config, 2)) is None
    assert seconds_to_read(RunConfig(), None) is None
