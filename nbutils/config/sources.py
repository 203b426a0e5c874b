"""Layered sources: keyword > environment > saved file > preset > default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbutils.config import yaml_text
from nbutils.config.layers import Layer
from nbutils.config.leaves import LEAVES, nearest, parse_text
from nbutils.config.presets import preset_settings
from nbutils.config.run_config import RunConfig
from nbutils.errors import ConfigError

__all__ = ["PREFIX", "REHEARSAL", "REHEARSAL_STEPS", "rehearsed", "resolve", "variable"]

PREFIX = "NBUTILS_"
REHEARSAL = "NBUTILS_REHEARSAL"
"""Set while a notebook is rehearsed: the folder that all of its runs go to."""

REHEARSAL_STEPS = "NBUTILS_REHEARSAL_STEPS"
"""How many windows each run of a rehearsal has at most; stronger than any setting."""

OTHER_VARIABLES = {"HEADLESS", "PLATFORM", "REHEARSAL", "REHEARSAL_STEPS"}
"""Variables of the same prefix that are no settings."""

_NEAR_MISS = 0.8


def variable(leaf: str) -> str:
    """The environment variable of a leaf: ``NBUTILS_EPOCHS`` of ``epochs``."""
    return PREFIX + leaf.upper()


def resolve(
    preset: str | None = None,
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> RunConfig:
    """The config that all sources make together, each value with its origin.

    Args:
        preset: Name of a preset; the weakest source above the defaults.
        path: A saved config file.
        overrides: Flat or dotted settings; the strongest source.
        environ: Variables to read ``NBUTILS_<LEAF>`` from; none: this process's.

    Raises:
        ConfigError: Everything that is wrong in any of the sources.
    """
    layers: list[Layer] = []
    problems: list[str] = []
    if preset is not None:
        try:
            settings = preset_settings(preset)
            layers.append(Layer(settings=settings, origin=f"preset {preset}"))
        except ConfigError as error:
            problems += error.problems
    if path is not None:
        try:
            origin = f"file {Path(path).name}"
            layers.append(Layer(settings=yaml_text.read(path), origin=origin))
        except ConfigError as error:
            problems += error.problems
    environment, misses = _environment(os.environ if environ is None else environ)
    layers += [environment, Layer(settings=overrides or {})]
    return RunConfig.from_layers(layers, [*problems, *misses])


def rehearsed(config: RunConfig) -> RunConfig:
    """The config as it is; in a rehearsal a few windows of it, kept to this machine.

    A keyword in a cell must not outdo the cap, so this is applied to the finished
    config of a run, and never changes the config that the cells see.
    """
    if not os.environ.get(REHEARSAL):
        return config
    cap = int(os.environ.get(REHEARSAL_STEPS, "4"))
    steps = min(config.train.max_steps or cap, cap)
    warmup_steps = min(config.schedule.warmup_steps, steps - 1)
    return config.replace(
        max_steps=steps,
        warmup_steps=warmup_steps,
        max_hours=None,
        tracker="none",
        mirror=None,
    )


def _environment(environ: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """Settings in ``NBUTILS_<LEAF>`` variables, and variables that almost are."""
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    misses: list[str] = []
    for name, text in environ.items():
        rest = name.removeprefix(PREFIX)
        leaf = rest.lower()
        if not name.startswith(PREFIX) or rest in OTHER_VARIABLES:
            continue
        if leaf in LEAVES or leaf == "recipe":
            settings[leaf] = parse_text(leaf, text)
            origins[leaf] = f"environment {name}"
        elif close := nearest(leaf, _NEAR_MISS):
            misses.append(
                f"{name} is set in the environment but is not a setting; did you mean "
                f"{variable(close)}? Unset it otherwise."
            )
    return Layer(settings=settings, origin="environment", origins=origins), misses
