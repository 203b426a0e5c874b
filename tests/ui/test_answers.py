from __future__ import annotations

import pytest

from nbutils.config import RunConfig
from nbutils.errors import ConfigError
from nbutils.ui.answers import Answers, Source
from nbutils.ui.dependents import FOLLOWERS, follow


def answers_of(preset: str | None = "vision/quick", **overrides) -> Answers:
    return Answers(Source(preset, None, overrides))


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_accuracy", "max"),
        ("val_f1_macro", "max"),
        ("AUROC", "max"),
        ("val_loss", "min"),
        ("val_precision_loss", "min"),
        ("rmse", "min"),
        ("val_nmse", "min"),
        ("something", None),
        ("mapped", None),
    ],
)
def test_follow_the_name_of_a_metric_tells_what_is_better(monitor, mode):
    assert follow("monitor", monitor).get("mode") == mode
    assert follow("lr", 1.0) == {}


def test_followers_are_leaves():
    leaves = set(RunConfig().leaves())
    assert set(FOLLOWERS) <= leaves
    assert {leaf for names in FOLLOWERS.values() for leaf in names} <= leaves


def test_answers_mode_follows_the_monitored_metric_and_says_so():
    answers = answers_of()
    answers.edit("monitor", "val_loss")
    assert answers.raw["mode"] == "min"
    assert answers.followed == {"mode": "monitor"}
    config, problems = answers.build()
    assert problems == []
    assert config.train.mode == "min"
    assert config.origin("mode") == "wizard, follows monitor"
    answers.edit("monitor", "val_accuracy")  # the preset's own
    assert answers.raw["mode"] == "max"
    assert answers.followed == {}
    assert answers.touched == set()


def test_answers_what_the_user_set_follows_nothing():
    answers = answers_of()
    answers.edit("mode", "min")
    answers.edit("monitor", "val_f1")
    assert answers.raw["mode"] == "min"
    again = answers_of()
    again.edit("monitor", "val_loss")
    again.edit("mode", "max")  # against what followed, though it is the preset's
    again.edit("monitor", "val_error")
    assert again.raw["mode"] == "max"
    assert again.build()[0].train.mode == "max"


def test_answers_a_misfit_makes_nothing_follow():
    answers = answers_of()
    answers.edit("monitor", "val_loss")
    answers.edit("monitor", "")
    assert answers.raw["mode"] == "max"
    assert answers.followed == {}


def test_answers_undo_a_preset_puts_all_but_own_answers_back():
    answers = answers_of()
    before = dict(answers.raw)
    assert not answers.can_undo
    answers.choose_preset("vision/folder")
    answers.edit("epochs", "7")
    assert answers.can_undo
    answers.undo_preset()
    assert answers.preset == "vision/quick"
    assert answers.raw == before | {"epochs": "7"}
    assert answers.moved_by_preset == {}
    assert not answers.can_undo
    answers.undo_preset()
    assert answers.preset == "vision/quick"


def test_answers_undo_goes_back_through_several_presets():
    answers = answers_of(None)
    answers.choose_preset("vision/folder")
    answers.choose_preset("vision/eva02-base")
    answers.undo_preset()
    assert answers.preset == "vision/folder"
    answers.undo_preset()
    assert answers.build()[0] == RunConfig()


def test_answers_undo_brings_a_saved_file_back(tmp_path):
    path = tmp_path / "config.yaml"
    RunConfig.preset("vision/quick", lr=0.125).save(path)
    answers = Answers(Source("vision/quick", path, {}))
    answers.choose_preset("vision/folder")
    assert answers.raw["lr"] == "0.0003"
    answers.undo_preset()
    assert answers.raw["lr"] == "0.125"


def test_answers_preset_never_overwrites_an_own_answer_equal_to_it():
    answers = answers_of()
    answers.edit("lr", "0.0003")  # what vision/folder has too
    answers.choose_preset("vision/folder")
    answers.choose_preset("vision/eva02-base")
    assert answers.raw["lr"] == "0.0003"
    assert "lr" in answers.touched


def test_answers_draft_leaves_misfits_at_their_base():
    answers = answers_of()
    answers.edit("lr", "fast")
    answers.edit("epochs", "3")
    draft = answers.draft()
    assert (draft.optim.lr, draft.train.epochs) == (0.003, 3)
    answers.edit("val_fraction", "0.6")
    answers.edit("test_fraction", "0.6")
    with pytest.raises(ConfigError, match="together they must be < 1"):
        answers.draft()


def test_answers_taken_over_can_still_be_undone():
    first = answers_of()
    first.choose_preset("vision/folder")
    second = answers_of()
    second.take_over(first)
    second.undo_preset()
    assert second.preset == "vision/quick"
