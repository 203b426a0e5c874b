"""The buttons that look things up, the key, the price, and what they show."""

from __future__ import annotations

import asyncio
import logging
import os
from types import SimpleNamespace

import pytest
from helpers_ui import answer, live_models, turn_to, wizard_of
from PIL import Image

from nbutils.config import RunConfig
from nbutils.data.looks import DataLook, Thumbnail
from nbutils.environment.price import PRICE
from nbutils.errors import EnvironmentProblem
from nbutils.preflight.estimates import feasibility
from nbutils.ui import kit
from nbutils.ui.pages import cards, findings
from nbutils.ui.pages.inquiry import Answer, Inquiry, Question

KEY = "WANDB_API_KEY"
SECRET = "f00dfacef00dfacef00dfacef00dfacef00dface"  # noqa: S105 (made up)


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """No key of this machine's is seen."""
    for name in (KEY, PRICE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def images(tmp_path):
    """Two classes of twelve pictures."""
    for name in ("<b>cats", "dogs"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (20, 12), (number, 90, 9)).save(folder / f"{number}.png")
    return tmp_path / "pets"


def press(inquiry: Inquiry, index: int = 0) -> str:
    inquiry.buttons[index].click()
    return inquiry.output.value


def test_nothing_is_looked_up_before_someone_asks(monkeypatch):
    def fail(*args: object) -> None:
        raise AssertionError("looked up without being asked")

    monkeypatch.setattr(findings, "look", fail)
    monkeypatch.setattr(findings, "outline", fail)
    wizard = wizard_of()
    for step in ("Model", "Training", "Tracking", "Review", "Data"):
        turn_to(wizard, step)
    answer(wizard, "epochs", "3")
    wizard.apply()
    assert wizard.view.lookups._found is None
    assert all(i.output.value == "" for i in wizard.view.lookups.all)


def test_data_page_shows_counts_samples_and_escapes_names(images):
    wizard = wizard_of(data_dir=str(images))
    html = press(wizard.view.lookups.data)
    assert "24 images in 2 classes" in html
    assert html.count("data:image/jpeg;base64,") == 12
    assert "&lt;b&gt;cats" in html
    assert "<b>cats" not in html
    assert 'alt="dogs: dogs/0.png"' in html


def test_data_page_missing_folder_is_told_beside_the_field_until_it_changes(images):
    wizard = wizard_of(data_dir=str(images.with_name("pet")))
    html = press(wizard.view.lookups.data)
    assert 'role="alert"' in html
    assert "Did you mean" in html
    note = wizard.view.form.fields["data_dir"].note
    assert "does not exist" in note.value
    assert wizard.apply() is True  # another machine may have it
    answer(wizard, "data_dir", str(images))
    assert "does not exist" not in note.value
    assert "Settings have changed since" in wizard.view.lookups.data.stale.value
    press(wizard.view.lookups.data)
    assert wizard.view.lookups.data.stale.value == ""


def test_model_page_tells_parameters_memory_and_that_it_fits(images):
    wizard = wizard_of(data_dir=str(images))
    html = press(wizard.view.lookups.model)
    assert "✓ It fits" in html
    assert "parameters" in html
    assert "2, as counted" in html
    assert wizard.view.lookups.model.offer.layout.display == "none"


def test_model_page_tells_that_published_weights_cannot_be_had(images, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(architecture: str) -> None:
        raise EnvironmentProblem(f"no weights of {architecture} <here>")

    monkeypatch.setattr("nbutils.recipes.vision.model.check_pretrained", refuse)
    wizard = wizard_of(data_dir=str(images), pretrained=True)
    html = press(wizard.view.lookups.model)
    assert "! no weights of test_resnet &lt;here&gt;" in html
    assert "✓ It fits" in html


def test_model_page_unknown_name_is_told_beside_the_field_with_near_ones():
    wizard = wizard_of(data_dir="nowhere")
    answer(wizard, "architecture", "resnet_18")
    html = press(wizard.view.lookups.model)
    assert "did you mean" in html
    assert "resnet18" in wizard.view.form.fields["architecture"].note.value


def test_model_page_too_large_offers_a_batch_that_fits(monkeypatch):
    wizard = wizard_of(data_dir="nowhere", batch_size=512)
    room = 60 * 2**20
    monkeypatch.setattr(feasibility, "_memory", lambda device: (room, room))
    inquiry = wizard.view.lookups.model
    html = press(inquiry)
    assert "✗ It does not fit" in html
    assert "10, assumed: the data could not be counted" in html
    assert "What to change" in html
    assert inquiry.offer.description.startswith("Use batch_size=")
    inquiry.offer.click()
    config = wizard.answers.draft()
    assert config.data.batch_size * config.train.accumulation == 512
    assert wizard.answers.touched == {"batch_size", "accumulation"}
    assert "Settings have changed since" in inquiry.stale.value
    assert "✓ It fits" in press(inquiry)


def test_training_page_bounds_then_measures_and_keeps_the_measure(images):
    wizard = wizard_of(data_dir=str(images), epochs=2)
    inquiry = wizard.view.lookups.time
    html = press(inquiry, 0)
    assert "at least" in html
    assert "not measured: " in html
    assert "give the price of an hour above" in html
    html = press(inquiry, 1)
    assert "measured: " in html
    assert "at least" not in html
    wizard.view.price.widget.value = "36000"
    html = press(inquiry, 0)
    assert "not measured" not in html
    assert "at 36000 an hour" in html


def test_training_page_without_data_tells_a_batch_and_no_length():
    wizard = wizard_of(data_dir="nowhere")
    html = press(wizard.view.lookups.time, 0)
    assert "a batch; the data is not there" in html
    assert "the run" not in html


def test_presets_are_compared_and_one_that_fails_says_why(monkeypatch):
    chosen = ["vision/quick", "vision/smoke"]
    monkeypatch.setattr(findings, "presets", lambda: chosen)
    real = findings.check_model

    def broken(task, config):
        if config.train.max_steps:
            raise findings.ContractError("no <room>")
        return real(task, config)

    monkeypatch.setattr(findings, "check_model", broken)
    html = press(wizard_of().view.lookups.presets)
    assert "0.37 M" in html
    assert "<small>chosen</small>" in html
    assert "✗ no &lt;room&gt;" in html


def test_review_runs_the_static_checks_and_shows_the_card():
    wizard = wizard_of()
    turn_to(wizard, "Review")
    html = press(wizard.view.lookups.checks)
    assert "Preflight of vision" in html
    assert "nbu-fail" not in html.split("</style>")[1]


def test_review_static_check_that_fails_shows_the_fix():
    wizard = wizard_of(monitor="val_accuracy", mode="min")
    html = press(wizard.view.lookups.checks)
    assert "✗ fail" in html or "! warn" in html
    assert "val_accuracy" in html
    assert "fix" in html


def test_review_checks_of_a_contradiction_are_an_alert():
    wizard = wizard_of()
    answer(wizard, "val_fraction", "0.6")
    answer(wizard, "test_fraction", "0.6")
    html = press(wizard.view.lookups.checks)
    assert "together they must be &lt; 1" in html


def test_inquiry_unforeseen_error_is_shown_and_logged(monkeypatch, caplog):
    wizard = wizard_of()

    def broken(config: RunConfig) -> None:
        raise RuntimeError("<boom>")

    monkeypatch.setattr(findings, "look", broken)
    with caplog.at_level(logging.ERROR):
        press(wizard.view.lookups.data)
    assert "&lt;boom&gt;" in wizard.view.frame.alert.value
    assert "RuntimeError: <boom>" in caplog.text


def test_secret_is_write_only_and_goes_to_the_environment_on_apply(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(KEY, "")
    path = tmp_path / "config.yaml"
    wizard = wizard_of(path=path, tracker="wandb")
    key = wizard.view.key
    assert "None found" in key.note.value
    key.widget.value = SECRET
    assert key.widget.value == ""
    assert wizard.pending() == ["W&B API key"]
    assert os.environ[KEY] == ""
    turn_to(wizard, "Review")
    assert wizard.apply() is True
    assert os.environ[KEY] == SECRET
    assert wizard.pending() == []
    assert "✓ A key is there" in key.note.value
    states = "".join(str(model.get_state()) for model in live_models().values())
    shown = states + repr(wizard) + path.read_text() + repr(wizard.config)
    assert SECRET not in shown
    wizard.close()
    assert SECRET not in str(vars(key))


def test_secret_not_applied_is_forgotten_on_close():
    wizard = wizard_of(tracker="wandb")
    key = wizard.view.key
    key.widget.value = SECRET
    wizard.close()
    assert not key.is_pending
    assert KEY not in os.environ


def test_secret_and_price_typed_survive_a_second_run_of_the_cell():
    first = wizard_of(tracker="wandb")
    first.view.key.widget.value = SECRET
    first.view.price.widget.value = "0.75"
    second = wizard_of(tracker="wandb")
    assert first.view is None
    assert second.pending() == ["W&B API key", "Price of an hour"]
    assert "a key is held" in second.view.key.note.value
    second.close()


def test_secret_is_not_applied_while_a_setting_is_wrong():
    wizard = wizard_of(tracker="wandb")
    wizard.view.key.widget.value = SECRET
    answer(wizard, "lr", "abc")
    assert wizard.apply() is False
    assert KEY not in os.environ
    assert wizard.view.key.is_pending


def test_secret_field_is_out_of_sight_unless_something_asks_for_it():
    wizard = wizard_of()
    assert wizard.view.key.row.layout.display == "none"
    answer(wizard, "tracker", "wandb")
    assert wizard.view.key.row.layout.display != "none"


def test_secret_unreadable_netrc_is_told(monkeypatch, tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai <oops", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(path))
    wizard = wizard_of(tracker="wandb")
    assert "cannot be read" in wizard.view.key.note.value


def test_price_is_read_told_and_put_into_the_environment(monkeypatch):
    monkeypatch.setenv(PRICE, "0.25")
    wizard = wizard_of()
    price = wizard.view.price
    assert price.value == 0.25
    price.widget.value = "a lot"
    assert price.value is None
    assert "must be a number &gt;= 0" in price.note.value
    assert wizard.apply() is True
    assert os.environ[PRICE] == "0.25"
    price.widget.value = "0.5"
    assert wizard.pending() == ["Price of an hour"]
    wizard.apply()
    assert os.environ[PRICE] == "0.5"
    price.widget.value = ""
    wizard.apply()
    assert PRICE not in os.environ


def test_look_html_of_many_classes_shows_largest_and_smallest():
    counts = {f"c{number}": number + 1 for number in range(40)}
    look = DataLook(
        title="x", class_counts=counts, thumbnails=[Thumbnail('"><i>', "a", "data:,")]
    )
    html = cards.look_html(look)
    assert html.count('class="nbu-bar"') == 12
    assert "28 classes between these are not shown" in html
    assert "<i>" not in html


def test_inquiry_close_leaves_no_model():
    before = set(live_models())
    wizard = wizard_of(data_dir="nowhere")
    press(wizard.view.lookups.data)
    press(wizard.view.lookups.model)
    wizard.close()
    assert set(live_models()) == before


def test_inquiry_says_what_it_does_meanwhile():
    wizard = wizard_of()
    inquiry, seen = wizard.view.lookups.data, []

    def look(config: RunConfig, say) -> Answer:
        seen.append(inquiry.output.value)
        say("half")
        seen.append(inquiry.output.value)
        return Answer(html="done")

    inquiry.ask(Question(text="q", tip="t", busy="wait <", answer=look))
    assert seen == ['<div role="status">wait &lt;</div>', "half"]
    assert inquiry.output.value == "done"


def test_inquiry_click_made_meanwhile_is_not_answered_again(monkeypatch):
    wizard = wizard_of()
    inquiry, count, clock = wizard.view.lookups.data, [], [0.0]
    monkeypatch.setattr("nbutils.ui.pages.inquiry.monotonic", lambda: clock[0])

    def look(config: RunConfig, say) -> Answer:
        count.append(1)
        return Answer(html="")

    question = Question(text="q", tip="t", busy="b", answer=look)
    inquiry.press(question)
    inquiry.press(question)
    assert len(count) == 1
    answer(wizard, "data_dir", "elsewhere")
    inquiry.press(question)
    assert len(count) == 2
    clock[0] = 1.0
    inquiry.press(question)
    assert len(count) == 3


def test_focus_goes_to_the_first_field_of_a_page(monkeypatch):
    taken: list[str] = []

    def note(widget) -> None:
        taken.append(widget.description)

    monkeypatch.setattr("nbutils.ui.view.focus_soon", note)
    wizard = wizard_of()
    wizard.view.frame.next.click()
    wizard.view.frame.next.click()
    answer(wizard, "lr", "abc")
    wizard.view.frame.next.click()
    turn_to(wizard, "Review")
    expected = ["Model name", "Epochs", "Learning rate"]
    assert taken[:3] == expected


def test_focus_is_not_taken_from_a_closed_widget_nor_late(monkeypatch):
    clock, taken = [0.0], []
    monkeypatch.setattr(kit, "monotonic", lambda: clock[0])
    widget = SimpleNamespace(comm=None, focus=lambda: taken.append(clock[0]))
    kit._focus(widget, 0.0)
    widget.comm = object()
    clock[0] = 0.3
    kit._focus(widget, 0.0)
    clock[0] = 2.0
    kit._focus(widget, 0.0)
    assert taken == [0.3]


def test_focus_soon_is_sent_from_a_running_loop():
    taken: list[int] = []
    widget = SimpleNamespace(comm=object(), focus=lambda: taken.append(1))

    async def turn() -> None:
        kit.focus_soon(widget)
        await asyncio.sleep(0.4)

    asyncio.run(turn())
    assert taken == [1]
    kit.focus_soon(widget)  # nobody looks without a loop
    kit.focus_soon(SimpleNamespace())  # ipywidgets 7 cannot
    assert taken == [1]
