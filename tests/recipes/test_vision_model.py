"""timm models at a given size, their transforms, and each refusal."""

from __future__ import annotations

import builtins
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from nbutils.config.sections import ModelSection
from nbutils.data.rng import seed_rng
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem
from nbutils.recipes.vision.extras import import_extra
from nbutils.recipes.vision.model import (
    check_pretrained,
    create_model,
    data_config,
    make_transform,
)


def settings(architecture="test_resnet", image_size=32, **others):
    return ModelSection(architecture=architecture, image_size=image_size, **others)


@pytest.mark.parametrize(
    ("architecture", "size"), [("test_resnet", 40), ("test_vit", 64)]
)
def test_create_model_any_accepted_size_has_one_output_per_class(architecture, size):
    model = create_model(settings(architecture, size, drop_rate=0.1), 7)
    assert model.training
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_create_model_without_size_takes_its_own():
    model = create_model(settings(image_size=None), 3)
    assert data_config(model, None)["input_size"] == (3, 160, 160)


def test_data_config_follows_the_size_not_the_default():
    model = create_model(settings("test_vit", 64), 3)
    assert data_config(model, 64)["input_size"] == (3, 64, 64)


def test_create_model_size_off_the_patch_grid_raises_and_names_sizes():
    with pytest.raises(ContractError, match=r"patches of 16 .* image_size=96 or 112"):
        create_model(settings("test_vit", 100), 3)


def test_create_model_refused_size_raises_and_names_sizes():
    with pytest.raises(
        ContractError, match=r"levit_128s refuses image_size 100: .* It takes 96, 128, "
    ):
        create_model(settings("levit_128s", 100), 3)


def test_create_model_without_architecture_raises():
    with pytest.raises(ConfigError, match="architecture is not set"):
        create_model(ModelSection(), 3)


def test_create_model_unknown_architecture_raises_with_nearest():
    with pytest.raises(ConfigError, match=r"'resnet1888', .* did you mean .*'resnet18"):
        create_model(settings("resnet1888"), 3)


def test_create_model_architecture_like_nothing_raises():
    with pytest.raises(ConfigError, match=r"timm.list_models\(\) lists all"):
        create_model(settings("§§§"), 3)


def test_create_model_unknown_tag_raises_and_lists_tags():
    with pytest.raises(
        ConfigError, match=r"no weights 'foo' of resnet18; use .*a1_in1k"
    ):
        create_model(settings("resnet18.foo"), 3)


def test_check_pretrained_offline_raises_at_once(monkeypatch, tmp_path):
    hub = import_extra("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(
        EnvironmentProblem, match=r"not in the cache .* no route>\. Set"
    ):
        check_pretrained("test_resnet")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match="HF_HUB_OFFLINE is set"):
        create_model(settings(pretrained=True), 3)


def test_check_pretrained_answering_hub_passes(monkeypatch):
    hub = import_extra("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def answer(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 405, "no HEAD", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    check_pretrained("test_resnet")


def test_check_pretrained_without_published_weights_raises():
    with pytest.raises(ConfigError, match="no weights are published for 'convnext"):
        check_pretrained("convnext_atto_rms")


def test_make_transform_fits_the_size_and_only_training_is_random():
    model = create_model(settings(), 3)
    inputs = data_config(model, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 36, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    train, val = (make_transform(inputs, training=flag) for flag in (True, False))
    assert train(image).shape == val(image).shape == (3, 32, 32)
    assert torch.equal(val(image), val(image))
    seed_rng(1)
    first, second = train(image), train(image)
    seed_rng(1)
    assert torch.equal(first, train(image))
    assert not torch.equal(first, second)


def test_make_transform_training_never_mirrors():
    model = create_model(settings(), 3)
    train = make_transform(data_config(model, 32), training=True)
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    image = Image.fromarray(pixels)
    for _ in range(40):
        tensor = train(image)
        assert tensor[0, :, :2].mean() >= tensor[0, :, -2:].mean()


def test_import_extra_missing_package_raises_with_pip_line():
    with pytest.raises(ModuleNotFoundError):
        import_extra("timm.nothing_of_this_name")
    with pytest.raises(EnvironmentProblem, match="pip install no_such_package"):
        import_extra("no_such_package")


def test_import_extra_mismatched_torchvision_raises_with_pip_line(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(
        "nbutils.recipes.vision.extras.import_module", lambda name: broken(name)
    )
    with pytest.raises(EnvironmentProblem, match=r"torchvision::nms.*pip install"):
        import_extra("timm")
