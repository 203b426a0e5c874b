"""JSON in which every float survives, and what is not JSON is named.

Plain JSON has no word for NaN and the infinities, so they are written as
``{"$float": "nan"}`` (``"inf"``, ``"-inf"``) and read back as floats. Any other
reader still sees valid JSON, and a text "nan" stays a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["dumps", "loads"]

_FLOAT_KEY = "$float"


def dumps(value: object, *, indent: int | None = None) -> str:
    """JSON text of plain values, arrays of one element, paths and sets of them.

    Raises:
        TypeError: A value that has no JSON form; the text names its type.

    Example:
        >>> dumps({"loss": float("nan"), "step": 3})
        '{"loss":{"$float":"nan"},"step":3}'
    """
    encoder = _COMPACT if indent is None else _encoder(indent)
    try:
        return encoder.encode(value)
    except ValueError:  # a non-finite float: the rare, slower way
        return encoder.encode(_without_nonfinite(value))


def loads(text: str | bytes) -> Any:
    """The value that :func:`dumps` wrote.

    Example:
        >>> loads('{"loss": {"$float": "inf"}}')
        {'loss': inf}
    """
    return json.loads(text, object_hook=_restore)


def _restore(found: dict[str, Any]) -> Any:
    if len(found) == 1 and _FLOAT_KEY in found:
        return float(found[_FLOAT_KEY])
    return found


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_KEY: str(float(value))}
    if isinstance(value, Mapping):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, (str, int, float, type(None))):
        return value
    return _without_nonfinite(_plain(value))


def _plain(value: Any) -> Any:
    """What the encoder asks for on a type it does not know."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing them
        return value.tolist()
    raise TypeError(
        f"{type(value).__name__} cannot be written as JSON; expected numbers, text, "
        "lists or dicts of them. Convert it first, for example with float(value)."
    )


def _encoder(indent: int | None) -> json.JSONEncoder:
    separators = (",", ":") if indent is None else None
    return json.JSONEncoder(
        allow_nan=False, separators=separators, indent=indent, default=_plain
    )


_COMPACT = _encoder(None)
