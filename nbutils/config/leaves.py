"""Every setting by its flat name: where it lives, its default, what it accepts."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from nbutils.config.sections import SECTIONS

__all__ = [
    "DEFAULTS",
    "LEAVES",
    "TOP",
    "dotted",
    "expected",
    "leaf_of",
    "nearest",
    "parse_text",
    "plain",
    "unknown_key",
]

LEAVES: dict[str, str] = {
    leaf: section for section, kind in SECTIONS.items() for leaf in kind.model_fields
}
"""Section of each leaf."""

TOP: dict[str, Any] = {"recipe": None, "schema_version": 1}
"""Settings that stand above the sections, with their defaults."""

DEFAULTS: dict[str, Any] = TOP | {
    leaf: field.get_default(call_default_factory=True)
    for kind in SECTIONS.values()
    for leaf, field in kind.model_fields.items()
}

ALSO_CALLED: dict[str, str] = {
    "bs": "batch_size",
    "early_stopping": "patience",
    "grad_accum": "accumulation",
    "grad_accum_steps": "accumulation",
    "gradient_accumulation_steps": "accumulation",
    "grad_clip": "clip_norm",
    "learning_rate": "lr",
    "max_grad_norm": "clip_norm",
    "max_lr": "lr",
    "model_name": "architecture",
    "num_epochs": "epochs",
    "scheduler": "schedule",
    "wd": "weight_decay",
}
"""What other projects call these settings; used for suggestions only."""

KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping of names to numbers",
}


def dotted(leaf: str) -> str:
    """The full name: ``train.epochs`` of ``epochs``; ``recipe`` stays as it is."""
    return leaf if leaf in TOP else f"{LEAVES[leaf]}.{leaf}"


def leaf_of(key: str) -> str | None:
    """The leaf that a flat or a dotted key names, or None."""
    if key in DEFAULTS:
        return key
    section, _, leaf = key.partition(".")
    return leaf if leaf and LEAVES.get(leaf) == section else None


def nearest(key: str, cutoff: float = 0.6) -> str | None:
    """The valid leaf that reads most like ``key``, or None."""
    name = key.rpartition(".")[2].lower()
    if name in ALSO_CALLED:
        return ALSO_CALLED[name]
    words = sorted(name.split("_"))
    for leaf in DEFAULTS:
        if sorted(leaf.split("_")) == words:
            return leaf
    return next(iter(difflib.get_close_matches(name, DEFAULTS, 1, cutoff)), None)


def unknown_key(key: str) -> str:
    """One sentence about a key that is no setting, with the one that was meant."""
    leaf = nearest(key)
    if leaf is None:
        return f"{key} is not a setting; RunConfig().leaves() lists all of them."
    where = "" if leaf in TOP else f" ({dotted(leaf)})"
    return f"{key} is not a setting; did you mean {leaf}{where}?"


def annotation_parts(leaf: str) -> tuple[Any, bool]:
    """The type of a leaf without None, and whether None is allowed."""
    annotation: Any = SECTIONS[LEAVES[leaf]].model_fields[leaf].annotation
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    inner = [part for part in typing.get_args(annotation) if part is not type(None)]
    return inner[0], True


def expected(leaf: str) -> str:
    """What a leaf accepts, in words.

    Example:
        >>> expected("max_steps")
        'a whole number or None'
    """
    kind, optional = annotation_parts(leaf)
    arguments = typing.get_args(kind)
    hints: Any = SECTIONS[LEAVES[leaf]].model_fields[leaf].json_schema_extra
    if "accepts" in hints:
        text = hints["accepts"]
    elif typing.get_origin(kind) is typing.Literal:
        text = "one of " + ", ".join(repr(choice) for choice in arguments)
    elif typing.get_origin(kind) is tuple:
        text = f"{len(arguments)} numbers"
    else:
        text = KINDS[typing.get_origin(kind) or kind]
    return f"{text} or None" if optional else text


def parse_text(leaf: str, text: str) -> Any:
    """The value that a text means for a leaf, as in ``NBUTILS_EPOCHS=3``.

    Text leaves keep the text; all others are read as YAML. A text that is no YAML
    is returned as it is: the check of the leaf words the complaint.
    """
    if leaf == "recipe":
        return None if text.lower() in {"none", "null", ""} else text
    kind, optional = annotation_parts(leaf) if leaf in LEAVES else (int, False)
    if optional and text.strip().lower() in {"none", "null", ""}:
        return None
    if kind is str or typing.get_origin(kind) is typing.Literal:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def plain(value: Any) -> Any:
    """Paths as text, NumPy scalars as Python numbers; anything else unchanged."""
    if hasattr(value, "__fspath__"):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return value
