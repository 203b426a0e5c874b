"""What the wizard's buttons find out, shared between pages; no widget in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from nbutils.config import RunConfig, presets
from nbutils.data.looks import DataLook
from nbutils.errors import ConfigError, ContractError, NbutilsError
from nbutils.preflight.estimates import (
    Feasibility,
    Pace,
    RunEstimate,
    bound_pace,
    check_model,
    estimate_run,
    measure_pace,
)
from nbutils.recipes.beforehand import look, outline, seconds_to_read

__all__ = ["ASSUMED_CLASSES", "Findings", "PresetRow"]

ASSUMED_CLASSES = 10
"""Outputs of the head while the data is not there to be counted."""

DATA = ("data_dir", "max_samples", "val_fraction", "test_fraction", "image_size")
"""Leaves that a look at the data depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetRow:
    """One preset on this machine: what was found, or why nothing was."""

    name: str
    config: RunConfig
    feasibility: Feasibility | None = None
    estimate: RunEstimate | None = None
    problem: str = ""


class Findings:
    """Looks, checks and paces; the last of each kind is kept."""

    def __init__(self) -> None:
        self.price: float | None = None
        self._look: tuple[object, DataLook] | None = None
        self._paces: dict[object, Pace] = {}

    def look(self, config: RunConfig) -> DataLook:
        """A look at the data, taken anew."""
        found = look(config)
        self._look = (_key(config, DATA), found)
        return found

    def known_look(self, config: RunConfig) -> DataLook | None:
        """The last look if it is about these settings; else a new one, or none."""
        if self._look is not None and self._look[0] == _key(config, DATA):
            return self._look[1]
        try:
            return self.look(config)
        except (ConfigError, ContractError):
            return None

    def num_classes(self, config: RunConfig) -> tuple[int, bool]:
        """Outputs of the head, and whether the number is only assumed."""
        seen = self.known_look(config)
        count = len(seen.class_counts) if seen is not None else 0
        return (count, False) if count else (ASSUMED_CLASSES, True)

    def check(self, config: RunConfig) -> tuple[Feasibility, int, bool]:
        """Whether the model fits, with the classes that it was made for."""
        count, is_assumed = self.num_classes(config)
        return check_model(outline(config, count), config), count, is_assumed

    def estimate(self, config: RunConfig, *, measure: bool) -> RunEstimate:
        """How long the run takes and costs: measured now or before, else a bound."""
        seen = self.known_look(config)
        pace = self._pace(config, measure=measure)
        split = seen.split if seen is not None else {}
        num_train = split.get("training") if split else None
        if seen is not None and not split and seen.num_samples is not None:
            held_out = config.data.val_fraction + config.data.test_fraction
            num_train = round(seen.num_samples * (1 - held_out))
        num_val = split.get("validation", 0)
        return estimate_run(config, pace, num_train, num_val, self.price)

    def compare(self) -> Iterator[PresetRow]:
        """Every preset on this machine, one after the other."""
        return (self._row(name) for name in presets())

    def _row(self, name: str) -> PresetRow:
        row = PresetRow(name=name, config=RunConfig.preset(name))
        try:
            found, _, _ = self.check(row.config)
            estimate = self.estimate(row.config, measure=False)
        except NbutilsError as error:
            return replace(row, problem=str(error).splitlines()[-1].strip(" -"))
        return replace(row, feasibility=found, estimate=estimate)

    def _pace(self, config: RunConfig, *, measure: bool) -> Pace:
        """A measured pace is kept for as long as nothing that it depends on changes."""
        key = _pace_key(config)
        if not measure and key in self._paces:
            return self._paces[key]
        count, _ = self.num_classes(config)
        if not measure:
            task = outline(config, count)
            return bound_pace(task, config, seconds_to_read(config, task))
        task = outline(config, count, "cpu")
        pace = measure_pace(task, config, seconds_to_read(config, task))
        self._paces[key] = pace
        return pace


def _key(config: RunConfig, names: tuple[str, ...]) -> object:
    values = config.leaves()
    return (config.recipe, *(repr(values[name]) for name in names))


def _pace_key(config: RunConfig) -> object:
    """All that a step's time depends on."""
    model: Any = sorted(config.model.model_dump().items(), key=str)
    parts = (config.data.data_dir, config.data.batch_size, config.train.device)
    options = (config.precision.precision, config.optim.optimizer)
    return (config.recipe, repr(model), *map(repr, parts), *options)
