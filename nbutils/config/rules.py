"""Rules over several settings, as pure functions of leaf values.

The parameters of a rule name the leaves it needs; a rule runs when all of them are
valid by themselves. It returns one sentence, or None when it holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["RULES", "broken_rules"]

MAX_NAME_BYTES = 200  # file systems allow 255; a number or a suffix may follow


def fractions_leave_data(val_fraction: float, test_fraction: float) -> str | None:
    """Something must be left to train on."""
    if val_fraction + test_fraction < 1:
        return None
    return (
        f"val_fraction is {val_fraction} and test_fraction is {test_fraction}; "
        "together they must be < 1, so that data is left to train on."
    )


def min_lr_below_lr(min_lr: float, lr: float) -> str | None:
    """A schedule goes down to ``min_lr``, not up."""
    if min_lr <= lr:
        return None
    return f"min_lr is {min_lr}; it must be <= lr, which is {lr}."


def warmup_ends(warmup_steps: int, max_steps: int | None) -> str | None:
    """The warm-up must end before the run does."""
    if max_steps is None or warmup_steps < max_steps or warmup_steps == 0:
        return None
    return (
        f"warmup_steps is {warmup_steps}; it must be < max_steps, which is {max_steps}."
    )


def betas_in_range(betas: tuple[float, float]) -> str | None:
    """Adam's decays are in [0, 1)."""
    if all(0 <= beta < 1 for beta in betas):
        return None
    return f"betas is {betas}; both must be >= 0 and < 1."


def weights_not_negative(loss_weights: Mapping[str, float]) -> str | None:
    """A negative weight would maximise its term."""
    wrong = {name: weight for name, weight in loss_weights.items() if weight < 0}
    if not wrong:
        return None
    return f"loss_weights holds {wrong}; each weight must be >= 0."


def group_factors_not_negative(
    lr_groups: Mapping[str, float], decay_groups: Mapping[str, float]
) -> str | None:
    """A negative factor would climb instead of descend."""
    for leaf, factors in (("lr_groups", lr_groups), ("decay_groups", decay_groups)):
        wrong = {name: factor for name, factor in factors.items() if factor < 0}
        if wrong:
            return f"{leaf} holds {wrong}; each factor must be >= 0."
    return None


def phases_are_curves(
    loss_phases: Mapping[str, Sequence[tuple[float, float]]],
) -> str | None:
    """Each phase runs forwards through the run, and never maximises its term."""
    for name, points in loss_phases.items():
        shares = [share for share, _ in points]
        where = f"loss_phases[{name!r}] is {[list(point) for point in points]}"
        if not points:
            return f"{where}; at least one point [share of the run, factor] is needed."
        if any(share < 0 or share > 1 for share in shares):
            return f"{where}; each share of the run must be from 0 to 1."
        if any(left >= right for left, right in pairwise(shares)):
            return f"{where}; the shares of the run must increase from point to point."
        if any(factor < 0 for _, factor in points):
            return f"{where}; each factor must be >= 0."
    return None


def monitor_is_named(
    monitor: str, patience: int | None, target: float | None
) -> str | None:
    """Patience and target watch a metric, so it must have a name."""
    if monitor.strip() or (patience is None and target is None):
        return None
    return (
        f"monitor is {monitor!r}; patience and target need the name of a metric, "
        "such as 'val_loss'."
    )


def run_name_is_a_folder(run_name: str | None) -> str | None:
    """The run's folder has this name, inside ``runs_dir``."""
    if run_name is None:
        return None
    odd = set(run_name) & set("/\\:") or not run_name.isprintable()
    size = len(run_name.encode())
    if size > MAX_NAME_BYTES:
        return (
            f"run_name has {size} bytes; a folder name of at most {MAX_NAME_BYTES} is "
            "expected."
        )
    if not odd and run_name.strip(" ."):
        return None
    return (
        f"run_name is {run_name!r}; it must be one printable folder name "
        "without '/', '\\' or ':'."
    )


RULES: tuple[Callable[..., str | None], ...] = (
    fractions_leave_data,
    min_lr_below_lr,
    warmup_ends,
    betas_in_range,
    weights_not_negative,
    group_factors_not_negative,
    phases_are_curves,
    monitor_is_named,
    run_name_is_a_folder,
)


def broken_rules(values: Mapping[str, Any]) -> list[str]:
    """One sentence for each rule that the valid leaves in ``values`` break."""
    sentences: list[str] = []
    for rule in RULES:
        needed = list(inspect.signature(rule).parameters)
        if all(leaf in values for leaf in needed):
            sentence = rule(**{leaf: values[leaf] for leaf in needed})
            sentences += [sentence] if sentence else []
    return sentences
