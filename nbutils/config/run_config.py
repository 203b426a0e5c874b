"""``RunConfig``: everything a run needs, judged once, each value with its origin."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from nbutils.config import sections as parts
from nbutils.config import view, yaml_text
from nbutils.config.checks import check
from nbutils.config.layers import Layer, merge
from nbutils.config.leaves import DEFAULTS, LEAVES, TOP, leaf_of, unknown_key
from nbutils.config.presets import preset_settings
from nbutils.errors import ConfigError

__all__ = ["RunConfig"]

WITHOUT_EFFECT = {"checkpoint", "tracking", "preflight", "display"}
"""Sections that leave the trained weights as they are, and so the hash."""


class RunConfig(BaseModel):
    """What a run needs; immutable, and every problem is reported at once.

    Takes sections, flat leaves and dotted keys alike. The names ``precision``,
    ``preflight`` and ``schedule`` mean the leaf unless the value is a mapping.

    Raises:
        ConfigError: Unknown keys, values out of bounds, rules broken; all of them.

    Example:
        >>> RunConfig(epochs=3, data={"batch_size": 8})
        RunConfig(batch_size=8, epochs=3)
        >>> RunConfig(**{"train.epochs": 3}).train.epochs
        3
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    recipe: str | None = None
    schema_version: int = 1
    data: parts.DataSection = Field(default_factory=parts.DataSection)
    model: parts.ModelSection = Field(default_factory=parts.ModelSection)
    loss: parts.LossSection = Field(default_factory=parts.LossSection)
    optim: parts.OptimSection = Field(default_factory=parts.OptimSection)
    schedule: parts.ScheduleSection = Field(default_factory=parts.ScheduleSection)
    precision: parts.PrecisionSection = Field(default_factory=parts.PrecisionSection)
    train: parts.TrainSection = Field(default_factory=parts.TrainSection)
    guard: parts.GuardSection = Field(default_factory=parts.GuardSection)
    checkpoint: parts.CheckpointSection = Field(default_factory=parts.CheckpointSection)
    tracking: parts.TrackingSection = Field(default_factory=parts.TrackingSection)
    preflight: parts.PreflightSection = Field(default_factory=parts.PreflightSection)
    display: parts.DisplaySection = Field(default_factory=parts.DisplaySection)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **settings: Any) -> None:
        merged = merge([Layer(settings=settings)])
        fields, problems = check(merged.flat, merged.origins)
        if problems := merged.problems + problems:
            raise ConfigError(problems)
        super().__init__(**fields)
        self._origins = merged.origins

    @classmethod
    def from_layers(
        cls, layers: Iterable[Layer], problems: Iterable[str] = ()
    ) -> RunConfig:
        """The config of several sources; the later one wins.

        Args:
            layers: Settings, weakest source first.
            problems: Sentences of sources that could not be read; they are raised
                together with what is wrong in the layers.
        """
        merged = merge(layers)
        fields, wrong = check(merged.flat, merged.origins)
        if wrong := [*problems, *merged.problems, *wrong]:
            raise ConfigError(wrong)
        config = cls(**fields)
        config._origins = merged.origins
        return config

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> RunConfig:
        """A named starting point with changes; does not read the environment.

        Raises:
            ConfigError: No such preset, or an override that cannot be used.
        """
        start = Layer(settings=preset_settings(name), origin=f"preset {name}")
        return cls.from_layers([start, Layer(settings=overrides)])

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """The config saved in a YAML file.

        Raises:
            ConfigError: The file cannot be read, or a setting in it not be used.
        """
        origin = f"file {Path(path).name}"
        return cls.from_layers([Layer(settings=yaml_text.read(path), origin=origin)])

    def save(self, path: str | Path) -> Path:
        """Write all settings as YAML; readers see the old file or the whole new one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml_text.dump(self._values(), self._origins)
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(unfinished).chmod(0o644)
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return path

    def replace(self, **changes: Any) -> RunConfig:
        """A new config with some settings changed, by flat or dotted name."""
        kept = {leaf: self._values()[leaf] for leaf in self._origins}
        base = Layer(settings=kept, origins=self._origins)
        return type(self).from_layers([base, Layer(settings=changes)])

    @property
    def hash(self) -> str:
        """16 hex digits over all that affects the result.

        That is the recipe and every section but ``checkpoint``, ``tracking``,
        ``preflight`` and ``display``: where a run is stored, how often it is saved
        and how it is watched leave the weights as they are.
        """
        values = {
            name: value
            for name, value in self._values().items()
            if LEAVES.get(name) not in WITHOUT_EFFECT and name != "schema_version"
        }
        return hashlib.sha256(_canonical(values).encode()).hexdigest()[:16]

    def origin(self, key: str) -> str:
        """Where a value came from, such as ``"default"`` or ``"preset vision/quick"``.

        Raises:
            ConfigError: ``key`` is not a setting.
        """
        leaf = leaf_of(key)
        if leaf is None:
            raise ConfigError([unknown_key(key)])
        return self._origins.get(leaf, "default")

    def leaves(self) -> dict[str, Any]:
        """The value of every leaf, by flat name."""
        return {
            leaf: getattr(getattr(self, section), leaf)
            for leaf, section in LEAVES.items()
        }

    def changes(self) -> dict[str, tuple[Any, str]]:
        """Every value that is no default, ``recipe`` included, with its origin."""
        return {
            leaf: (value, self.origin(leaf))
            for leaf, value in self._values().items()
            if value != DEFAULTS[leaf]
        }

    def explain(self) -> str:
        """A table of every non-default value and where it came from."""
        return view.text_table(self.changes())

    def _repr_html_(self) -> str:
        return view.html_table(self.changes(), f"RunConfig {self.hash}")

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TOP} | self.leaves()

    def __repr__(self) -> str:
        given = (f"{leaf}={value!r}" for leaf, (value, _) in self.changes().items())
        return f"RunConfig({', '.join(given)})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunConfig):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(_canonical(self._values()))


def _canonical(values: dict[str, Any]) -> str:
    """One text for equal values, the same in every process."""
    return json.dumps(values, sort_keys=True, ensure_ascii=True)
