"""The yardstick against known answers, and the figures that go with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nbutils.config import RunConfig
from nbutils.errors import ContractError
from nbutils.recipes import build_task
from nbutils.recipes.vision import preview, yardstick
from nbutils.recipes.vision.score import score

NAMES = ("ant", "<b>bee</b>", "cow")


def logits_for(answers, confidence=4.0):
    return torch.nn.functional.one_hot(torch.tensor(answers), 3) * confidence


def test_score_known_answers_gives_known_numbers():
    scores = score(logits_for([0, 0, 1, 1, 2, 0]), [0, 0, 1, 2, 2, 2], NAMES)
    assert scores.confusion_KK.tolist() == [[2, 0, 0], [0, 1, 0], [1, 1, 1]]
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.majority_accuracy == pytest.approx(1 / 2)
    assert scores.class_f1 == pytest.approx(
        {"ant": 4 / 5, "<b>bee</b>": 2 / 3, "cow": 1 / 2}
    )
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 1 / 2) / 3)
    assert list(scores.worst) == ["cow", "<b>bee</b>", "ant"]


def test_score_mistakes_are_sorted_by_confidence():
    logits = torch.tensor([[2.0, 0, 0], [9.0, 0, 0], [0, 1.0, 0]])
    scores = score(logits, [1, 2, 1], NAMES)
    assert [m.index for m in scores.mistakes] == [1, 0]
    assert (scores.mistakes[0].label, scores.mistakes[0].predicted) == (2, 0)
    assert [d.index for d in scores.doubts] == [2]


def test_score_class_absent_everywhere_has_no_f1():
    scores = score(logits_for([0, 1]), [0, 1], NAMES)
    assert list(scores.class_f1) == ["ant", "<b>bee</b>"]
    assert scores.macro_f1 == 1.0


def test_score_views_escape_names_and_name_the_result():
    scores = score(logits_for([0, 1, 1]), [0, 1, 2], NAMES)
    html = scores._repr_html_()
    assert "&lt;b&gt;bee&lt;/b&gt;" in html
    assert "<b>bee</b>" not in html
    assert "2 of 3 images right, accuracy 66.67%" in str(scores)
    assert repr(scores) == str(scores)


def test_score_outputs_of_other_data_raise():
    with pytest.raises(ContractError, match=r"shape \(2, 3\); expected \(3, 3\)"):
        score(logits_for([0, 1]), [0, 1, 2], NAMES)


def test_score_non_finite_outputs_raise():
    logits = torch.tensor([[0.0, float("nan"), 0], [1, 0, 0]])
    with pytest.raises(ContractError, match="1 of 2 outputs are not finite"):
        score(logits, [0, 0], NAMES)


def test_yardstick_and_preview_show_the_task(image_tree, tmp_path):
    config = RunConfig(
        recipe="vision",
        data_dir=str(image_tree),
        architecture="test_resnet",
        image_size=32,
    )
    task = build_task(config)
    labels = torch.tensor(task.val_data.labels)
    run = SimpleNamespace(
        task=task,
        run_dir=tmp_path / "run",
        predict=lambda data: torch.nn.functional.one_hot(1 - labels, 2).float(),
    )
    scores = yardstick(run, "val")
    assert scores.accuracy == 0
    assert scores.split == "val"
    for name in ("confusion", "mistakes"):
        path = tmp_path / "run" / "figures" / f"{name}-val.png"
        assert scores.figures[name] == path
        assert scores.figures[name].stat().st_size > 1000
    assert scores._repr_html_().count("data:image/png;base64,") == 2
    state = torch.get_rng_state()
    figure = preview(task, count=5)
    assert torch.equal(state, torch.get_rng_state())
    assert sum(bool(axis.get_title()) for axis in figure.axes) == 5
