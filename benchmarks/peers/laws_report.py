"""Laws 2, 8 and 10: what is refused, what is reported, what is raised."""

from __future__ import annotations

import math
import re
from typing import Any

from benchmarks.peers.bench import Bench, Verdict, as_failed, as_passed, judge
from benchmarks.peers.job import Job
from benchmarks.peers.tasks import Blobs, Constant, Sgd, Values

__all__ = ["EXPERIMENTS"]

MEAN = (8 * 1.0 + 2 * 100.0) / 10  # squares of eight ones and two tens
OF_BATCHES = (1 + 1 + 100) / 3
SAYS = re.compile(r"empty|zero|no (valid|batch|sample|data)", re.I)


def _bad_batch(bench: Bench) -> dict[str, Any]:
    """Forty batches, one sample of NaN in the fourth."""

    def run() -> Any:
        return bench.run(
            lambda: bench.job(
                train=Blobs(160, bad=13),
                folder=bench.folder(),
                log_every=1,
                keep_log=True,
            )
        ).value

    return bench.once("bad", run)


def finite_weights(bench: Bench) -> Verdict:
    """One NaN batch: the weights stay finite."""
    seen = _bad_batch(bench)
    is_finite = all(map(math.isfinite, seen["weights"]))
    end = f"raised {seen['error'][:90]}" if seen["error"] else "trained on"
    weights = "finite" if is_finite else "NaN"
    return judge(
        is_finite, f"weights {weights} after {len(seen['steps'])} updates; {end}"
    )


def visible_nan(bench: Bench) -> Verdict:
    """The NaN batch shows in what is logged."""
    seen = _bad_batch(bench)
    if "nan" in seen["error"].lower():
        return as_passed(f"raised {seen['error'][:90]}")
    outcome = seen["outcome"]
    refused = [row for row in outcome.log if row.get("kind") == "refused"]
    if refused:
        row = refused[0]
        return as_passed(f"an event names step {row['step']}, loss {row['loss']}")
    values = [
        value
        for row in outcome.log
        for name, value in row.items()
        if "loss" in name and isinstance(value, float)
    ]
    values += outcome.train_losses
    count = sum(not math.isfinite(value) for value in values)
    shown = " ".join(f"{value:.3g}" for value in values[:7])
    return judge(
        count > 0, f"{count} of {len(values)} logged losses are NaN: {shown} …"
    )


def _means(bench: Bench, **more: Any) -> Any:
    def job() -> Job:
        return Job(
            **{
                "model": Constant(),
                "loss": Constant.loss,
                "train": Values(),
                "optimizer": Sgd,
                "folder": bench.folder(),
                "lr": 1e-12,
                "variant": bench.variant,
                **more,
            }
        )

    return bench.run(job)


def train_mean(bench: Bench) -> Verdict:
    """Batches of 4, 4 and 2: the reported loss is the mean over samples."""
    seen = _means(bench, val=Values()).value
    return _is_mean(seen, "train_losses")


def val_mean(bench: Bench) -> Verdict:
    """The same for the validation loss."""
    seen = _means(bench, val=Values()).value
    return _is_mean(seen, "val_losses")


def _is_mean(seen: dict[str, Any], name: str) -> Verdict:
    values = getattr(seen["outcome"], name)
    if seen["error"] or not values:
        return as_failed(seen["error"] or "no loss was reported")
    text = f"{values[-1]:.3f}, mean of samples {MEAN:.3f}, of batches {OF_BATCHES:.3f}"
    return judge(abs(values[-1] - MEAN) < 1e-3 * MEAN, text)


def empty_validation(bench: Bench) -> Verdict:
    """No validation sample: an error or a warning, not a number."""
    ended = _means(bench, val=Values(0))
    seen = ended.value
    if seen["error"]:
        return as_passed(f"raised {seen['error'][:90]}")
    values = seen["outcome"].val_losses
    said = [line for line in ended.output.splitlines() if SAYS.search(line)]
    if said:
        return as_passed(f"said: {' '.join(said[0].split())[-110:]}")
    if not values:
        return as_failed("neither a loss nor a word about it")
    text = f"reported {values[-1]}"
    return judge(not math.isfinite(values[-1]), text)


def failing_sink(bench: Bench) -> Verdict:
    """TensorBoard's writer raises: training goes on, and it is said."""

    def break_writer() -> None:
        from torch.utils import tensorboard

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("the disk of the event file is gone")

        tensorboard.SummaryWriter.add_scalar = fail
        tensorboard.SummaryWriter.add_scalars = fail

    folder = bench.folder()
    ended = bench.run(
        lambda: bench.job(folder=folder, tensorboard=True, log_every=1, keep_log=True),
        break_writer,
    )
    seen = ended.value
    updates = f"{len(seen['steps'])} of 10 updates"
    if seen["error"]:
        return as_failed(f"{updates}, then raised {seen['error'][:100]}")
    told = "event file is gone" in ended.output or any(
        "event file is gone" in str(row) for row in seen["outcome"].log
    )
    return judge(told, f"{updates}; the failure was {'told' if told else 'not told'}")


def failing_callback(bench: Bench) -> Verdict:
    """A user's callback raises: so does the call."""

    def fail() -> None:
        raise ValueError("a bug of the user")

    seen = bench.run(lambda: bench.job(folder=bench.folder(), on_step=fail)).value
    text = f"{len(seen['steps'])} update(s), then {seen['error'][:80] or 'nothing'}"
    return judge("a bug of the user" in seen["error"], text)


EXPERIMENTS = {
    "2a": ("a NaN batch does not reach the weights", finite_weights),
    "2b": ("a NaN batch shows in the log", visible_nan),
    "8a": ("epoch's training loss is the mean over samples", train_mean),
    "8b": ("validation loss is the mean over samples", val_mean),
    "8c": ("an empty validation set is an error or a warning", empty_validation),
    "10a": ("a failing log sink is told, training goes on", failing_sink),
    "10b": ("an error in a user's callback raises", failing_callback),
}
