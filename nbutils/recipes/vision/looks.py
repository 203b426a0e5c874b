"""Pictures of a vision task: what the model is fed, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nbutils.data.rng import preserved_rng, seed_rng
from nbutils.monitor.figures import (
    plot_classes,
    plot_confusion,
    plot_mistakes,
    save_figure,
)
from nbutils.recipes.vision.score import Answer, VisionYardstick, score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbutils.data.task import Task

__all__ = ["Run", "preview", "yardstick"]

_NUM_PICTURES = 12


class Run(Protocol):
    """What the yardstick needs of a coordinator."""

    task: Task
    run_dir: Path

    def predict(self, data: Any) -> Tensor:
        """Outputs in the order of the data."""
        ...


def preview(task: Task, count: int = _NUM_PICTURES) -> Figure:
    """Training images as the model gets them, augmented, with their classes.

    Drawing them leaves the random numbers of training untouched.
    """
    data = task.train_data
    mean, std = (
        torch.tensor(task.extras["data_config"][key]).reshape(-1, 1, 1)
        for key in ("mean", "std")
    )
    chosen = range(min(count, len(data)))
    with preserved_rng():
        seed_rng(0)
        samples = [data[index] for index in chosen]
    images = [(image * std + mean).clamp(0, 1) for image, _ in samples]
    titles = [task.extras["class_names"][label] for _, label in samples]
    counts = ", ".join(
        f"{len(part):,} {word}"
        for part, word in (
            (task.train_data, "training"),
            (task.val_data, "validation"),
            (task.test_data, "test"),
        )
        if part is not None
    )
    num_classes = len(task.extras["class_names"])
    size = " × ".join(map(str, samples[0][0].shape[-2:]))
    heading = f"{counts} images of {num_classes} classes, fed as {size} pixels"
    return plot_mistakes(images, titles, heading)


def yardstick(run: Run, split: str = "test") -> VisionYardstick:
    """Scores of the run's model on a split, with figures in the run directory.

    Writes ``figures/confusion.png``, ``figures/classes.png`` and
    ``figures/mistakes.png``: the most confident mistakes, then the right answers that
    were least sure. Of another split than ``"test"``, its name is in theirs.
    """
    data = run.task.dataset(split)
    names = run.task.extras["class_names"]
    scores = score(run.predict(data), data.labels, names, split)
    folder = Path(run.run_dir) / "figures"
    answers = (*scores.mistakes, *scores.doubts)[:_NUM_PICTURES]
    mistakes = plot_mistakes(
        [np.asarray(data.image(answer.index)) / 255 for answer in answers],
        [_caption(answer, names) for answer in answers],
        _heading(len(scores.mistakes), split),
    )
    matrix = scores.confusion_KK.numpy()
    drawn = {
        "confusion": plot_confusion(matrix, names),
        "classes": plot_classes(matrix, names),
        "mistakes": mistakes,
    }
    of = "" if split == "test" else f"-{split}"  # the report shows those of the test
    figures = {
        name: save_figure(figure, folder / f"{name}{of}.png")
        for name, figure in drawn.items()
    }
    return replace(scores, figures=figures)


def _heading(num_mistakes: int, split: str) -> str:
    """What the grid shows."""
    doubts = "right answers that were least sure"
    if not num_mistakes:
        return f"No mistake on {split}; the {doubts}"
    if num_mistakes >= _NUM_PICTURES:
        return f"The {_NUM_PICTURES} most confident of {num_mistakes} mistakes"
    noun = "mistake" if num_mistakes == 1 else f"{num_mistakes} mistakes"
    return f"The {noun}, the most confident first; then {doubts}"


def _caption(answer: Answer, names: Sequence[str]) -> str:
    """What an image is and what it was taken for."""
    sure = f"{answer.confidence:.0%} sure"
    if answer.label == answer.predicted:
        return f"{names[answer.label]}: right,\nonly {sure}"
    return f"{names[answer.label]}: taken for\n{names[answer.predicted]}, {sure}"
