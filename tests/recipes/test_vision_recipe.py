"""The vision recipe from a folder to a task that learns, and its bad inputs."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from nbutils.config import RunConfig
from nbutils.data.loaders import make_loader
from nbutils.errors import ConfigError, ContractError
from nbutils.recipes import build_task
from nbutils.recipes.vision.loss import check_labels


@pytest.fixture
def config(image_tree):
    return RunConfig(
        recipe="vision",
        data_dir=str(image_tree),
        architecture="test_resnet",
        image_size=32,
        batch_size=8,
        label_smoothing=0.1,
    )


def test_build_own_folder_gives_a_task_that_fits_its_contract(config):
    task = build_task(config)
    sizes = [len(task.dataset(split)) for split in ("train", "val", "test")]
    assert sizes == [18, 3, 3] or sum(sizes) == 24
    batch = next(iter(make_loader(task, "train", config)))
    assert batch[0].shape == (8, 3, 32, 32)
    assert task.contract.check(batch) == []
    outputs = task.forward(task.model, batch)
    loss = task.total(task.loss_terms(outputs, batch))
    assert loss.item() == pytest.approx(math.log(2), abs=0.7)
    assert task.extras["class_names"] == ("bright", "dark")
    assert task.config is config
    assert task.name == "vision"


def test_build_same_seed_gives_same_model_and_split(config):
    torch.manual_seed(1)
    first = build_task(config)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = build_task(config)
    assert torch.equal(state, torch.get_rng_state())
    for one, two in zip(
        first.model.parameters(), again.model.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    assert first.train_data.paths == again.train_data.paths
    other = build_task(config.replace(seed=1))
    assert first.train_data.paths != other.train_data.paths


def test_build_parts_share_no_file_and_no_transform(config):
    task = build_task(config)
    parts = [task.train_data, task.val_data, task.test_data]
    paths = [path for part in parts for path in part.paths]
    assert len(set(paths)) == len(paths) == 24
    assert len({id(part.transform) for part in parts}) == 3
    assert torch.equal(task.val_data[0][0], task.val_data[0][0])


def test_build_without_test_share_has_no_test_data(config):
    task = build_task(config.replace(test_fraction=0.0))
    assert task.test_data is None


def test_build_max_samples_keeps_every_class(config):
    task = build_task(config.replace(max_samples=12))
    parts = [task.train_data, task.val_data, task.test_data]
    assert sum(map(len, parts)) == 12
    assert all(set(part.labels) == {0, 1} for part in parts)


def test_build_class_too_small_for_the_splits_raises_and_names_it(config, image_tree):
    (image_tree / "yeti").mkdir()
    Image.new("L", (9, 9)).save(image_tree / "yeti" / "a.png")
    with pytest.raises(
        ContractError, match=r"too few samples for 3 splits: 'yeti' \(1\)"
    ):
        build_task(config)


def test_build_bad_file_within_budget_warns_and_lists_it(config, image_tree):
    (image_tree / "dark" / "03.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 of 24 image files .*dark/03.png"):
        task = build_task(config.replace(max_bad_fraction=0.1))
    assert task.extras["bad_files"] == [("dark/03.png", "the file is empty")]


def test_build_without_data_dir_raises():
    with pytest.raises(ConfigError, match=r"data_dir is not set; .* 'digits'"):
        build_task(RunConfig(recipe="vision", architecture="test_resnet"))


def test_build_quick_preset_writes_the_digits_and_has_ten_classes(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    task = build_task(RunConfig.preset("vision/quick", max_samples=120))
    assert (tmp_path / "data" / "digits" / "9").is_dir()
    assert task.extras["class_names"] == tuple("0123456789")
    assert set(task.test_data.labels) == set(range(10))


def test_dataset_file_that_vanished_raises_and_names_it(config, image_tree):
    task = build_task(config)
    path = task.train_data.paths[0]
    path.unlink()
    with pytest.raises(ContractError, match=f"{path.name} cannot be read"):
        task.train_data[0]


def test_check_labels_outside_the_head_raises_and_counts_them():
    check_labels([0, 1, 2], 3)
    with pytest.raises(ContractError, match=r"head of 3 outputs: -1 \(1 .*, 3 \(2 "):
        check_labels([0, 3, 3, -1], 3)
