"""Part of S3: what is monitored, which way is better, and what ends the run."""

from __future__ import annotations

import copy
from typing import Any

from nbutils.preflight.check import Claims
from nbutils.preflight.lints.syntax import words
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.evaluate import evaluate

__all__ = ["better", "judge_monitored"]

HIGHER = {"acc", "accuracy", "f1", "auc", "auroc", "auprc", "iou", "miou", "dice", "r2"}
HIGHER |= {"recall", "map", "bleu", "rouge", "psnr", "ssim", "ndcg", "mrr", "kappa"}
HIGHER |= {"mcc", "spearman", "pearson", "precision", "top1", "top5", "meteor"}
LOWER = {"loss", "error", "err", "mse", "rmse", "mae", "mape", "nll", "perplexity"}
LOWER |= {"ppl", "cer", "wer", "crps", "nmse", "bce", "brier", "ece", "fid", "rmsle"}
SHARES = {"acc", "accuracy", "f1", "auc", "auroc", "auprc", "iou", "miou", "dice"}
SHARES |= {"recall", "precision", "ssim", "ndcg", "mrr", "top1", "top5", "r2"}
TURNED = {"neg", "negative", "minus", "inverse", "inv", "one"}


def better(name: str) -> str:
    """``min`` or ``max`` where the name of a metric tells; else empty.

    Example:
        >>> better("val_accuracy"), better("val_loss"), better("score")
        ('max', 'min', '')
    """
    found = set(words(name)) | set(name.lower().split("_"))
    if found & TURNED or bool(found & HIGHER) == bool(found & LOWER):
        return ""
    return "max" if found & HIGHER else "min"


def judge_monitored(probe: Probe, claims: Claims) -> None:
    """Compare ``monitor``, ``mode``, ``target`` and ``patience`` with each other."""
    train = probe.config.train
    wanted = better(train.monitor)
    if wanted and wanted != train.mode:
        claims.add(
            "warn",
            f"mode is '{train.mode}' for {train.monitor}: the worst weights would be "
            "kept as the best",
            expected=f"mode='{wanted}' for a metric of this name",
            actual=f"monitor='{train.monitor}', mode='{train.mode}'",
            fix=f"Set mode='{wanted}'.",
        )
    _judge_patience(probe, claims)
    if probe.facts["depth"] == "static":
        _judge_without_data(probe, claims)
    elif train.target is not None and not probe.obstacle:
        _judge_target(probe, claims)


def _judge_patience(probe: Probe, claims: Claims) -> None:
    train = probe.config.train
    is_counted = probe.config.origin("epochs") != "default" or train.max_steps is None
    if train.patience is not None and is_counted and train.patience >= train.epochs:
        told = f"{train.patience} evaluations in a run of {train.epochs} epochs"
        claims.show([("patience", f"never ends the run: {told}")])


def _judge_without_data(probe: Probe, claims: Claims) -> None:
    """``val_accuracy`` without validation data; with data at hand R4 tells."""
    monitor = probe.config.train.monitor
    is_of_val = monitor.startswith("val_") and monitor != "val_loss"
    if is_of_val and not probe.data.has("val"):
        claims.add(
            "fail",
            f"monitor is '{monitor}', and there is no validation data",
            expected="a metric that the run measures",
            actual="val_data is not given: the run would end after its first epoch",
            fix="Give val_data to the task, or monitor 'train_loss'.",
        )


def _judge_target(probe: Probe, claims: Claims) -> None:
    """The target against what the model reaches before any training."""
    train = probe.config.train
    values, error = attempt(lambda: _measured(probe))
    if error is not None:
        return  # R4 and R5 tell
    name = train.monitor.removeprefix("val_")
    value = values.get(name if probe.data.has("val") else "loss")
    if not isinstance(value, (int, float)):
        return
    told = f"{train.monitor} = {value:.4g} before training, target = {train.target:g}"
    is_share = bool(SHARES & (set(words(name)) | set(name.lower().split("_"))))
    is_met = value <= train.target if train.mode == "min" else value >= train.target
    if train.mode == "max" and is_share and train.target > 1 and 0 <= value <= 1:
        claims.add(
            "warn",
            f"the target {train.target:g} is never reached: {train.monitor} is a share "
            "between 0 and 1",
            expected="a target of at most 1",
            actual=told,
            fix=f"Set target={train.target / 100:g}, if per cent were meant.",
        )
    elif is_met:
        claims.add(
            "warn",
            "the untrained model meets the target: the run ends after its first "
            "evaluation",
            expected="a target that training has to reach",
            actual=f"{told}, mode='{train.mode}'",
            fix="Look at target and mode; leave target out to train all epochs.",
        )


def _measured(probe: Probe) -> dict[str, Any]:
    """The run's own evaluation of one batch."""
    probe.rewind()
    twin = copy.copy(probe.task)
    twin.model = probe.model
    split = "val" if probe.data.has("val") else "train"
    return evaluate(
        twin,
        [copy.deepcopy(probe.data.batch(split))],
        probe.precision,
        probe.device,
        loss_weights=probe.config.loss.loss_weights,
        seed=probe.seed,
    )
