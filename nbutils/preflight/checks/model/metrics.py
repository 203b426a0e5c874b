"""Part of R4: the task's metrics give numbers, and ``monitor`` names one of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from nbutils.data.loader import OrderedLoader
from nbutils.errors import ConfigError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.judged import judge_part
from nbutils.preflight.checks.model.meaning import judge_meaning, judge_target
from nbutils.preflight.checks.model.metric_trials import evaluated, is_number, split_of
from nbutils.preflight.checks.model.outer import judge_one_sided, judge_outer
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.progress import judge_evaluation
from nbutils.train.state import RunState

__all__ = ["judge_metrics"]

ALWAYS_MEASURED = ("val_loss", "train_loss")
MAX_BATCHES = 12
MAX_SECONDS = 1.0
FIX = (
    "A metric is a function (outputs, batch) that gives a number, or an object of "
    'torchmetrics in a dict: metrics={"accuracy": metric}.'
)


def judge_metrics(probe: Probe, claims: Claims) -> None:
    """Evaluate one batch as the run will, then look for what it monitors."""
    given = probe.task.metrics
    train = probe.config.train
    is_plain = train.monitor in ALWAYS_MEASURED and train.mode == "min"
    if not given and is_plain and train.target is None:
        return
    base, error = attempt(lambda: evaluated(probe, None))
    if error is not None:
        return  # the loss cannot be computed; R5 tells why
    _judge_names(given, base, claims)
    if _names_taken(given, base):
        return  # the run's own evaluation refuses them
    values, error = attempt(lambda: evaluated(probe, given)) if given else (base, None)
    if error is not None:
        _note_culprits(probe, error, claims)
        return
    measured = {name: value for name, value in values.items() if name not in base}
    for name, value in measured.items():
        metric = given.get(name) if isinstance(given, Mapping) else given
        _judge_value(name, value, claims, may_be_list=hasattr(metric, "compute"))
    if claims.worst != "fail":
        _judge_monitor(probe, values, claims)
    if claims.worst != "fail" and given:
        _judge_others(probe, given, claims)
    if claims.worst != "fail":
        judge_target(probe, values, claims)
        judge_part("metrics", lambda: judge_meaning(probe, values, claims), claims)
    if given:
        _judge_forms(probe, claims)


def _judge_forms(probe: Probe, claims: Claims) -> None:
    """Shapes that are broadcast, and outputs that a metric does not foresee."""
    judge_part("metric shapes", lambda: judge_outer(probe, claims), claims)
    if claims.worst != "fail":
        judge_part("one class", lambda: judge_one_sided(probe, claims), claims)


def _note_culprits(probe: Probe, error: Exception, claims: Claims) -> None:
    """Name each metric that fails on its own; one function for all has no names."""
    given = probe.task.metrics
    found: dict[str, Exception] = {}
    for name in given if isinstance(given, Mapping) else ():
        alone = {name: given[name]}
        _, own = attempt(lambda metrics=alone: evaluated(probe, metrics))
        if own is not None:
            found[name] = own
    for name, own in found.items() or [(_name_of(given), error)]:
        claims.add(
            "fail",
            f"metric '{name}' cannot be computed",
            expected=f"a number for the first {split_of(probe)} batch",
            actual=f"{name}: {quote(own)}",
            fix=FIX,
        )


def _judge_others(probe: Probe, given: Any, claims: Claims) -> None:
    """The batches after the first: a class that one of them lacks, a division by 0.

    Metrics that sum over the split, as torchmetrics do, need no answer for each batch.
    """
    if isinstance(given, Mapping):
        given = {n: m for n, m in given.items() if not hasattr(m, "compute")}
    if not given or hasattr(given, "compute"):
        return
    loader = probe.data.loader(split_of(probe))
    count = min(len(loader) if isinstance(loader, OrderedLoader) else 1, MAX_BATCHES)
    over_s = time.perf_counter() + min(MAX_SECONDS, probe.seconds_left)
    for number in range(1, count):
        if time.perf_counter() > over_s:
            return
        batch = probe.data.batch(split_of(probe), None, number)
        values, error = attempt(lambda b=batch: evaluated(probe, given, batch=b))
        bad = [n for n, v in (values or {}).items() if is_number(v) and math.isnan(v)]
        if error is None and not bad:
            continue
        what = quote(error) if error is not None else f"{', '.join(bad)} = NaN"
        claims.add(
            "warn" if error is None else "fail",
            f"a metric is {'not finite' if bad else 'not computed'} on some batches",
            expected="a number for each batch, also where a class is absent",
            actual=f"{split_of(probe)} batch {number}: {what}",
            fix="Guard the division by 0; or use torchmetrics, which sums over the "
            "split before it divides.",
        )
        return


def _name_of(metric: Any) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


def _judge_value(name: str, value: Any, claims: Claims, *, may_be_list: bool) -> None:
    numbers = value if isinstance(value, list) else [value]
    shown = f"{name} = {value}"
    if isinstance(value, list) and not may_be_list:
        claims.add(
            "fail",
            f"metric '{name}' gives {len(value)} values for a batch",
            expected="one number; values of batches are averaged",
            actual=f"{name} = {value[:3]} and so on",
            fix="Add .mean() to what it returns.",
        )
    elif not all(is_number(number) for number in _flat(numbers)):
        claims.add(
            "fail",
            f"metric '{name}' gives no number",
            expected="a number",
            actual=shown,
            fix=FIX,
        )
    elif not all(math.isfinite(number) for number in _flat(numbers)):
        claims.add(
            "warn",
            f"metric '{name}' is not finite on one batch",
            expected="a finite number",
            actual=shown,
            fix="Look for a division by 0; a metric that needs every class in each "
            "batch belongs into torchmetrics, which sums over the split.",
        )
    else:
        claims.add("pass", f"metric '{name}' gives a number", actual=shown)


def _flat(values: list[Any]) -> list[Any]:
    inner = (_flat(v) if isinstance(v, list) else [v] for v in values)
    return [value for part in inner for value in part]


def _judge_names(given: Any, base: dict[str, Any], claims: Claims) -> None:
    """A metric under the name of the loss or of a term would take its place."""
    taken = _names_taken(given, base)
    if taken:
        claims.add(
            "fail",
            f"metric '{taken[0]}' hides the loss of that name",
            expected=f"names other than {', '.join(base)}",
            actual=f"metrics named {', '.join(taken)}",
            fix="Rename the metric.",
        )


def _names_taken(given: Any, base: dict[str, Any]) -> list[str]:
    return [name for name in base if isinstance(given, Mapping) and name in given]


def _judge_monitor(probe: Probe, values: dict[str, Any], claims: Claims) -> None:
    """The run's own rule, on the numbers that it will have."""
    train = probe.config.train
    row: dict[str, Any] = {"train_loss": 0.0}
    if probe.data.has("val"):
        numbers = {n: v for n, v in values.items() if is_number(v)}
        row |= {f"val_{name}": float(value) for name, value in numbers.items()}
    try:
        judge_evaluation(RunState(), train, row)
    except ConfigError as error:
        claims.add(
            "fail",
            f"monitor '{train.monitor}' is not measured",
            expected=f"one of {', '.join(sorted(row))}",
            actual=str(error),
            fix="Set monitor to one of these, or add the metric to the task.",
        )
    else:
        claims.add("pass", f"monitor '{train.monitor}' is measured")
