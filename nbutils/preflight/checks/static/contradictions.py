"""S3: the settings agree with each other, with the data and with the task."""

from __future__ import annotations

from typing import Any

from nbutils.data.ignored import ignored_settings
from nbutils.errors import NbutilsError
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.static.amounts import judge_amounts
from nbutils.preflight.checks.static.knobs import judge_knobs
from nbutils.preflight.checks.static.monitored import judge_monitored
from nbutils.preflight.probe import Probe
from nbutils.train.plan import Plan, make_plan

__all__ = ["CHECK"]


def run(probe: Probe, claims: Claims) -> None:
    """Compare the settings in pairs; of the data only lengths are read."""
    plan, num_batches = _plan(probe, claims)
    if plan is not None:
        _judge_warmup(probe, plan, claims)
        _judge_length(probe, plan, num_batches, claims)
        _judge_saves(probe, plan, claims)
        _judge_left_out(probe, claims)
        judge_amounts(probe, plan, claims)
        steps = "no planned end" if plan.steps is None else f"{plan.steps:,} updates"
        claims.show([("the run", steps)])
    judge_monitored(probe, claims)
    judge_knobs(probe, claims)
    _judge_ignored(probe, claims)
    if not claims.claims:
        claims.add("pass", "no two settings contradict each other")


def _plan(probe: Probe, claims: Claims) -> tuple[Plan | None, int | None]:
    """The run's plan; none where the data gives no batch at all."""
    try:
        num_batches = probe.data.loader("train").num_batches
        return make_plan(probe.config, num_batches), num_batches
    except NbutilsError as error:
        if probe.facts["depth"] == "static":  # else R3 tells
            claims.add(
                "fail",
                "the settings make no training batch",
                expected="at least one batch an epoch",
                actual=str(error),
                fix="Lower batch_size, or set drop_last=False.",
            )
    except Exception as error:  # __len__ is the user's own; R3 tells
        claims.show([("the length of the data", f"{type(error).__name__}: {error}")])
    return None, None


def _judge_warmup(probe: Probe, plan: Plan, claims: Claims) -> None:
    section = probe.config.schedule
    if probe.task.make_schedule is not None:
        return
    warmup, steps = section.warmup_steps, plan.steps
    if steps is not None and warmup and warmup >= steps:
        claims.add(
            "fail",
            "the warm-up never ends: it is as long as the run",
            expected=f"warmup_steps below the {steps:,} updates of the run",
            actual=f"warmup_steps = {warmup:,}: the learning rate would never reach "
            f"{probe.config.optim.lr:g}",
            fix=f"Set warmup_steps={max(steps // 10, 0)}, or plan more epochs.",
        )
    elif steps is not None and warmup > 0.8 * steps:
        claims.add(
            "warn",
            f"the warm-up takes {warmup / steps:.0%} of the run",
            expected="a warm-up of a few per cent of the run",
            actual=f"warmup_steps = {warmup:,} of {steps:,} updates",
            fix=f"Set warmup_steps={max(steps // 10, 1)}, or plan more epochs.",
        )
    lr = probe.config.optim.lr
    if section.schedule in ("cosine", "linear") and section.min_lr >= lr:
        claims.add(
            "warn",
            f"the {section.schedule} schedule falls from {lr:g} to {section.min_lr:g}: "
            "it is constant",
            expected="min_lr well below lr",
            actual=f"lr = {lr:g}, min_lr = {section.min_lr:g}",
            fix="Lower min_lr, or set schedule='constant'.",
        )


def _judge_length(
    probe: Probe, plan: Plan, num_batches: int | None, claims: Claims
) -> None:
    train = probe.config.train
    if num_batches is None:
        return
    if train.accumulation > num_batches:
        batches = "1 batch" if num_batches == 1 else f"{num_batches} batches"
        claims.add(
            "warn",
            f"accumulation of {train.accumulation} batches, and an epoch has "
            f"{num_batches}: one update an epoch",
            expected=f"accumulation well below {num_batches}",
            actual=f"{batches} an epoch: {plan.steps:,} updates in the whole run",
            fix=f"Lower accumulation to {max(num_batches // 4, 1)}, or batch_size.",
        )
    elif train.accumulation > 1 and train.accumulation == num_batches:
        claims.show([("accumulation", "one update an epoch: the whole data at once")])
    if plan.steps is not None and plan.steps < (plan.steps_per_epoch or 0):
        share = plan.steps / (plan.steps_per_epoch or 1)
        claims.show(
            [("max_steps", f"ends after {share:.0%} of the first epoch")],
        )


def _judge_saves(probe: Probe, plan: Plan, claims: Claims) -> None:
    section, steps = probe.config.checkpoint, plan.steps
    every = section.save_every_steps
    if steps is None or every is None or every <= steps:
        return
    told = f"save_every_steps = {every:,} in a run of {steps:,} updates"
    num_epochs = plan.epochs or 0
    by_epoch = section.save_every_epochs
    is_saved = by_epoch is not None and by_epoch <= num_epochs
    if is_saved or section.save_every_minutes is not None:
        claims.show([("save_every_steps", f"{told}: only the other intervals save")])
        return
    claims.add(
        "warn",
        "no checkpoint is saved before the run ends",
        expected="an interval that comes at least once",
        actual=told,
        fix=f"Set save_every_steps={max(steps // 4, 1)}, or save_every_minutes.",
    )


def _judge_left_out(probe: Probe, claims: Claims) -> None:
    """What ``drop_last`` leaves out of each epoch."""
    loader = probe.data.loader("train")
    order: Any = getattr(loader, "plan", None)
    data = probe.data.samples("train")
    if order is None or not order.drop_last or data is None:
        return
    total, used = len(data), loader.num_samples or 0
    left = total - used
    if left <= 0:
        return
    told = f"{left} of {total} samples ({left / total:.0%})"
    if not order.shuffle and left >= 0.25 * total:
        claims.add(
            "warn",
            f"drop_last leaves out the same {told} in every epoch",
            expected="every sample is seen",
            actual=f"batch_size = {order.batch_size}, shuffle and drop_last as set",
            fix="Set drop_last=False, or shuffle=True.",
        )
    else:
        claims.show([("drop_last", f"leaves out {told} of each epoch")])


def _judge_ignored(probe: Probe, claims: Claims) -> None:
    for text in ignored_settings(probe.task, probe.config):
        claims.add(
            "warn",
            f"{text.partition(' ')[0].partition('=')[0]} has no effect",
            expected="a setting that something reads",
            actual=text,
            fix="Leave the setting out, or do what it says there.",
        )


CHECK = Check(
    id="S3",
    title="No two settings contradict each other",
    why="A warm-up longer than the run, or a best that is the worst, costs the whole "
    "run and raises no error.",
    run=run,
    depth="static",
)
