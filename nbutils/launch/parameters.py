"""``-p key=value`` for a notebook: a parameter of its own, or a setting of the run."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from nbutils.config.checks import leaf_problems
from nbutils.config.leaves import leaf_of, nearest, parse_text
from nbutils.config.sources import variable
from nbutils.errors import ConfigError

__all__ = ["Parameters", "declared_parameters", "sort_parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is injected into the notebook, and what its kernel finds around it."""

    injected: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)


def declared_parameters(cells: list[Any]) -> dict[str, Any]:
    """Names that the cell tagged ``parameters`` assigns, with their literal values.

    A value that is no literal counts as None.
    """
    found: dict[str, Any] = {}
    for cell in cells:
        if "parameters" not in cell.get("metadata", {}).get("tags", []):
            continue
        lines = cell["source"].splitlines()
        source = "\n".join(
            "" if line.startswith(("%", "!")) else line for line in lines
        )
        for node in ast.parse(source).body:
            if isinstance(node, ast.AnnAssign):
                found |= _names([node.target], node.value)
            elif isinstance(node, ast.Assign):
                found |= _names(node.targets, node.value)
    return found


def sort_parameters(
    given: Mapping[str, Any], declared: Mapping[str, Any], notebook: str
) -> Parameters:
    """Tell parameters of the notebook from settings of the run.

    Args:
        given: By name; a text is read as the type that its target has.
        declared: Parameters of the notebook, with their defaults.
        notebook: Its name, for the sentences.

    Raises:
        ConfigError: Keys that are neither, and values that a setting cannot take.
    """
    sorted_ = Parameters()
    problems: list[str] = []
    for key, value in given.items():
        leaf = leaf_of(key)
        if key in declared:
            sorted_.injected[key] = _like(declared[key], value)
        elif leaf is None:
            problems.append(_unknown(key, declared, notebook))
        else:
            read = parse_text(leaf, value) if isinstance(value, str) else value
            problems += leaf_problems({leaf: read})
            sorted_.environ[variable(leaf)] = _as_text(value)
    if problems:
        raise ConfigError(problems)
    return sorted_


def _names(targets: list[ast.expr], value: ast.expr | None) -> dict[str, Any]:
    try:
        literal = None if value is None else ast.literal_eval(value)
    except ValueError:  # computed, such as a path made of others
        literal = None
    return {node.id: literal for node in targets if isinstance(node, ast.Name)}


def _like(default: Any, value: Any) -> Any:
    """A text as text where the default is text, otherwise read as YAML."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _unknown(key: str, declared: Mapping[str, Any], notebook: str) -> str:
    own = difflib.get_close_matches(key, declared, 1)
    meant = own[0] if own else nearest(key)
    hint = (
        f"did you mean {meant}?"
        if meant
        else (f"its parameters are {', '.join(declared) or 'none'}.")
    )
    return f"{key} is neither a parameter of {notebook} nor a setting; {hint}"
