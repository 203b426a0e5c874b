"""From a configuration to a task: images in class folders, a timm classifier."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nbutils.config import RunConfig
from nbutils.data.rng import preserved_rng, seed_rng
from nbutils.data.splits import stratified_split, stratified_subset
from nbutils.data.task import Task
from nbutils.errors import ConfigError
from nbutils.recipes.vision import digits
from nbutils.recipes.vision.dataset import ImageFolderDataset
from nbutils.recipes.vision.extras import import_extra
from nbutils.recipes.vision.loss import check_labels, make_loss
from nbutils.recipes.vision.model import create_model, data_config, make_transform
from nbutils.recipes.vision.tree import ImageTree, scan

__all__ = ["build"]


def build(config: RunConfig) -> Task:
    """An image classifier: data split and checked, model made from the seed.

    Every file is decoded once, so that a broken one is known before training.

    Raises:
        ConfigError: ``data_dir`` or the architecture is not set or not known.
        ContractError: The folder or the image size cannot be used.
        EnvironmentProblem: A package or published weights are missing.
    """
    tree = scan(_folder(config), config.data.max_bad_fraction)
    _tell_bad_files(tree)
    parts = _split(tree, config)
    num_classes = len(tree.class_names)
    check_labels(tree.labels, num_classes)
    with preserved_rng():
        seed_rng(config.train.seed)
        model = create_model(config.model, num_classes)
    inputs = data_config(model, config.model.image_size)
    # One transform object per part: training's randomness must not reach the others.
    datasets = [
        ImageFolderDataset(
            tree, part.tolist(), make_transform(inputs, training=number == 0)
        )
        for number, part in enumerate(parts)
    ]
    return Task(
        model=model,
        loss=make_loss(config.loss.label_smoothing),
        train_data=datasets[0],
        val_data=datasets[1],
        test_data=datasets[2] if len(datasets) > 2 else None,
        metrics={"accuracy": _accuracy(num_classes)},
        contract=_contract(inputs["input_size"]),
        baselines={"uniform": math.log(num_classes)},
        name="vision",
        config=config,
        extras={
            "class_names": tree.class_names,
            "data_config": inputs,
            "bad_files": [(bad.path, bad.reason) for bad in tree.bad_files],
        },
    )


def _contract(input_size: tuple[int, int, int]) -> dict[str, str]:
    """What a batch is: images of the model's size, and a class for each."""
    channels, height, width = input_size
    return {"0": f"float32 (B, {channels}, {height}, {width})", "1": "int64 (B,)"}


def _folder(config: RunConfig) -> Path:
    """The user's own folder, or the built-in digits, written when they are missing."""
    name = config.data.data_dir
    if name is None:
        raise ConfigError(
            [
                "data_dir is not set; name a folder with one sub-folder of images per "
                f"class, or {digits.BUILTIN_NAME!r} for the built-in digits."
            ]
        )
    if name != digits.BUILTIN_NAME:
        return Path(name).expanduser()
    digits.write_digits(digits.builtin_folder())
    return digits.builtin_folder()


def _split(tree: ImageTree, config: RunConfig) -> list[npt.NDArray[np.int64]]:
    """Indices for training, validation and, unless its share is 0, test."""
    labels = np.asarray(tree.labels)
    seed = config.train.seed
    chosen = np.arange(len(labels))
    if config.data.max_samples is not None:
        chosen = stratified_subset(labels, config.data.max_samples, seed)
    held_out = [config.data.val_fraction, config.data.test_fraction]
    fractions = [1 - sum(held_out), *(share for share in held_out if share)]
    # Named classes, so that the error for a small one says which it is.
    names = np.asarray(tree.class_names)[labels[chosen]]
    return [chosen[part] for part in stratified_split(names, fractions, seed)]


def _accuracy(num_classes: int) -> object:
    """Share of images whose highest output is the label's."""
    classification = import_extra("torchmetrics.classification")
    return classification.MulticlassAccuracy(num_classes=num_classes, average="micro")


def _tell_bad_files(tree: ImageTree) -> None:
    """Files within the budget are left out, but never silently."""
    if not tree.bad_files:
        return
    names = "; ".join(f"{bad.path} ({bad.reason})" for bad in tree.bad_files[:10])
    more = len(tree.bad_files) - 10
    warnings.warn(
        f"{len(tree.bad_files)} of {len(tree.bad_files) + len(tree.paths)} image files "
        f"cannot be read and are left out: {names}"
        f"{f'; … and {more} more' if more > 0 else ''}",
        stacklevel=4,
    )
