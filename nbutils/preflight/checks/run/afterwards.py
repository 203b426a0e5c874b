"""R13: what comes after training works, tried on the run in miniature."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nbutils.data.batch import describe
from nbutils.data.loader import OrderedLoader
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.run.artifacts import judge_artifacts
from nbutils.preflight.checks.run.collapse import judge_collapse
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.rehearsal import rehearsing
from nbutils.train.evaluate import evaluate, predict
from nbutils.train.session import Session

__all__ = ["CHECK"]

NUM_WINDOWS = 3
MAX_BATCHES = 60
MAX_SECONDS = 8.0
NUM_PREDICTED = 3


@dataclass
class _Reader:
    """Batches of a split: the first, the last, then the others while time lasts."""

    probe: Probe
    split: str
    number: int = 0
    is_whole: bool = False

    def __iter__(self) -> Iterator[Any]:
        loader = self.probe.data.loader(self.split)
        until = time.perf_counter() + MAX_SECONDS
        if not isinstance(loader, OrderedLoader):
            for self.number, batch in enumerate(islice(loader, MAX_BATCHES)):
                yield batch
                if time.perf_counter() > until:
                    return
            return
        last = len(loader) - 1
        numbers = list(dict.fromkeys([0, last, *range(last)]))
        for self.number in numbers[:MAX_BATCHES]:
            loader.set_position(0, self.number)
            yield next(iter(loader))
            if time.perf_counter() > until:
                return
        self.is_whole = len(numbers) <= MAX_BATCHES


def run(probe: Probe, claims: Claims) -> None:
    """Train a few windows; then evaluate, predict, export, report and reload."""
    with rehearsing(probe, mirror=None) as rehearsal:
        session = rehearsal.session()
        recorder = session.recorder("rehearsal")
        rehearsal.fit(session, min(NUM_WINDOWS, session.plan.steps or 3), recorder)
        for split in ("val", "test"):
            if probe.data.has(split):
                _judge_split(probe, session, split, claims)
        if claims.worst == "fail":
            return
        _judge_predict(probe, session, claims)
        if not _is_late(probe, claims):
            judge_artifacts(probe, rehearsal, session, claims)


def _judge_split(probe: Probe, session: Session, split: str, claims: Claims) -> None:
    """The run's own evaluation, with every metric, on every batch there is time for."""
    reader = _Reader(probe, split)
    values, error = attempt(lambda: _evaluated(session, reader))
    if error is None:
        told = ", ".join(f"{name} {_text(value)}" for name, value in values.items())
        claims.add("pass", f"'{split}' can be evaluated")
        claims.show([(f"{split}, after {session.state.step} steps", told)])
        if not reader.is_whole or session.task.metrics:
            judge_collapse(probe, session, split, claims)
        return
    where = f"batch {reader.number} of '{split}'"
    is_alike = _form(probe, split) == _form(probe, "train")
    claims.add(
        "fail" if is_alike or split == "val" else "warn",
        f"evaluating '{split}' fails",
        expected=f"loss and metrics of '{split}', as after training",
        actual=f"{where}: {quote(error)}",
        fix="Mend the metric or the data there: the error would come after the last "
        "epoch."
        if is_alike
        else f"'{split}' has another form than the training data. Give it targets, or "
        "leave it to run.predict(data).",
    )


def _evaluated(session: Session, batches: Any) -> dict[str, Any]:
    with session.averaged():
        return evaluate(
            session.task,
            batches,
            session.precision,
            session.device,
            loss_weights=session.config.loss.loss_weights,
            seed=session.config.train.seed,
        )


def _form(probe: Probe, split: str) -> dict[str, tuple[str, int]]:
    """Paths of a batch with the dtype and the number of axes of each."""
    found, error = attempt(lambda: describe(probe.data.batch(split)))
    if error is not None:
        return {}
    return {p: (text.split(" ")[0], text.count(",")) for p, text in found.items()}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else f"{value}"[:60]


def _judge_predict(probe: Probe, session: Session, claims: Claims) -> None:
    """Outputs over a few batches join; where not, ``run.predict`` is not to be had."""
    split = next((s for s in ("test", "val") if probe.data.has(s)), "train")
    batches = list(islice(_Reader(probe, split), NUM_PREDICTED))

    def call() -> Any:
        with session.averaged():
            return predict(session.task, batches, session.precision, session.device)

    outputs, error = attempt(call)
    if error is not None:
        claims.show([("run.predict", f"cannot be used: {quote(error)}")])
        return
    form = "; ".join(f"{p}: {t}" for p, t in describe(outputs).items())
    claims.show([("run.predict", form)])


def _is_late(probe: Probe, claims: Claims) -> bool:
    if probe.seconds_left > 0:
        return False
    claims.add("skip", "export, report and reload: left out, time is over")
    return True


CHECK = Check(
    id="R13",
    title="What comes after training works",
    why="An error in the last cell comes when the money is spent.",
    run=run,
    depth="rehearsal",
    needs=("R6",),
    limit_s=40.0,
)
