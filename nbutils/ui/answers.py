"""What the user has answered so far; the wizard's state, without a widget in it.

Each leaf holds its raw answer (text, tick or choice). Raw answers become values only
through :mod:`nbutils.ui.leaves`, and a config only through ``RunConfig``: this module
judges nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.config import RunConfig, resolve
from nbutils.config.layers import Layer
from nbutils.errors import ConfigError
from nbutils.ui.dependents import FOLLOWERS, follow
from nbutils.ui.leaves import Leaf, all_leaves, format_value, parse_text

__all__ = ["Answers", "Problem", "Source"]

ORIGIN = "wizard"
"""Origin of each value that the user set in the form."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence, and the leaf that it is about where that is known."""

    text: str
    leaf: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The arguments of the cell: where the starting values come from."""

    preset: str | None
    path: Path | None
    overrides: Mapping[str, Any]

    def resolve(self) -> RunConfig:
        """The config without any answer from a form."""
        saved = self.path if self.path is not None and self.path.exists() else None
        return resolve(preset=self.preset, path=saved, overrides=dict(self.overrides))


class Answers:
    """Raw answers over a base config; which are the user's own, which came with it.

    Args:
        source: Arguments of the cell; resolved at once.

    Raises:
        ConfigError: The source itself cannot be resolved.
    """

    def __init__(self, source: Source) -> None:
        self.leaves = all_leaves()
        self.source = source
        self.preset = source.preset
        self.initial = source.resolve()
        self.base = self.initial
        self.touched: set[str] = set()
        self.moved_by_preset: dict[str, tuple[Any, Any]] = {}
        self.followed: dict[str, str] = {}
        self._earlier: list[tuple[str | None, RunConfig]] = []
        self.raw = {name: self._raw_of(self.base, name) for name in self.leaves}

    @property
    def can_undo(self) -> bool:
        """Whether a preset was chosen that can be taken back."""
        return bool(self._earlier)

    def edit(self, name: str, raw: Any) -> None:
        """Take the user's answer; one equal to the base value is no longer theirs."""
        self.raw[name] = raw
        self.moved_by_preset.pop(name, None)
        is_own = self.followed.pop(name, None) is not None
        if raw == self._raw_of(self.base, name) and not is_own:
            self.touched.discard(name)
        else:
            self.touched.add(name)
        self._let_follow(name)

    def choose_preset(self, preset: str | None) -> None:
        """Start from another preset; the user's own answers stay.

        A choice made here is newer than a saved file, so the file is left aside.
        """
        new = Source(preset, None, self.source.overrides).resolve()
        self._earlier.append((self.preset, self.base))
        self._start_from(preset, new)

    def undo_preset(self) -> None:
        """Go back to where the last choice of a preset started from."""
        if self._earlier:
            self._start_from(*self._earlier.pop())
            self.moved_by_preset = {}

    def problem_of(self, name: str) -> Problem | None:
        """What is wrong with one answer by itself; ``None`` when it fits."""
        try:
            self._value(name)
        except ValueError as error:
            return Problem(str(error), name)
        return None

    def problems(self, names: Iterable[str] | None = None) -> list[Problem]:
        """Answers that do not fit, one by one, in the order of the form."""
        wanted = self.leaves if names is None else names
        found = (self.problem_of(name) for name in wanted)
        return [problem for problem in found if problem is not None]

    def build(self) -> tuple[RunConfig | None, list[Problem]]:
        """The config that these answers make, or everything that stands against it."""
        problems = self.problems()
        if problems:
            return None, problems
        try:
            return self._configured(), []
        except ConfigError as error:
            return None, [Problem(t, self.leaf_in(t)) for t in error.problems]

    def draft(self) -> RunConfig:
        """A config of the answers that fit; each of the others keeps its base value.

        Raises:
            ConfigError: The answers contradict each other.
        """
        return self._configured()

    def differs_from(self, config: RunConfig) -> list[str]:
        """Leaves whose answer is not what ``config`` holds; a misfit always differs."""
        values = config.leaves()
        recipe = [] if self.base.recipe == config.recipe else ["recipe"]
        return recipe + [
            name
            for name in self.leaves
            if self.problem_of(name) or self._value(name) != values[name]
        ]

    def take_over(self, earlier: Answers) -> list[str]:
        """Keep the user's answers of an earlier wizard; return the leaves kept.

        Where the cell now sets a leaf that it did not set before, the cell wins.
        """
        if self.source == earlier.source and self.preset != earlier.preset:
            self.choose_preset(earlier.preset)
            self._earlier = list(earlier._earlier)
            self.moved_by_preset = dict(earlier.moved_by_preset)
        now, before = self.source.overrides, earlier.source.overrides
        kept = [
            name
            for name in self.leaves
            if name in earlier.touched
            and (name not in now or now.get(name) == before.get(name))
        ]
        for name in kept:
            self.edit(name, earlier.raw[name])
        return kept

    def leaf_in(self, sentence: str) -> str | None:
        """The first leaf that a sentence names."""
        words = re.findall(r"\w+", sentence)
        return next((word for word in words if word in self.leaves), None)

    def _start_from(self, preset: str | None, new: RunConfig) -> None:
        """Change the base; what the user has not touched changes with it."""
        old, self.base, self.preset = self.base, new, preset
        before, after = old.leaves(), new.leaves()
        self.moved_by_preset = {
            name: (before[name], after[name])
            for name in self.leaves
            if name not in self.touched and before[name] != after[name]
        }
        self.followed = {}
        for name in self.leaves:
            if name not in self.touched:
                self.raw[name] = self._raw_of(new, name)
        for name in FOLLOWERS:
            self._let_follow(name)

    def _let_follow(self, name: str) -> None:
        """Set what follows from an answer of the user's, where they set nothing."""
        if name not in FOLLOWERS:
            return
        is_own = name in self.touched and self.problem_of(name) is None
        wanted = follow(name, self._value(name)) if is_own else {}
        for leaf in FOLLOWERS[name]:
            if leaf in self.touched:
                continue
            standing = self._raw_of(self.base, leaf)
            self.raw[leaf] = wanted.get(leaf, standing)
            self.followed.pop(leaf, None)
            if self.raw[leaf] != standing:
                self.followed[leaf] = name

    def _configured(self) -> RunConfig:
        """The base with the user's own answers on top."""
        mine = [*self.touched, *self.followed]
        own = {n: self._value(n) for n in self.leaves if n in mine and self._fits(n)}
        changes = self.base.changes()
        start = Layer(
            settings={name: value for name, (value, _) in changes.items()},
            origins={name: origin for name, (_, origin) in changes.items()},
        )
        origins = {n: f"{ORIGIN}, follows {m}" for n, m in self.followed.items()}
        top = Layer(settings=own, origin=ORIGIN, origins=origins)
        return RunConfig.from_layers([start, top])

    def _fits(self, name: str) -> bool:
        return self.problem_of(name) is None

    def _value(self, name: str) -> Any:
        leaf, raw = self.leaves[name], self.raw[name]
        return raw if leaf.kind in ("flag", "choice") else parse_text(leaf, str(raw))

    def _raw_of(self, config: RunConfig, name: str) -> Any:
        leaf: Leaf = self.leaves[name]
        value = config.leaves()[name]
        return value if leaf.kind in ("flag", "choice") else format_value(value)
