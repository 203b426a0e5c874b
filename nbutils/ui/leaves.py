"""What a form must know about each config leaf, and text <-> value for it.

No widgets here: a leaf is read from the pydantic sections, its text is parsed with
the leaf's own type and bounds, and a value that does not fit becomes one sentence.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nbutils.config.sections import SECTIONS

__all__ = ["Leaf", "all_leaves", "check", "format_value", "label_of", "parse_text"]

Kind = Literal["flag", "choice", "int", "float", "text", "yaml"]

_WORDS = {
    "dir": "folder",
    "ema": "EMA",
    "lr": "learning rate",
    "max": "max.",
    "min": "min.",
    "num": "number of",
    "oom": "out of memory",
    "val": "validation",
}
_LABELS = {
    "accumulation": "Accumulate",
    "architecture": "Model name",
    "betas": "Adam betas",
    "clip_norm": "Clip gradient norm",
    "clip_value": "Clip gradient value",
    "compile": "torch.compile",
    "drop_last": "Drop short last batch",
    "gradient_stats_every_steps": "Look at gradients every",
    "histogram_every_steps": "Histograms every",
    "log_every_steps": "Log every",
    "loss_fp32": "Loss in fp32",
    "max_bad_fraction": "Unreadable files allowed",
    "max_consecutive_refusals": "Refusals in a row",
    "max_hours": "Max. time",
    "max_refused_fraction": "Refused share of epoch",
    "max_steps": "Max. optimizer steps",
    "max_upload_mb": "Max. upload",
    "mirror": "Mirror folder",
    "mode": "Better is",
    "monitor": "Monitored metric",
    "panel": "Live panel",
    "on_oom": "When out of memory",
    "sample_every_s": "Read device every",
    "save_every_epochs": "Save every",
    "save_every_minutes": "Save every",
    "save_every_steps": "Save every",
    "shuffle": "Shuffle each epoch",
    "test_fraction": "Test share",
    "val_fraction": "Validation share",
    "wandb_mode": "W&B mode",
    "warmup_steps": "Warm-up",
}
_EXPECTED = {"int": "a whole number, such as 32", "float": "a number, such as 3e-4"}
_BOUNDS = {
    "greater_than": ("gt", "> {}"),
    "greater_than_equal": ("ge", ">= {}"),
    "less_than": ("lt", "< {}"),
    "less_than_equal": ("le", "<= {}"),
    "finite_number": (None, "a finite number"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One setting, as a form sees it."""

    name: str
    section: str
    kind: Kind
    optional: bool
    choices: tuple[Any, ...]
    default: Any
    help: str
    step: str
    unit: str
    advanced: bool
    adapter: TypeAdapter[Any]

    @property
    def label(self) -> str:
        """The words beside the field, with the unit: ``Batch size (samples)``."""
        words = label_of(self.name)
        is_told = not self.unit or words.endswith(self.unit)
        return words if is_told else f"{words} ({self.unit})"

    @property
    def subject(self) -> str:
        """How a sentence names it: ``Learning rate (lr)``."""
        return f"{label_of(self.name)} ({self.name})"

    @property
    def tooltip(self) -> str:
        """Help, and the name to use in code."""
        return f"{self.help} In code: {self.name}"


def all_leaves() -> dict[str, Leaf]:
    """Every leaf of the config by its flat name, in the order of the sections."""
    return {
        name: _leaf(section, name, field)
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    }


def label_of(name: str) -> str:
    """Plain words for a leaf name.

    Example:
        >>> label_of("weight_decay"), label_of("min_lr")
        ('Weight decay', 'Min. learning rate')
    """
    if name in _LABELS:
        return _LABELS[name]
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def format_value(value: Any) -> str:
    """The text of a value in a form field; ``None`` is the empty text.

    Example:
        >>> format_value(0.0003), format_value((0.9, 0.999)), format_value(None)
        ('0.0003', '[0.9, 0.999]', '')
    """
    if value is None:
        return ""
    if isinstance(value, dict | tuple | list):
        plain = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(plain, default_flow_style=True, width=10_000).strip()
    return str(value)


def parse_text(leaf: Leaf, text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: One sentence: the setting, what was typed, what was expected.
    """
    stripped = text.strip()
    if not stripped and leaf.optional:
        return None
    if not stripped and leaf.kind != "yaml":
        expected = _EXPECTED.get(leaf.kind, "a text")
        raise ValueError(f"{leaf.subject} is empty; it must be {expected}.")
    return check(leaf, _read(leaf, stripped), stripped)


def check(leaf: Leaf, value: Any, shown: object) -> Any:
    """The value as the leaf's type has it; a ``ValueError`` sentence if unfit."""
    try:
        return leaf.adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        expected = _example(leaf) if leaf.kind == "yaml" else _expectation(first)
        raise ValueError(
            f"{leaf.subject} is {shown}; it must be {expected}."
        ) from error


def _leaf(section: str, name: str, field: FieldInfo) -> Leaf:
    hints = field.json_schema_extra
    if not isinstance(hints, dict):
        raise TypeError(f"{name} has no form hints; declare it with leaf().")
    inner, optional = _without_none(field.annotation)
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    annotated: Any = field.annotation
    for bound in field.metadata:
        annotated = Annotated[annotated, bound]
    return Leaf(
        name=name,
        section=section,
        kind=_kind(inner),
        optional=optional,
        choices=choices,
        default=field.default,
        help=field.description or "",
        step=str(hints["step"]),
        unit=str(hints["unit"]),
        advanced=bool(hints["advanced"]),
        adapter=TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False)),
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return inner[0], len(inner) < len(get_args(annotation))


def _kind(annotation: Any) -> Kind:
    if get_origin(annotation) is Literal:
        return "choice"
    kinds: dict[Any, Kind] = {bool: "flag", int: "int", float: "float", str: "text"}
    return kinds.get(annotation, "yaml")


def _read(leaf: Leaf, text: str) -> Any:
    """Text to a raw Python value; the type and bounds are judged afterwards."""
    readers: dict[str, Any] = {"int": _int, "float": float, "yaml": yaml.safe_load}
    try:
        value = readers.get(leaf.kind, str)(text)
    except (ValueError, yaml.YAMLError) as error:
        expected = _EXPECTED.get(leaf.kind, _example(leaf))
        raise ValueError(
            f"{leaf.subject} is {text!r}; it must be {expected}."
        ) from error
    if leaf.kind == "yaml":
        return _numbers(type(leaf.default)() if value is None else value)
    return value


def _int(text: str) -> int:
    """A whole number; ``1e3`` and ``1_000`` are meant well and read so."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != number // 1 or abs(number) == float("inf"):
            raise
        return int(number)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads ``3e-4`` as a text; read it as the number it is."""
    if isinstance(value, dict):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_numbers(item) for item in value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _example(leaf: Leaf) -> str:
    empty = "[name]" if isinstance(leaf.default, tuple) else "{name: 1.0}"
    example = format_value(leaf.default) if leaf.default else empty
    return f"YAML such as {example}"


def _expectation(error: Any) -> str:
    kind = error["type"]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return words.format(f"{error['ctx'][key]:g}") if key else words
    message = str(error["msg"])
    return message.removeprefix("Input should be ").rstrip(".")
