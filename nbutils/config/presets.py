"""Named starting points, ``<recipe>/<size>``: plain leaf values, nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from nbutils.errors import ConfigError

__all__ = ["PRESETS", "preset_settings", "presets"]

_VISION_QUICK: dict[str, Any] = {
    "recipe": "vision",
    "data_dir": "digits",
    "batch_size": 64,
    "architecture": "test_resnet",
    "image_size": 32,
    "label_smoothing": 0.1,
    "lr": 3e-3,
    "schedule": "onecycle",
    "epochs": 15,
    "monitor": "val_accuracy",
    "mode": "max",
    "run_name": "vision-quick",
}

PRESETS: dict[str, dict[str, Any]] = {
    # Digits from scratch on two CPU cores, in minutes.
    "vision/quick": _VISION_QUICK,
    # The same path in seconds, for tests and for a first look.
    "vision/smoke": _VISION_QUICK
    | {"max_samples": 120, "epochs": 1, "max_steps": 2, "run_name": "vision-smoke"},
    # One's own folder of photographs, on one GPU, from published weights.
    "vision/folder": {
        "recipe": "vision",
        "data_dir": "data/images",
        "batch_size": 64,
        "num_workers": 4,
        "architecture": "resnet50.a1_in1k",
        "pretrained": True,
        "label_smoothing": 0.1,
        "lr": 3e-4,
        "weight_decay": 0.05,
        "schedule": "onecycle",
        "epochs": 20,
        "patience": 5,
        "monitor": "val_accuracy",
        "mode": "max",
        "run_name": "vision-folder",
    },
    # EVA-02 base, 86 M parameters at 224 pixels: effective batch 64, one GPU.
    "vision/eva02-base": {
        "recipe": "vision",
        "data_dir": "data/images",
        "batch_size": 32,
        "accumulation": 2,
        "num_workers": 4,
        "architecture": "eva02_base_patch14_224.mim_in22k",
        "pretrained": True,
        "gradient_checkpointing": True,
        "label_smoothing": 0.1,
        "lr": 5e-5,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 500,
        "min_lr": 1e-6,
        "epochs": 20,
        "patience": 5,
        "monitor": "val_accuracy",
        "mode": "max",
        "save_every_minutes": 20.0,
        "run_name": "vision-eva02-base",
    },
}


def presets() -> list[str]:
    """The names of all presets.

    Example:
        >>> "vision/quick" in presets()
        True
    """
    return sorted(PRESETS)


def preset_settings(name: str) -> Mapping[str, Any]:
    """The leaf values of a preset.

    Raises:
        ConfigError: No preset has this name.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(str(name), PRESETS, 3, 0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(
        [f"{name!r} is not a preset; {meant}The presets are {', '.join(presets())}."]
    )
