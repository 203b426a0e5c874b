"""Defaults that follow from another answer, for as long as nobody sets them by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["FOLLOWERS", "follow"]

_MORE = re.compile(
    r"(?<![a-z0-9])(acc(uracy)?|f1|auc|auroc|recall|precision|dice|iou|map|bleu|rouge"
    r"|r2|score|ssim|psnr)(?![a-z0-9])"
)
_LESS = re.compile(
    r"(?<![a-z0-9])(loss|err(or)?|nll|crps|n?mse|rmse|mae|mape|perplexity|wer|cer)"
    r"(?![a-z0-9])"
)


def _mode_of(monitor: Any) -> dict[str, Any]:
    """Whether more or less of a metric is better, where its name tells."""
    name = str(monitor).lower()
    if _LESS.search(name):
        return {"mode": "min"}
    return {"mode": "max"} if _MORE.search(name) else {}


_RULES: Mapping[str, Callable[[Any], dict[str, Any]]] = {"monitor": _mode_of}

FOLLOWERS: Mapping[str, tuple[str, ...]] = {"monitor": ("mode",)}
"""Leaves that may follow each leaf."""


def follow(name: str, value: Any) -> dict[str, Any]:
    """What other leaves should be once ``name`` has this value.

    Example:
        >>> follow("monitor", "val_f1"), follow("monitor", "val_loss")
        ({'mode': 'max'}, {'mode': 'min'})
    """
    rule = _RULES.get(name)
    return {} if rule is None else rule(value)
