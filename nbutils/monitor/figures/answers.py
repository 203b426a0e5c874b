"""The figures of a test: what its outputs and targets show, whatever the task is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nbutils.monitor.figures.calibration import plot_reliability
from nbutils.monitor.figures.classes import plot_classes
from nbutils.monitor.figures.confusion import plot_confusion
from nbutils.monitor.figures.style import save_figure
from nbutils.monitor.figures.values import plot_values

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AnswersLike", "draw_answers"]

_MAX_NAMED = 1000
"""Classes beyond which not even the worst are worth a figure."""


class AnswersLike(Protocol):
    """Outputs and targets of a test set, and what they are."""

    kind: str | None

    def outputs(self) -> Any:
        """All outputs, a tensor ``(N, ...)``."""

    def targets(self) -> Any:
        """All targets, a tensor ``(N, ...)``."""


def draw_answers(
    answers: AnswersLike, folder: Path, extras: Mapping[str, Any]
) -> list[Path]:
    """Save the figures that fit the answers.

    Classes: ``confusion.png``, ``classes.png`` and ``reliability.png``; one yes or no a
    sample: ``reliability.png``; values: ``values.png``.

    Args:
        answers: Of a test set.
        folder: Where the figures go.
        extras: The task's facts: ``class_names`` and ``target_unit`` are used.
    """
    import numpy as np

    outputs = np.asarray(answers.outputs(), np.float64)
    targets = np.asarray(answers.targets())
    if not np.isfinite(outputs).all():
        return []  # such outputs have no class and no probability
    if answers.kind == "classes" and outputs.shape[1] <= _MAX_NAMED:
        return _of_classes(outputs, targets, folder, extras.get("class_names"))
    if answers.kind == "binary" and outputs.size == len(outputs):
        sure, hits = _binary(outputs.reshape(-1), targets.reshape(-1) > 0.5)
        figure = plot_reliability(sure, hits, event="ones")
        return [save_figure(figure, folder / "reliability.png")]
    if answers.kind == "values":
        figure = plot_values(targets, outputs, unit=str(extras.get("target_unit", "")))
        return [save_figure(figure, folder / "values.png")]
    return []


def _of_classes(
    outputs: np.ndarray, targets: np.ndarray, folder: Path, names: Any
) -> list[Path]:
    import numpy as np

    num = outputs.shape[1]
    targets = targets.astype(np.int64)  # labels of eight bits would overflow below
    said = outputs.argmax(1)
    matrix = np.bincount(targets * num + said, minlength=num * num).reshape(num, num)
    class_names = _names(names, num)
    sure = _probabilities(outputs).max(1)
    figures = {
        "confusion": plot_confusion(matrix, class_names),
        "classes": plot_classes(matrix, class_names),
        "reliability": plot_reliability(sure, said == targets),
    }
    return [
        save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()
    ]


def _names(given: Any, num: int) -> Sequence[str]:
    if isinstance(given, Sequence) and len(given) == num:
        return [str(name) for name in given]
    return [str(number) for number in range(num)]


def _probabilities(outputs: np.ndarray) -> np.ndarray:
    """Rows that add up to one already are probabilities; else their softmax is."""
    import numpy as np

    if (outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-3):
        return outputs
    shifted = np.exp(outputs - outputs.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _binary(outputs: np.ndarray, is_one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    if (outputs >= 0).all() and (outputs <= 1).all():
        return outputs, is_one
    return 1 / (1 + np.exp(-np.clip(outputs, -60, 60))), is_one
