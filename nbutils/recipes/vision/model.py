"""timm's models and transforms, at the image size that the configuration names."""

from __future__ import annotations

import difflib
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from nbutils.config.sections import ModelSection
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem
from nbutils.recipes.vision.extras import import_extra

__all__ = ["check_pretrained", "create_model", "data_config", "make_transform"]

_GRID = 32  # most networks halve the image five times
_CHECK_TIMEOUT_S = 5.0
_TRAIN_AUGMENTATION: dict[str, Any] = {
    # Small crops and stretches keep the class of digits, letters and signs;
    # a mirror image would not, and colour is often what tells classes apart.
    "scale": (0.65, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "hflip": 0.0,
    "vflip": 0.0,
    "color_jitter": None,
    "auto_augment": None,
}


def create_model(settings: ModelSection, num_classes: int) -> nn.Module:
    """A timm model with one output per class, proven to take its image size.

    Raises:
        ConfigError: The architecture is not set or unknown to timm.
        ContractError: The model refuses the image size.
        EnvironmentProblem: timm is missing, or weights cannot be fetched.
    """
    timm = import_extra("timm")
    published = _published_config(settings.architecture)
    size = settings.image_size or published.input_size[-1]
    _check_patches(settings.architecture, size)
    if settings.pretrained:
        check_pretrained(str(settings.architecture))
    try:
        model = timm.create_model(
            settings.architecture,
            pretrained=settings.pretrained,
            num_classes=num_classes,
            **_size_arguments(published, size),
            **({"drop_rate": settings.drop_rate} if settings.drop_rate else {}),
        )
        _forward_once(model, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        sizes = _accepted_sizes(str(settings.architecture), size)
        if size in sizes:
            raise
        raise ContractError(
            f"{settings.architecture} refuses image_size {size}: {error}. "
            f"It takes {_or(sizes)}. Set image_size to one of them."
        ) from error
    return model


def data_config(model: nn.Module, image_size: int | None) -> dict[str, Any]:
    """What timm says the model was made for: size, mean, std, interpolation, crop."""
    data = import_extra("timm.data")
    native = data.resolve_data_config({}, model=model)
    if image_size is None:
        return native
    channels = native["input_size"][0]
    return data.resolve_data_config(
        {"input_size": (channels, image_size, image_size)}, model=model
    )


def make_transform(
    config: dict[str, Any], *, training: bool
) -> Callable[[Image.Image], Tensor]:
    """RGB image to normalised float tensor; random only for training."""
    create_transform = import_extra("timm.data").create_transform
    if training:
        return create_transform(**config, is_training=True, **_TRAIN_AUGMENTATION)
    return create_transform(**config, is_training=False)


def check_pretrained(architecture: str) -> None:
    """Published weights exist and are in the cache or can be fetched.

    timm itself tries for about a minute before it says that it is offline.

    Raises:
        ConfigError: Nobody published weights for this architecture.
        EnvironmentProblem: They are not in the cache and the hub is out of reach.
    """
    published = _published_config(architecture)
    if not (published.hf_hub_id or published.url):
        raise ConfigError(
            [
                f"pretrained is True, but no weights are published for "
                f"{architecture!r}; set pretrained=False or choose another model."
            ]
        )
    hub = import_extra("huggingface_hub")
    files = ("model.safetensors", "pytorch_model.bin")
    cached = (hub.try_to_load_from_cache(published.hf_hub_id, f) for f in files)
    if published.hf_hub_id and any(isinstance(path, str) for path in cached):
        return
    reason = _unreachable(hub.constants)
    if reason:
        raise EnvironmentProblem(
            f"pretrained weights of {architecture} are not in the cache "
            f"({hub.constants.HF_HUB_CACHE}) and {hub.constants.ENDPOINT} cannot be "
            f"reached: {reason}. Set pretrained=False, or connect this machine once."
        )


def _unreachable(constants: Any) -> str:
    """Why the hub cannot be asked; empty when it answers."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    # The address is the hub's own, or the mirror that the user set as HF_ENDPOINT.
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=_CHECK_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return ""  # any answer at all proves the way is open
    except OSError as error:
        return str(error)
    return ""


def _published_config(architecture: str | None) -> Any:
    """What timm records of an architecture: sizes, statistics, where weights are."""
    timm = import_extra("timm")
    if architecture is None:
        raise ConfigError(
            ["architecture is not set; name a timm model, for example 'resnet18'."]
        )
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {_or(near)}?" if near else "timm.list_models() lists all."
        raise ConfigError(
            [f"architecture is {architecture!r}, which timm does not know; {hint}"]
        )
    if tag and architecture not in (tags := timm.list_pretrained(name)):
        raise ConfigError(
            [
                f"architecture is {architecture!r}, but timm has no weights {tag!r} of "
                f"{name}; use {_or([*tags, name])}."
            ]
        )
    return timm.get_pretrained_cfg(architecture)


def _size_arguments(published: Any, size: int) -> dict[str, int]:
    """Models of one fixed size are built for ours; the others take any."""
    return {"img_size": size} if published.fixed_input_size else {}


def _forward_once(model: nn.Module, size: int, device: str = "cpu") -> None:
    """Pass one blank image through; the model's mode stays as it was."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size, device=device))
    model.train(was_training)


def _check_patches(architecture: str | None, size: int) -> None:
    """A size that is no multiple of the patch loses pixels, silently."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = import_extra("timm").create_model(architecture, num_classes=2)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    edge = patch[0] if isinstance(patch, tuple) else patch
    if not size % edge:
        return
    near = [n for n in (size // edge * edge, (size // edge + 1) * edge) if n]
    raise ContractError(
        f"image_size is {size}, but {architecture} reads the image in patches of "
        f"{edge} pixels, so the edge would be lost; set image_size={_or(near)}."
    )


def _accepted_sizes(architecture: str, size: int) -> list[int]:
    """Sizes near the wanted one, and the model's own, that the model takes."""
    native = _published_config(architecture).input_size[-1]
    below = size // _GRID * _GRID
    tried = sorted({size, below, below + _GRID, below + 2 * _GRID, native} - {0})
    return [edge for edge in tried if _takes(architecture, edge)]


def _takes(architecture: str, size: int) -> bool:
    """Whether the model runs at this size, tried without memory for its weights."""
    arguments = _size_arguments(_published_config(architecture), size)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = import_extra("timm").create_model(architecture, **arguments)
            _forward_once(model, size, "meta")
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _or(names: list[Any]) -> str:
    """``a, b or c``."""
    texts = [repr(name) for name in names]
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
