"""Figures draw whatever a run left, and need no pyplot."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbutils.errors import ContractError
from nbutils.monitor import figures
from nbutils.monitor.figures import (
    draw_answers,
    plot_classes,
    plot_confusion,
    plot_history,
    plot_mistakes,
    plot_reliability,
    plot_values,
    save_figure,
)
from nbutils.monitor.figures.calibration import calibration_error

ROWS: list[dict[str, Any]] = [
    {"epoch": n, "step": 10 * n, "train_loss": 1 / n, "val_loss": 1.1 / n, "lr": 0.1}
    | {"val_accuracy": 1 - 0.5 / n, "val_perplexity": 10.0 / n, "note": "x$y"}
    for n in range(1, 6)
]
EVENTS: list[dict[str, Any]] = [
    {"time_s": 0.0, "kind": "step", "step": s, "loss": 1 / s, "lr": 0.1}
    for s in range(1, 51)
]


def title(figure: Any) -> str:
    """The message above a figure, in one line."""
    return figure.get_suptitle().replace("\n", " ")


BEST = {"time_s": 0.0, "kind": "checkpoint", "step": 30, "best": True, "path": "p"}


def test_plot_history_draws_loss_metrics_and_rate_and_marks_the_best(
    tmp_path: Path,
) -> None:
    figure = plot_history(ROWS, [*EVENTS, BEST])
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["loss", "val_accuracy", "val_perplexity", "learning rate"]
    assert title(figure) == "Best val_loss 0.3667, at step 30 of 50"
    assert "best: step 30" in figure.axes[0].get_legend_handles_labels()[1]
    assert save_figure(figure, tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("rows", "events"),
    [([], []), (ROWS, []), ([], EVENTS), ([{"epoch": 1, "val_loss": math.nan}], [])],
)
def test_plot_history_of_partial_runs_is_drawn(
    rows: list[dict[str, Any]], events: list[dict[str, Any]], tmp_path: Path
) -> None:
    save_figure(plot_history(rows, events), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_history_names_metrics_it_has_no_room_for() -> None:
    rows = [{"epoch": 1, "step": 1, **{f"val_$m{i}": 5.0 + i for i in range(5)}}]
    figure = plot_history(rows, [])
    assert figure.axes[-1].get_title(loc="left") == r"not drawn: val_\$m3, val_\$m4"


@pytest.mark.parametrize("num_classes", [2, 10, 30])
def test_plot_confusion_writes_every_count(num_classes: int, tmp_path: Path) -> None:
    counts = np.full((num_classes, num_classes), 3)
    counts[1] = 0
    names = [f"class $_{i}^" * (1 + i % 3) for i in range(num_classes)]
    figure = plot_confusion(counts, names)
    axis = figure.axes[0]
    assert len(axis.texts) == num_classes * (num_classes - 1)
    assert axis.get_yticklabels()[1].get_text().endswith("(none)")
    save_figure(figure, tmp_path / "a.png", dpi=50)


def test_plot_confusion_without_samples_says_so() -> None:
    figure = plot_confusion(np.zeros((2, 2), int), ["a", "b"])
    assert title(figure) == "Confusion matrix: no samples"


def test_plot_confusion_of_many_classes_shows_the_worst_pairs(tmp_path: Path) -> None:
    counts = np.eye(40, dtype=int) * 9
    counts[3, 7], counts[8, 2] = 5, 2
    figure = plot_confusion(counts, [f"c{i}" for i in range(40)])
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["c3 → c7", "c8 → c2"]
    assert title(figure) == "Most frequent mistake: 'c3' taken for 'c7', 5 of 14"
    save_figure(figure, tmp_path / "a.png", dpi=50)
    right = plot_confusion(np.eye(40, dtype=int), ["x"] * 40)
    assert title(right) == "No class is taken for another"


def test_plot_classes_puts_the_worst_first_and_leaves_out_what_does_not_occur() -> None:
    figure = plot_classes([[9, 1, 0], [4, 6, 0], [0, 0, 0]], ["cat", "dog", "eel"])
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["dog", "cat"]
    assert title(figure) == "'dog' is found least often: 60%, the best shown 90%"
    detail = figure.axes[0].get_title(loc="left")
    assert (
        detail
        == "2 classes, worst first; the intervals of worst and best shown overlap"
    )
    assert title(plot_classes([[0]], ["a"])) == "No class occurs in the data"
    perfect = plot_classes([[2, 0], [0, 3]], ["a", "b"])
    assert title(perfect) == "Every sample of every class was found"


def test_plot_reliability_says_whether_confidence_is_too_high() -> None:
    sure = np.full(200, 0.9)
    figure = plot_reliability(sure, np.arange(200) < 120)
    assert title(figure) == "Overconfident: 90% on average, 60% came true"
    detail = figure.axes[0].get_title(loc="left").replace("\n", " ")
    assert "calibration error 0.300" in detail
    few = plot_reliability(sure, np.arange(200) < 175)
    assert title(few) == "Confidence fits within chance: 90% on average, 88% came true"
    ones = plot_reliability(sure[:100] * 0.1, np.arange(100) < 40, event="ones")
    assert title(ones) == "Expects too few ones: 9% on average, 40% came true"


def test_calibration_error_of_honest_confidence_is_small() -> None:
    draws = np.random.default_rng(0)
    sure = draws.random(50_000)
    assert calibration_error(sure, draws.random(50_000) < sure) < 0.01
    assert calibration_error(np.ones(4), np.zeros(4)) == 1.0


@pytest.mark.parametrize("num", [0, 3, 5000])
def test_plot_values_draws_any_number(num: int, tmp_path: Path) -> None:
    true = np.linspace(0, 1, num)
    figure = plot_values(true, true * 0.5, unit="m")
    assert figure.axes[0].get_xlabel() == "true value (m)"
    save_figure(figure, tmp_path / "a.png", dpi=50)


def test_plot_values_tells_variance_error_and_what_is_not_finite() -> None:
    true = np.array([0.0, 1.0, 2.0, 3.0, math.nan])
    figure = plot_values(true, np.array([0.5, 1.5, 2.5, 3.5, 0.0]), unit="m")
    text = title(figure)
    assert text == "Explains 80% of the variance; half of the errors are below 0.5 m"
    assert "1 not finite" in figure.axes[0].get_title(loc="left")
    assert "No better than the mean" in title(plot_values([0.0, 1.0], [5.0, 5.0]))
    assert (
        title(plot_values([1.0, 1.0], [1.0, 2.0])) == "Half of the errors are below 0.5"
    )
    assert title(plot_values([], [])) == "No finite values"


class Kept:
    """Outputs and targets, as a test hands them over."""

    def __init__(self, kind: str | None, outputs: Any, targets: Any) -> None:
        self.kind = kind
        self._outputs, self._targets = outputs, targets

    def outputs(self) -> Any:
        """All outputs."""
        return torch.as_tensor(self._outputs)

    def targets(self) -> Any:
        """All targets."""
        return torch.as_tensor(self._targets)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (
            Kept("classes", [[2.0, 0.0], [0.2, 0.8]], [0, 0]),
            ["classes", "confusion", "reliability"],
        ),
        (Kept("classes", [[0.9, 0.1], [0.2, 0.8]], [0, 1]), 3),
        (Kept("binary", [[3.0], [-90.0]], [[1.0], [0.0]]), ["reliability"]),
        (Kept("binary", [0.3, 0.4], [1, 0]), ["reliability"]),
        (Kept("binary", [[0.3, 0.4]], [[1, 0]]), []),
        (Kept("values", [[3.0], [1.0]], [[1.0], [0.0]]), ["values"]),
        (Kept("values", [math.nan, 1.0], [1.0, 0.0]), []),
        (Kept(None, [1.0], [1.0]), []),
    ],
)
def test_draw_answers_saves_what_fits(
    kept: Kept, expected: Any, tmp_path: Path
) -> None:
    made = draw_answers(kept, tmp_path, {"class_names": ["a", "b"]})
    if isinstance(expected, int):
        assert len(made) == expected
    else:
        assert sorted(path.stem for path in made) == expected
    assert all(path.stat().st_size > 1000 for path in made)


def test_plot_history_marks_resumes_rollbacks_and_draws_a_moving_mean() -> None:
    events = [
        {"time_s": 0.0, "kind": "step", "step": s, "loss": 100 / s, "lr": 0.1}
        for s in range(1, 101)
    ]
    events.insert(40, {"time_s": 0.0, "kind": "resume", "step": 40, "epoch": 0})
    events += [
        {"time_s": 0.0, "kind": "rollback", "to_step": step, "reason": "nan"}
        for step in (20, 60)
    ]
    figure = plot_history([], events)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [
        "loss of a step",
        "its moving mean",
        "resumed",
        "rolled back (2 times)",
    ]
    assert figure.axes[0].get_yscale() == "log"
    assert title(figure) == "Training loss from 100 to 1"


def test_save_figure_of_names_that_the_font_lacks_does_not_warn(tmp_path: Path) -> None:
    figure = plot_confusion(np.eye(2, dtype=int), ["\u732b", "\u72ac"])
    assert save_figure(figure, tmp_path / "a.png", dpi=50).stat().st_size > 1000


def test_plot_confusion_with_another_number_of_names_raises() -> None:
    with pytest.raises(ContractError, match=r"\(2, 3\) for 2 class names"):
        plot_confusion([[1, 2, 3], [1, 2, 3]], ["a", "b"])


def test_plot_mistakes_takes_every_image_layout(tmp_path: Path) -> None:
    images = [
        np.zeros((8, 9)),
        np.zeros((8, 9, 3), np.uint8),
        torch.randn(3, 8, 9, requires_grad=True),
        torch.rand(1, 8, 9),
        np.full((8, 9, 1), 255, np.uint8),
    ]
    figure = plot_mistakes(images, [f"true $a^, said {i}" for i in range(5)])
    assert [len(axis.images) for axis in figure.axes] == [1] * 5
    save_figure(figure, tmp_path / "a.png", dpi=50)


def test_plot_mistakes_without_any_says_so() -> None:
    assert plot_mistakes([], []).axes[0].texts[0].get_text() == "no mistakes"


def test_plot_mistakes_with_too_few_titles_raises() -> None:
    with pytest.raises(ContractError, match="1 images came with 0 titles"):
        plot_mistakes([np.zeros((2, 2))], [])


def test_plot_mistakes_with_five_channels_raises() -> None:
    with pytest.raises(ContractError, match=r"shape \(5, 8, 8\); expected"):
        plot_mistakes([np.zeros((5, 8, 8))], ["a"])


def test_figures_never_import_pyplot() -> None:
    code = (
        "import sys; from nbutils.monitor.figures import plot_history as p; "
        "assert 'matplotlib' not in sys.modules; p([], []); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(figures.__file__).parents[3]
    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
