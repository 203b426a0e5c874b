"""Lists of words as people write them: ``a,b``, one word, a YAML list or a tuple."""

from __future__ import annotations

from typing import Any

__all__ = ["one_text", "texts"]

SERVICES = ("wandb", "tensorboard")
"""In the order in which several of them are written."""


def texts(value: Any) -> Any:
    """A tuple of words; what is no text or list of them stays as it is.

    Example:
        >>> texts("baseline, 2024"), texts(["baseline", 2024]), texts(3)
        (('baseline', '2024'), ('baseline', '2024'), ('3',))
    """
    if isinstance(value, str):
        value = value.split(",")
    elif _is_number(value):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    words = [str(word) if _is_number(word) else word for word in value]
    if not all(isinstance(word, str) for word in words):
        return value
    return tuple(word.strip() for word in words if word.strip())


def one_text(value: Any) -> Any:
    """Several trackers as one text in a fixed order; else the value as it is.

    Example:
        >>> one_text(["tensorboard", "wandb"]), one_text([]), one_text("mlflow")
        ('wandb,tensorboard', 'none', 'mlflow')
    """
    words = texts(value) if isinstance(value, (str, list, tuple)) else value
    if not isinstance(words, tuple) or value == "":
        return value
    if not set(words) <= set(SERVICES):
        return words[0] if len(words) == 1 else value
    return ",".join(name for name in SERVICES if name in words) or "none"


def _is_number(word: object) -> bool:
    return isinstance(word, (int, float)) and not isinstance(word, bool)
