from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers_ui import answer, live_models, turn_to, wizard_of

from nbutils.config import RunConfig
from nbutils.errors import ConfigError
from nbutils.ui import wizard as wizard_module
from nbutils.ui.wizard import SetupWizard

ROOT = Path(__file__).parents[2]


def test_wizard_headless_creates_no_widget_and_prints_origins(capsys):
    before = set(live_models())
    wizard = SetupWizard(preset="vision/quick", interactive=False, epochs=3)
    shown = capsys.readouterr().out
    assert set(live_models()) == before
    assert wizard.config.train.epochs == 3
    assert wizard.config.origin("lr") == "preset vision/quick"
    assert "epochs" in shown
    assert "(from argument)" in shown
    assert "(from preset vision/quick)" in shown
    assert "NBUTILS_EPOCHS=3" in shown


def test_wizard_without_front_end_is_headless_by_default(capsys):
    assert SetupWizard().view is None
    assert "defaults, no preset" in capsys.readouterr().out


def test_wizard_without_ipywidgets_shows_the_values_and_how_to_change_them(
    monkeypatch, capsys
):
    monkeypatch.setattr(wizard_module, "has_widgets", lambda: False)
    wizard = SetupWizard(preset="vision/quick", interactive=True)
    shown = capsys.readouterr().out
    assert wizard.view is None
    assert "pip install ipywidgets, then reload the page" in shown
    assert "(from preset vision/quick)" in shown
    assert 'nb.SetupWizard(preset="vision/quick", epochs=3)' in shown
    assert wizard.config == RunConfig.preset("vision/quick")


def test_wizard_headless_never_imports_ipywidgets():
    code = (
        "import sys; from nbutils.ui.wizard import SetupWizard; "
        "SetupWizard(preset='vision/quick').config; "
        "print([m for m in ('ipywidgets', 'IPython', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip().endswith("[]")


def test_wizard_environment_counts_below_keyword(monkeypatch):
    monkeypatch.setenv("NBUTILS_EPOCHS", "7")
    monkeypatch.setenv("NBUTILS_LR", "0.5")
    config = SetupWizard(preset="vision/quick", interactive=False, lr=0.25).config
    assert config.train.epochs == 7
    assert config.origin("epochs") == "environment NBUTILS_EPOCHS"
    assert config.optim.lr == 0.25


def test_wizard_arguments_that_cannot_be_used_raise_all_at_once():
    with pytest.raises(ConfigError) as caught:
        SetupWizard(interactive=False, epochs=0, lr=-1.0, batch_sise=3)
    assert len(caught.value.problems) == 3


def test_wizard_unreadable_number_shows_error_and_next_stays():
    wizard = wizard_of()
    turn_to(wizard, "Training")
    answer(wizard, "lr", "abc")
    wizard.view.frame.next.click()
    assert wizard.view.current == 2
    assert not wizard.view.frame.next.disabled
    note = wizard.view.form.fields["lr"].note.value
    assert "it must be a number, such as 3e-4" in note
    assert 'role="alert"' in wizard.view.frame.alert.value
    assert wizard.view.frame.headers[2].description.startswith("!")
    assert len(wizard.errors) == 1
    answer(wizard, "lr", "3e-4")
    assert wizard.view.frame.alert.value == ""
    wizard.view.frame.next.click()
    assert wizard.view.current == 3


def test_wizard_back_keeps_what_was_typed_even_with_an_error():
    wizard = wizard_of()
    wizard.view.frame.next.click()
    answer(wizard, "image_size", "big")
    wizard.view.frame.back.click()
    assert wizard.view.current == 0
    assert wizard.view.form.fields["image_size"].widget.value == "big"
    assert wizard.errors


def test_wizard_apply_takes_answers_over_with_their_origin():
    wizard = wizard_of()
    answer(wizard, "lr", "3e-4")
    answer(wizard, "optimizer", "sgd")
    answer(wizard, "pretrained", True)
    assert wizard.pending() == ["pretrained", "optimizer", "lr"]
    assert "3 unapplied changes" in wizard.view.frame.banner.value
    before = wizard.config
    wizard.view.frame.apply.click()
    config = wizard.config
    assert before == RunConfig.preset("vision/quick")
    assert (config.optim.lr, config.optim.optimizer) == (3e-4, "sgd")
    assert config.model.pretrained is True
    assert config.origin("lr") == "wizard"
    assert config.origin("data_dir") == "preset vision/quick"
    assert wizard.pending() == []
    assert "Applied" in wizard.view.frame.banner.value


def test_wizard_config_with_pending_changes_says_so_once(capsys):
    wizard = wizard_of()
    answer(wizard, "epochs", "2")
    capsys.readouterr()
    assert wizard.config.train.epochs != 2
    assert "1 change is not applied" in capsys.readouterr().out
    assert wizard.config.train.epochs != 2
    assert capsys.readouterr().out == ""


def test_wizard_apply_with_problem_jumps_to_its_page_and_keeps_the_config():
    wizard = wizard_of()
    answer(wizard, "log_every_steps", "0")
    turn_to(wizard, "Training")
    assert wizard.apply() is False
    assert wizard.view.current == 3
    assert wizard.view.form.toggles["Tracking & storage"].value is True
    assert "log_every_steps" in wizard.view.frame.alert.value
    assert wizard.config == RunConfig.preset("vision/quick")


def test_wizard_cross_field_rule_is_shown_beside_a_field():
    wizard = wizard_of()
    answer(wizard, "val_fraction", "0.6")
    answer(wizard, "test_fraction", "0.6")
    assert wizard.apply() is False
    assert wizard.view.current == 0
    assert "fraction" in wizard.errors[0]
    notes = [
        wizard.view.form.fields[n].note.value for n in ("val_fraction", "test_fraction")
    ]
    assert any("✗" in note for note in notes)


def test_wizard_preset_switch_leaves_own_answers_and_tells_the_rest():
    wizard = wizard_of()
    answer(wizard, "lr", "0.5")
    wizard.view.frame.preset.value = "vision/folder"
    folder = RunConfig.preset("vision/folder")
    fields = wizard.view.form.fields
    assert fields["lr"].widget.value == "0.5"
    assert fields["epochs"].widget.value == str(folder.train.epochs)
    assert "changed by preset" in fields["epochs"].note.value
    assert "changed by preset" not in fields["lr"].note.value
    assert "changed by preset" in wizard.view.frame.preset_note.value
    assert wizard.answers.touched == {"lr"}
    assert wizard.apply() is True
    assert wizard.config == folder.replace(lr=0.5)


def test_wizard_preset_that_clashes_with_arguments_is_put_back(monkeypatch):
    wizard = wizard_of()
    monkeypatch.setenv("NBUTILS_LR", "-1")
    wizard.view.frame.preset.value = "vision/folder"
    assert wizard.view.frame.preset.value == "vision/quick"
    assert "lr" in wizard.view.frame.alert.value


def test_wizard_no_preset_starts_from_defaults_and_can_choose_one():
    wizard = wizard_of(preset=None)
    assert wizard.config == RunConfig()
    wizard.view.frame.preset.value = "vision/quick"
    assert "recipe" in wizard.pending()
    wizard.apply()
    assert wizard.config == RunConfig.preset("vision/quick")


def test_wizard_cell_run_again_closes_the_form_and_keeps_answers():
    before = len(live_models())
    first = wizard_of()
    num_models = len(live_models()) - before
    answer(first, "epochs", "4")
    first.apply()
    answer(first, "lr", "oops")
    second = wizard_of()
    assert first.view is None
    assert len(live_models()) - before == num_models
    assert second.view.form.fields["lr"].widget.value == "oops"
    assert second.view.form.fields["epochs"].widget.value == "4"
    assert second._in_use().train.epochs == 4


def test_wizard_cell_with_a_new_argument_overrides_the_earlier_answer():
    first = wizard_of()
    answer(first, "epochs", "4")
    answer(first, "lr", "0.5")
    second = wizard_of(epochs=9)
    assert second.view.form.fields["epochs"].widget.value == "9"
    assert second.view.form.fields["lr"].widget.value == "0.5"
    assert second.config.train.epochs == 9


def test_wizard_cell_run_again_keeps_the_chosen_preset():
    wizard_of().view.frame.preset.value = "vision/folder"
    assert wizard_of().view.frame.preset.value == "vision/folder"


def test_wizard_other_name_stays_open():
    first, second = wizard_of(name="a"), wizard_of(name="b")
    assert first.view is not None
    first.close()
    second.close()


def test_wizard_close_leaves_no_model_and_keeps_the_config():
    before = set(live_models())
    wizard = wizard_of()
    turn_to(wizard, "Review")
    wizard.view.frame.preset.value = "vision/folder"
    answer(wizard, "lr", "abc")
    wizard.view.frame.apply.click()
    wizard.close()
    wizard.close()
    assert set(live_models()) == before
    assert isinstance(wizard.config, RunConfig)


def test_wizard_path_is_written_on_apply_and_read_next_time(tmp_path):
    path = tmp_path / "sub" / "config.yaml"
    wizard = wizard_of(path=path)
    answer(wizard, "epochs", "4")
    assert wizard.view.frame.apply.description == "Apply & save"
    assert wizard.apply() is True
    assert str(path) in wizard.applied_text()
    wizard.close()
    again = SetupWizard(preset="vision/quick", path=path, interactive=False)
    assert again.config.train.epochs == 4
    assert again.config.origin("epochs") == "file config.yaml"


def test_wizard_path_that_cannot_be_written_is_told_and_config_is_in_use(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    wizard = wizard_of(path=blocker / "config.yaml")
    answer(wizard, "epochs", "4")
    assert wizard.apply() is True
    assert wizard.config.train.epochs == 4
    assert "cannot be written" in wizard.view.frame.alert.value
    assert "in use but not saved" in wizard.errors[0]
    assert "saved to" not in wizard.applied_text()
    wizard.close()
    headless = SetupWizard(path=blocker / "config.yaml", interactive=False)
    with pytest.raises(ConfigError, match="cannot be written"):
        headless.apply()


def test_wizard_review_shows_origins_and_code_that_makes_the_same_config():
    wizard = wizard_of(epochs=3)
    answer(wizard, "lr", "0.5")
    answer(wizard, "project", "<b>x</b>")
    turn_to(wizard, "Review")
    html = wizard.view.review.value
    assert "you, in this form" in html
    assert "the cell&#x27;s arguments" in html
    assert "<b>x" not in html
    wizard.apply()
    from nbutils.ui.summary import replay_code

    code = replay_code(wizard.config, wizard.answers.preset)
    space: dict[str, object] = {"nb": type("nb", (), {"RunConfig": RunConfig})}
    exec(code, space)  # noqa: S102 (our own text)
    assert space["config"] == wizard.config


def test_wizard_review_with_a_problem_lists_it():
    wizard = wizard_of()
    turn_to(wizard, "Review")
    answer(wizard, "lr", "abc")
    assert "alert" in wizard.view.review.value


def test_wizard_broken_callback_is_shown_not_lost(monkeypatch):
    wizard = wizard_of()

    def broken() -> bool:
        raise RuntimeError("disk <gone>")

    monkeypatch.setattr(wizard, "apply", broken)
    wizard.view.frame.apply.click()
    assert "disk &lt;gone&gt;" in wizard.view.frame.alert.value
    assert "Traceback" in wizard.view.frame.alert.value


def test_wizard_callback_from_another_thread_is_taken():
    wizard = wizard_of()
    worker = threading.Thread(target=answer, args=(wizard, "epochs", "4"))
    worker.start()
    worker.join()
    assert wizard.pending() == ["epochs"]


def test_wizard_header_marks_visited_and_current_pages():
    wizard = wizard_of()
    wizard.view.frame.next.click()
    wizard.view.frame.next.click()
    marks = [button.description[0] for button in wizard.view.frame.headers]
    assert marks == ["✓", "✓", "▸", "•", "•"]
    title = wizard.view.frame.title.value
    assert title.count('aria-current="step"') == 1
    assert '<li aria-current="step">Training' in title
    assert "<li>Data, seen</li>" in title


def test_wizard_no_widget_has_a_missing_tooltip_that_shows_null():
    wizard = wizard_of()
    for widget in wizard.view._kit._made:
        names = [n for n in ("tooltip", "description_tooltip") if widget.has_trait(n)]
        if names and widget.has_trait("description"):
            assert getattr(widget, names[0]) is not None, widget


def test_wizard_apply_puts_the_values_beside_the_form_too(monkeypatch):
    told: list[str] = []

    def display_form(root, summary):
        told.append(str(summary))
        return lambda newer: told.append(str(newer))

    monkeypatch.setattr(wizard_module, "display_form", display_form)
    wizard = wizard_of()
    answer(wizard, "epochs", "4")
    assert len(told) == 1
    assert "run this cell again to have it back" in told[0]
    wizard.apply()
    assert "4  (from wizard)" in told[1]
    answer(wizard, "lr", "abc")
    wizard.apply()
    assert len(told) == 2


def test_wizard_repr_tells_its_state():
    assert "nothing applied" in repr(wizard_of())
