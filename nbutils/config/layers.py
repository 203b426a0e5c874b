"""Layers of settings, merged into flat leaves that remember their origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbutils.config.leaves import LEAVES, leaf_of, plain, unknown_key
from nbutils.config.sections import SECTIONS, Section

__all__ = ["Layer", "Merged", "merge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Settings from one source; ``origins`` names the source leaf by leaf."""

    settings: Mapping[str, Any]
    origin: str = "argument"
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Flat leaves of all layers, where each came from, and unusable keys."""

    flat: dict[str, Any]
    origins: dict[str, str]
    problems: list[str]


def merge(layers: Iterable[Layer]) -> Merged:
    """Lay the layers over each other; the later one wins."""
    merged = Merged(flat={}, origins={}, problems=[])
    for layer in layers:
        flat, problems = _flatten(layer)
        merged.flat.update(flat)
        merged.origins.update(
            {leaf: layer.origins.get(leaf, layer.origin) for leaf in flat}
        )
        merged.problems.extend(problems)
    return merged


def _flatten(layer: Layer) -> tuple[dict[str, Any], list[str]]:
    flat: dict[str, Any] = {}
    problems: list[str] = []
    source = "" if layer.origin == "argument" else f" (from {layer.origin})"
    for key, value in _opened(layer.settings):
        leaf = leaf_of(key)
        if leaf is None and key in SECTIONS:
            problems.append(
                f"{key} is {value!r}{source}; it is a section and must be a mapping "
                f"such as {{{next(iter(SECTIONS[key].model_fields))!r}: ...}}."
            )
        elif leaf is None:
            problems.append(unknown_key(key) + source)
        elif leaf in flat and repr(flat[leaf]) != repr(plain(value)):
            problems.append(
                f"{leaf} is given twice{source}, as {flat[leaf]!r} and as {value!r}; "
                "keep one."
            )
        else:
            flat[leaf] = plain(value)
    return flat, problems


def _opened(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Pairs of key and value, with each section opened into dotted keys.

    ``precision``, ``preflight`` and ``schedule`` name a section and a leaf: a
    mapping or a Section is the section, anything else the leaf.
    """
    for key, value in settings.items():
        if key in SECTIONS and isinstance(value, Section):
            given = [name for name in LEAVES if name in value.model_fields_set]
            yield from ((f"{key}.{name}", getattr(value, name)) for name in given)
        elif key in SECTIONS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield str(key), value
