"""A run config as YAML text and back, without loss.

Hand-written files are read kindly: ``off`` and ``no`` stay words instead of turning
into False, dates stay text, and a number such as ``3e-4``, which YAML 1.1 takes for
text, is converted by the check of its leaf.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nbutils.config.leaves import DEFAULTS, TOP
from nbutils.config.sections import SECTIONS
from nbutils.errors import ConfigError

__all__ = ["dump", "read"]

HEADER = "# A run of nbutils. Behind a value that is no default: where it came from.\n"
BOOL, DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 booleans, no dates and no doubled keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a key given twice is an error instead of a lost value."""
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a name", problem_mark=key_node.start_mark
                )
            if key in mapping:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice; keep one",
                    problem_mark=key_node.start_mark,
                )
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (BOOL, DATE)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def dump(values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """The YAML text of all leaves, by section.

    Args:
        values: Every leaf, and the settings above the sections.
        origins: Where each leaf came from; written behind non-default values.
    """
    lines = [_line(name, values[name], origins) for name in reversed(TOP)]
    for section, kind in SECTIONS.items():
        lines.append(f"{section}:\n")
        lines += [
            f"  {_line(leaf, values[leaf], origins)}" for leaf in kind.model_fields
        ]
    return HEADER + "".join(lines)


def _line(leaf: str, value: Any, origins: Mapping[str, str]) -> str:
    text = f"{leaf}: {_text(value)}"
    if value == DEFAULTS[leaf]:
        return f"{text}\n"
    origin = origins.get(leaf, "argument")
    return f"{text}  # {''.join(c if c.isprintable() else '?' for c in origin)}\n"


def _text(value: Any) -> str:
    """One value on one line."""
    value = list(value) if isinstance(value, tuple) else value
    options: dict[str, Any] = {
        "allow_unicode": True,
        "sort_keys": False,
        "width": sys.maxsize,
    }
    text = yaml.safe_dump([value], default_flow_style=True, **options).strip()
    if len(text.splitlines()) > 1:  # a break inside: only double quotes escape it
        text = yaml.safe_dump(
            [value], default_flow_style=True, default_style='"', **options
        ).strip()
    return text[1:-1]


def read(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, not yet checked.

    Raises:
        ConfigError: No such file, no YAML, or no mapping.
    """
    path = Path(path)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            [f"{path} cannot be read ({reason}); give the path of a saved config."]
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError([f"{path} is not YAML: {_where(error)}"]) from error
    if not isinstance(content, dict):
        raise ConfigError(
            [f"{path} holds {content!r:.60}; it must be a mapping of settings."]
        )
    # An empty section, "data:" alone, reads as None and sets nothing.
    return {
        str(key): value
        for key, value in content.items()
        if not (key in SECTIONS and value is None)
    }


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} in line {mark.line + 1}." if mark else f"{problem}."
