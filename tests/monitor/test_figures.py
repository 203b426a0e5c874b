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
    plot_confusion,
    plot_history,
    plot_mistakes,
    save_figure,
)

ROWS: list[dict[str, Any]] = [
    {"epoch": n, "step": 10 * n, "train_loss": 1 / n, "val_loss": 1.1 / n, "lr": 0.1}
    | {"val_accuracy": 1 - 0.5 / n, "val_perplexity": 10.0 / n, "note": "x$y"}
    for n in range(1, 6)
]
EVENTS: list[dict[str, Any]] = [
    {"time_s": 0.0, "kind": "step", "step": s, "loss": 1 / s, "lr": 0.1}
    for s in range(1, 51)
]
BEST = {"time_s": 0.0, "kind": "checkpoint", "step": 30, "best": True, "path": "p"}


def test_plot_history_draws_loss_metrics_and_rate_and_marks_the_best(
    tmp_path: Path,
) -> None:
    figure = plot_history(ROWS, [*EVENTS, BEST])
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["loss", "val_accuracy", "val_perplexity", "learning rate"]
    assert "best: step 30  val_loss 0.3667" in figure.axes[0].get_title(loc="right")
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


@pytest.mark.parametrize("num_classes", [2, 10, 40])
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
    axis = plot_confusion(np.zeros((2, 2), int), ["a", "b"]).axes[0]
    assert axis.get_title() == "Confusion matrix: no samples"


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
    root = Path(figures.__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
