"""Judge flat values: the sections they make, or every problem in plain words."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nbutils.config.leaves import DEFAULTS, TOP, annotation_parts, expected
from nbutils.config.rules import broken_rules
from nbutils.config.sections import SECTIONS, Section

__all__ = ["check", "leaf_problems"]

BOUNDS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}

# Kinds whose wrong member is named by itself.
OF_NUMBERS = (dict[str, float], tuple[float, float])

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxtuple = _short.maxdict = 8


def check(
    flat: Mapping[str, Any], origins: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Build every section from flat leaf values.

    Args:
        flat: Given leaves only; the rest takes its default.
        origins: Where each given leaf came from, for the sentences.

    Returns:
        The fields of a run config and all problems, of single leaves and of rules.
        The fields are usable only if there are no problems.
    """
    fields, valid, problems = _judge(flat, origins)
    return fields, problems + broken_rules(valid)


def leaf_problems(flat: Mapping[str, Any]) -> list[str]:
    """What is wrong with single leaves, before all the others are known."""
    return _judge(flat, {})[2]


def _judge(
    flat: Mapping[str, Any], origins: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Fields of a run config, valid leaves, problems of single leaves."""
    problems = _top_problems(flat)
    fields = {name: flat.get(name, default) for name, default in TOP.items()}
    valid: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        given = {leaf: flat[leaf] for leaf in kind.model_fields if leaf in flat}
        section, wrong = _section(kind, given, origins)
        fields[name] = section
        problems += [text for texts in wrong.values() for text in texts]
        valid |= {
            leaf: getattr(section, leaf)
            for leaf in kind.model_fields
            if leaf not in wrong
        }
    return fields, valid, problems


def _top_problems(flat: Mapping[str, Any]) -> list[str]:
    recipe, version = flat.get("recipe"), flat.get("schema_version", 1)
    problems: list[str] = []
    if recipe is not None and not isinstance(recipe, str):
        problems.append(f"recipe is {_short.repr(recipe)}; it must be text or None.")
    if isinstance(version, bool) or version != DEFAULTS["schema_version"]:
        problems.append(
            f"schema_version is {_short.repr(version)}; this nbutils reads version "
            f"{DEFAULTS['schema_version']}; install the nbutils that wrote the file."
        )
    return problems


def _section(
    kind: type[Section], given: Mapping[str, Any], origins: Mapping[str, str]
) -> tuple[Section, dict[str, list[str]]]:
    """The section from its valid leaves, and sentences for each wrong leaf."""
    wrong: dict[str, list[str]] = {}
    for leaf, value in given.items():
        # pydantic reads True as 1, which hides a mixed-up argument.
        if isinstance(value, bool) and annotation_parts(leaf)[0] in (int, float):
            wrong[leaf] = [_sentence(leaf, value, expected(leaf), origins)]
    rest = {leaf: value for leaf, value in given.items() if leaf not in wrong}
    try:
        return kind.model_validate(rest), wrong
    except ValidationError as error:
        for detail in error.errors():
            leaf = str(detail["loc"][0])
            wrong.setdefault(leaf, []).append(_describe(leaf, detail, rest, origins))
    rest = {leaf: value for leaf, value in given.items() if leaf not in wrong}
    return kind.model_validate(rest), wrong


def _describe(
    leaf: str, detail: Any, given: Mapping[str, Any], origins: Mapping[str, str]
) -> str:
    """One pydantic error as a sentence: the value, then what was expected."""
    inner = [part for part in detail["loc"][1:] if part != "[key]"]
    is_inside = bool(inner) and annotation_parts(leaf)[0] in OF_NUMBERS
    is_inside = is_inside and detail["type"] != "missing"
    name = f"{leaf}[{inner[0]!r}]" if is_inside else leaf
    value = detail["input"] if is_inside else given[leaf]
    if detail["type"] in BOUNDS:
        sign, bound = BOUNDS[detail["type"]]
        wanted = f"{sign} {detail['ctx'][bound]:g}"
    elif detail["type"] == "finite_number":
        wanted = "a finite number"
    elif is_inside:
        wanted = "a number"
    else:
        wanted = expected(leaf)
    return _sentence(name, value, wanted, origins, _meant(leaf, value))


def _meant(leaf: str, value: Any) -> str:
    """A near choice of a leaf with fixed choices."""
    choices = getattr(annotation_parts(leaf)[0], "__args__", ())
    names = [choice for choice in choices if isinstance(choice, str)]
    close = difflib.get_close_matches(str(value).lower(), names, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _sentence(
    name: str, value: Any, wanted: str, origins: Mapping[str, str], hint: str = ""
) -> str:
    origin = origins.get(name.partition("[")[0], "argument")
    source = "" if origin == "argument" else f" (from {origin})"
    return f"{name} is {_short.repr(value)}{source}; it must be {wanted}.{hint}"
