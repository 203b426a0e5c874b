"""What an experiment works with: a library, an option, a folder, fresh processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.children import Ended, in_child
from benchmarks.peers.job import Job, Outcome, Peer
from benchmarks.peers.tasks import (
    SEEN,
    STEPS,
    Adam,
    Blobs,
    Classifier,
    Sgd,
    digest,
)

__all__ = ["Bench", "Verdict", "as_failed", "as_passed", "judge"]

Trap = Callable[[int, Any], None]


@dataclass
class Verdict:
    """What an experiment found.

    Attributes:
        grade: ``pass``, ``FAIL``, ``n.a.`` or ``info``.
        evidence: One line, with numbers.
        option: The documented option that it needed.
    """

    grade: str
    evidence: str
    option: str = ""


def judge(is_good: bool, evidence: str) -> Verdict:
    """Pass or FAIL, and why."""
    return Verdict("pass" if is_good else "FAIL", evidence)


def as_passed(evidence: str) -> Verdict:
    """A pass."""
    return Verdict("pass", evidence)


def as_failed(evidence: str) -> Verdict:
    """A FAIL."""
    return Verdict("FAIL", evidence)


@dataclass
class Bench:
    """One library with one option; results of shared runs are kept."""

    peer: Peer
    variant: str
    scratch: Path
    kept: dict[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        """An empty folder."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once for all experiments that share it."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def run(
        self, make: Callable[[], Job], prepare: Callable[[], None] | None = None
    ) -> Ended:
        """Fit the job in a fresh process; its value is what :func:`_observe` gives."""

        def child() -> dict[str, Any]:
            torch.set_num_threads(1)
            if prepare is not None:
                prepare()
            return _observe(self.peer, make())

        return in_child(child, self.folder() / "output.txt")

    def job(self, **more: Any) -> Job:
        """The two-class task; ``more`` as in :class:`Job`."""
        model = more.pop("model", None) or Classifier()
        return Job(
            **{
                "model": model,
                "loss": torch.nn.functional.cross_entropy,
                "train": Blobs(),
                "optimizer": Sgd,
                "variant": self.variant,
                **more,
            }
        )

    def shuffled(
        self,
        folder: Path,
        *,
        trap: Trap | None = None,
        augment: bool = False,
        resume: bool = False,
        width: int = 16,
        **more: Any,
    ) -> Job:
        """Shuffled epochs of ten batches with dropout (or augmentation) and Adam."""
        return self.job(
            model=Classifier(width, 0.0 if augment else 0.2, trap),
            train=Blobs(augment=augment),
            optimizer=Adam,
            lr=1e-2,
            shuffle=True,
            folder=folder,
            resume=resume,
            **{"epochs": 2, **more},
        )


def _observe(peer: Peer, job: Job) -> dict[str, Any]:
    """Fit, whatever comes of it, and tell what was seen from inside the model."""
    error = ""
    outcome = Outcome()
    try:
        outcome = peer.fit(job)
    except (Exception, KeyboardInterrupt, SystemExit) as caught:
        error = f"{type(caught).__name__}: {caught}"
    weights = [p.detach().double().flatten() for p in job.model.parameters()]
    return {
        "error": " ".join(error.split())[:300],
        "outcome": outcome,
        "seen": list(SEEN),
        "steps": list(STEPS),
        "weights": torch.cat(weights).tolist(),
        "digest": digest(job.model.parameters()),
        "started": getattr(job.model, "started", ""),
    }
