"""Names of metrics: which one was meant, and which direction is better."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["better_direction", "did_you_mean"]

_LOWER = re.compile(
    r"(^|_)(loss|error|err|nll|ce|bce|mae|mse|rmse|nmse|mape|smape|crps|perplexity|ppl"
    r"|wer|cer|fid|divergence|kl|ece|brier)(_|$)"
)
_HIGHER = re.compile(
    r"(^|_)(accuracy|acc|top\d+|f1|auc|auroc|auprc|ap|map|precision|recall|r2|iou|miou"
    r"|dice|bleu|rouge\w*|psnr|ssim|ndcg|mrr|kappa|mcc|correlation)(_|$)"
)


def better_direction(name: str, modes: Iterable[tuple[str, str]] = ()) -> str:
    """``"lower"``, ``"higher"``, or nothing where neither is known.

    Args:
        name: A metric, such as ``val_loss``.
        modes: Monitored metrics with ``"min"`` or ``"max"``; they count before what
            the name suggests.

    Example:
        >>> better_direction("val_loss"), better_direction("test_top5_accuracy")
        ('lower', 'higher')
        >>> better_direction("score", [("score", "max")]), better_direction("width")
        ('higher', '')
    """
    for monitor, mode in modes:
        if _bare(monitor) == _bare(name):
            return "lower" if mode == "min" else "higher"
    if _LOWER.search(name.lower()):
        return "lower"
    return "higher" if _HIGHER.search(name.lower()) else ""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """What was probably meant, and all there is.

    Example:
        >>> did_you_mean("val_los", ["val_loss", "train_loss"])
        'did you mean val_loss? Known: train_loss, val_loss.'
    """
    known = sorted(set(choices))
    listed = ", ".join(known) or "none"
    near = sorted((c for c in known if _bare(c) == name), reverse=True)  # val_ first
    near = near or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}? Known: {listed}." if near else f"known: {listed}."


def _bare(name: str) -> str:
    return re.sub(r"^(train|val|test)_", "", name)
