"""The field's yardstick: per-class F1, worst classes, confusion, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from nbutils.errors import ContractError
from nbutils.monitor.intervals import Interval, proportion_interval
from nbutils.monitor.reporting.drawn import image_tag

__all__ = ["Answer", "VisionYardstick", "score"]

_NUM_WORST = 5
_NUM_DOUBTS = 12
_TABLE_HEAD = ("class", "F1", "images", "right", "most often taken for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: position in the data, true and given label, its probability."""

    index: int
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VisionYardstick:
    """How a classifier does on data with known labels.

    Attributes:
        class_names: Name of each label.
        confusion_KK: Counts; rows are true classes, columns are answers.
        mistakes: Wrong answers, the most confident first.
        doubts: The right answers that were least sure, at most a dozen.
        split: Which data this is about.
        figures: Saved pictures by name.
    """

    class_names: tuple[str, ...]
    confusion_KK: Tensor
    mistakes: tuple[Answer, ...]
    doubts: tuple[Answer, ...]
    split: str = "test"
    figures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return (self.confusion_KK.trace() / self.confusion_KK.sum()).item()

    @property
    def accuracy_interval(self) -> Interval:
        """Where the accuracy lies on other data like this: Wilson's 95 % interval."""
        total = int(self.confusion_KK.sum())
        return proportion_interval(int(self.confusion_KK.trace()), total)

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of always answering the most frequent class."""
        return (self.confusion_KK.sum(1).max() / self.confusion_KK.sum()).item()

    @property
    def class_f1(self) -> dict[str, float]:
        """F1 of each class that occurs in the data or among the answers."""
        right_K = self.confusion_KK.diagonal().double()
        total_K = self.confusion_KK.sum(0) + self.confusion_KK.sum(1)
        return {
            name: (2 * right / total).item()
            for name, right, total in zip(
                self.class_names, right_K, total_K, strict=True
            )
            if total > 0
        }

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1, each class counting the same."""
        values = list(self.class_f1.values())
        return sum(values) / len(values)

    @property
    def worst(self) -> dict[str, float]:
        """The five classes with the lowest F1, lowest first."""
        ranked = sorted(self.class_f1.items(), key=lambda item: (item[1], item[0]))
        return dict(ranked[:_NUM_WORST])

    def __str__(self) -> str:
        rows = [_TABLE_HEAD, *self._worst_rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            for row in rows
        ]
        if not self.mistakes:
            return self._headline()
        return "\n".join([self._headline(), "Worst classes:", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Headline, worst classes and the saved pictures, in one piece."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in _TABLE_HEAD)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._worst_rows()
        )
        table = f"<table><caption>Worst classes</caption><tr>{head}</tr>{body}</table>"
        shown = [path for name, path in self.figures.items() if name != "classes"]
        pictures = "".join(map(image_tag, shown))  # the table tells the classes
        return (
            f"<div><p><b>{escape(self._headline())}</b></p>"
            f'<div style="display:flex;flex-wrap:wrap;gap:12px 28px">'
            f"{table if self.mistakes else ''}{pictures}</div></div>"
        )

    def _headline(self) -> str:
        """The result and what it must be compared with, in a sentence."""
        total = int(self.confusion_KK.sum())
        sure = self.accuracy_interval
        return (
            f"{self.split}: {total - len(self.mistakes)} of {total} images right, "
            f"accuracy {self.accuracy:.2%} (95% interval {sure.low:.2%} to "
            f"{sure.high:.2%}), macro F1 {self.macro_f1:.4f} "
            f"(always the most frequent class: {self.majority_accuracy:.2%})."
        )

    def _worst_rows(self) -> list[tuple[str, ...]]:
        """Table cells of the worst classes."""
        rows: list[tuple[str, ...]] = []
        for name, f1 in self.worst.items():
            label = self.class_names.index(name)
            answers_K = self.confusion_KK[label].clone()
            right, total = int(answers_K[label]), int(answers_K.sum())
            answers_K[label] = 0
            other = self.class_names[int(answers_K.argmax())] if total > right else "–"
            rows.append((name, f"{f1:.4f}", str(total), str(right), other))
        return rows


def score(
    logits_NK: Tensor,
    labels: Sequence[int],
    class_names: Sequence[str],
    split: str = "test",
) -> VisionYardstick:
    """The yardstick of outputs against labels.

    Raises:
        ContractError: The outputs do not fit the labels or are not finite.
    """
    expected = (len(labels), len(class_names))
    if tuple(logits_NK.shape) != expected or not labels:
        raise ContractError(
            f"outputs have shape {tuple(logits_NK.shape)}; expected {expected}: one "
            "row per label, one column per class. Predict on the data of the labels."
        )
    if not logits_NK.isfinite().all():
        bad = int((~logits_NK.isfinite()).any(dim=1).sum())
        raise ContractError(
            f"{bad} of {len(labels)} outputs are not finite, so they have no class. "
            "Look at the run's refused steps, or load an earlier checkpoint."
        )
    truth_N = torch.as_tensor(labels)
    confidence_N, answer_N = logits_NK.double().cpu().softmax(dim=1).max(dim=1)
    num_classes = len(class_names)
    confusion_KK = torch.bincount(
        truth_N * num_classes + answer_N, minlength=num_classes**2
    ).reshape(num_classes, num_classes)
    answers = [
        Answer(index=index, label=label, predicted=predicted, confidence=confidence)
        for index, (label, predicted, confidence) in enumerate(
            zip(labels, answer_N.tolist(), confidence_N.tolist(), strict=True)
        )
    ]
    answers.sort(key=lambda answer: answer.confidence)
    return VisionYardstick(
        class_names=tuple(class_names),
        confusion_KK=confusion_KK,
        mistakes=tuple(a for a in answers[::-1] if a.label != a.predicted),
        doubts=tuple(a for a in answers if a.label == a.predicted)[:_NUM_DOUBTS],
        split=split,
    )
