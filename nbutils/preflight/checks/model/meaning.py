"""Part of R4: metrics measure what they say, and the monitor points the right way."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.model.metric_trials import Trials, evaluated, is_number
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_meaning", "judge_target"]

NUM_NOISES = 8
NUM_ORDERS = 6
NUM_STARTS = 4
MIN_SAMPLES = 4
ACCURACY = re.compile(r"(val_)?(top_?1_?)?(acc|accuracy|acc1|top_?1|pixel_acc(uracy)?)")
ERROR = re.compile(r"(val_)?(mse|mae|rmse)")
QUALITY = re.compile(
    r"(^|_)(acc\w*|f1\w*|auc|auroc|m?iou|dice|mse|mae|rmse|r2|precision|recall)(_|$)"
)
LOSSES = ("loss", "val_loss", "train_loss")


def judge_meaning(probe: Probe, values: dict[str, Any], claims: Claims) -> None:
    """Try the metrics on perfect, random and improved outputs.

    Args:
        probe: The task under test.
        values: What the run's own evaluation of one batch gave, by name.
        claims: Where the outcome goes.
    """
    train = probe.config.train
    if train.monitor in LOSSES and train.mode == "max":
        _note_direction(train, "a loss is better when it is lower", claims)
    if not probe.task.metrics:
        return
    _judge_side_effects(probe, claims)
    trials, error = attempt(lambda: Trials(probe))
    if error is not None:
        return
    base, error = attempt(trials.measure)
    if error is not None:
        return
    own, _ = attempt(lambda: evaluated(probe, None))
    names = [name for name in base if name not in (own or {})]
    monitored = train.monitor.removeprefix("val_")
    for name in names:
        _judge_range(name, values.get(name), claims)
    _judge_perfect(trials, names, claims)
    _judge_deaf(trials, names, monitored, base, claims)
    if monitored in names:
        _judge_direction(trials, monitored, train, claims)


def judge_target(probe: Probe, values: dict[str, Any], claims: Claims) -> None:
    """A target that an untrained model meets ends the run at once."""
    train = probe.config.train
    name = train.monitor.removeprefix("val_")
    value = values.get(name)
    if train.target is None or not probe.data.has("val") or not is_number(value):
        return
    value = float(value or 0.0)
    is_met = value <= train.target if train.mode == "min" else value >= train.target
    if is_met and math.isfinite(value):
        claims.add(
            "warn",
            "the target is met before training: the run would stop at its first "
            "evaluation",
            expected=f"a target that must be learnt, mode {train.mode!r}",
            actual=f"{train.monitor} = {value:.4g} on one batch, target {train.target}",
            fix="Look at target and at mode ('max' for an accuracy, 'min' for a loss).",
        )


def _judge_range(name: str, value: Any, claims: Claims) -> None:
    if not ACCURACY.fullmatch(name) or not is_number(value):
        return
    if value < 0 or value > 100:
        claims.add(
            "warn",
            f"metric '{name}' lies outside of its range",
            expected="0 to 1, or 0 to 100 percent",
            actual=f"{name} = {value:.4g}",
            fix="Divide the count by the number of targets.",
        )


def _judge_perfect(trials: Trials, names: list[str], claims: Claims) -> None:
    """Outputs that say what the targets say must be perfect for the metric."""
    sure, mild = trials.perfect(), trials.perfect(0.3)
    if sure is None or not any(
        ACCURACY.fullmatch(n) or ERROR.fullmatch(n) for n in names
    ):
        return
    best, error = attempt(lambda: trials.measure(sure))
    if error is not None:
        return
    weak, _ = attempt(lambda: trials.measure(mild))
    noise, _ = attempt(lambda: trials.measure(trials.noise(0)))
    call = trials.call
    is_error_loss = call is not None and call.kind not in (
        "cross-entropy",
        "binary cross-entropy",
    )
    for name in names:
        if ACCURACY.fullmatch(name) and not is_error_loss:
            _judge_accuracy(name, best[name], (weak or best)[name], trials, claims)
        is_error = ERROR.fullmatch(name) and is_error_loss and noise
        if is_error and abs(best[name]) > 1e-3 * abs(noise[name]):
            _note_imperfect(name, best[name], "0", claims)


def _judge_accuracy(
    name: str, best: float, weak: float, trials: Trials, claims: Claims
) -> None:
    full = 100.0 if best > 1.5 else 1.0
    call = trials.call
    count = call.targets.numel() if call else 0
    if count > 1 and count != 100 and abs(best - count) < 1e-3:
        claims.add(
            "warn",
            f"metric '{name}' is a count, not a share",
            expected="1 for perfect outputs",
            actual=f"{name} = {best:.4g} where all of {count} targets are right",
            fix="Use .float().mean() in place of .sum(): values of batches are "
            "averaged, and a smaller last batch then counts less.",
        )
    elif abs(best - full) > 1e-3 * full:
        _note_imperfect(name, best, f"{full:g}", claims)
    elif weak < 0.99 * best:
        claims.add(
            "warn",
            f"metric '{name}' takes logits for probabilities",
            expected="a threshold of 0 for logits, 0.5 after a sigmoid",
            actual=f"{name} = {weak:.4g} where all logits have the right sign and are "
            "0.3 in size",
            fix="Use outputs > 0, or outputs.sigmoid() > 0.5.",
        )


def _note_imperfect(name: str, value: float, wanted: str, claims: Claims) -> None:
    claims.add(
        "warn",
        f"metric '{name}' of perfect outputs is not {wanted}",
        expected=f"{name} = {wanted} where the outputs say what the targets say",
        actual=f"{name} = {value:.4g}",
        fix="Look at the axis of argmax, at the field of the batch that it compares "
        "with, and at shapes that are broadcast.",
    )


def _judge_deaf(
    trials: Trials,
    names: list[str],
    monitored: str,
    base: dict[str, float],
    claims: Claims,
) -> None:
    """A measure of quality changes with the outputs, and with the targets."""
    judged = [n for n in names if n == monitored or QUALITY.search(n)]
    can_be_tried = trials.has_numbers and trials.size >= MIN_SAMPLES
    if not judged or not can_be_tried or trials.has_constant():
        return
    noises, error = attempt(
        lambda: [trials.measure(trials.noise(i)) for i in range(NUM_NOISES)]
    )
    if error is not None:
        return
    orders, error = attempt(
        lambda: [
            trials.measure(trials.noise(i), trials.shuffled(i))
            for i in range(NUM_ORDERS)
        ]
    )
    for name in judged:
        if not math.isfinite(base[name]):
            continue
        if len({base[name], *(found[name] for found in noises)}) == 1:
            if _moves_widely(trials, name, base[name]):
                continue  # logits that all lay between 0 and 1 by chance
            _note_deaf(name, "the outputs", base[name], claims)
        elif orders and QUALITY.search(name):
            pairs = zip(orders, noises, strict=False)
            alike = all(
                found[name] == noise[name]
                and found.get("loss", 0.0) != noise.get("loss", 1.0)  # which looks
                for found, noise in pairs
            )
            if alike and _stays(trials, name, noises[0][name]):
                _note_deaf(name, "the targets", base[name], claims)


def _moves_widely(trials: Trials, name: str, value: float) -> bool:
    """Whether outputs of any size and sign change the metric."""
    found, error = attempt(lambda: trials.measure(trials.noise(0, is_wide=True)))
    return error is None and found[name] != value


def _stays(trials: Trials, name: str, value: float) -> bool:
    """Whether other targets leave the metric too; means do not feel their order."""
    found, error = attempt(lambda: trials.measure(trials.noise(0), trials.moved()))
    return error is None and found[name] == value


def _note_deaf(name: str, what: str, value: float, claims: Claims) -> None:
    claims.add(
        "warn",
        f"metric '{name}' does not look at {what}",
        expected=f"other values for other {what.removeprefix('the ')}",
        actual=f"{name} = {value:.4g} whatever {what} are"
        if "outputs" in what
        else f"{name} is the same when {what} are shuffled",
        fix="Look at what the metric compares; it is called as metric(outputs, batch).",
    )


def _judge_direction(trials: Trials, name: str, train: Any, claims: Claims) -> None:
    """Outputs that the loss calls better must be better for the monitor."""
    steps: list[float] = []
    for number in range(NUM_STARTS):
        found, error = attempt(lambda i=number: trials.improved(i))
        if error is not None or found is None:
            return
        pair, error = attempt(lambda f=found: [trials.measure(o) for o in f])
        if error is not None:
            return
        steps.append(pair[1][name] - pair[0][name])
    if not all(map(math.isfinite, steps)):
        return
    wrong = (
        all(s > 0 for s in steps) if train.mode == "min" else all(s < 0 for s in steps)
    )
    if wrong:
        way = "rises" if train.mode == "min" else "falls"
        mean = sum(steps) / len(steps)
        _note_direction(
            train, f"{name} {way} by {abs(mean):.3g} where the loss improves", claims
        )


def _note_direction(train: Any, reason: str, claims: Claims) -> None:
    other = "max" if train.mode == "min" else "min"
    claims.add(
        "warn",
        "monitor and mode point the wrong way: the worst weights would be kept as best",
        expected=f"mode={other!r} for {train.monitor}",
        actual=f"monitor={train.monitor!r}, mode={train.mode!r}; {reason}",
        fix=f"Set mode={other!r}.",
    )


def _judge_side_effects(probe: Probe, claims: Claims) -> None:
    """A metric looks; it changes neither the model's weights nor its mode."""
    changed: dict[str, str] = {}
    given = probe.task.metrics
    simple = given if isinstance(given, Mapping) else {"metrics": given}
    for name, metric in simple.items():
        if hasattr(metric, "compute"):
            continue
        twin: Any = _watched(name, metric, probe.model, changed)
        attempt(lambda t=twin, n=name: evaluated(probe, {n: t} if t else None))
    for name, what in changed.items():
        claims.add(
            "warn",
            f"metric '{name}' changes the model's {what}",
            expected="a metric that only looks at outputs and batch",
            actual=f"{what} of the model differ after the metric was computed",
            fix="Take calls of the model, model.train() and optimizers out of it.",
        )


def _watched(
    name: str, metric: Callable[..., Any], model: nn.Module, changed: dict[str, str]
) -> Callable[..., Any]:
    def watched(outputs: Any, batch: Any) -> Any:
        modes = [module.training for module in model.modules()]
        versions = [p._version for p in model.parameters()]
        value = metric(outputs, batch)
        if modes != [module.training for module in model.modules()]:
            changed[name] = "mode"
        if versions != [p._version for p in model.parameters()]:
            changed[name] = "weights"
        return 0.0 if isinstance(value, Mapping) else value

    return watched
