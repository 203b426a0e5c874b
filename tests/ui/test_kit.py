from __future__ import annotations

import threading

import pytest
from helpers_ui import live_models

from nbutils.ui.fields import FormBuilder
from nbutils.ui.kit import Kit, alert_html, crash_html, guarded, has_widgets
from nbutils.ui.leaves import all_leaves, format_value


def test_has_widgets_with_ipywidgets_is_true():
    assert has_widgets()


def test_form_builder_all_leaves_close_leaves_no_model():
    before = set(live_models())
    kit = Kit()
    form = FormBuilder(kit, lambda name, raw: None)
    leaves = list(all_leaves().values())
    raw = {
        leaf.name: leaf.default
        if leaf.kind in ("flag", "choice")
        else format_value(leaf.default)
        for leaf in leaves
    }
    form.page("Training", leaves, raw)
    assert len(set(live_models()) - before) > len(leaves)
    kit.close()
    kit.close()
    assert set(live_models()) == before


def test_kit_tooltip_lands_in_the_trait_of_this_version():
    kit = Kit()
    text = kit.make("Text", tip="Peak learning rate.")
    held = [
        getattr(text, name)
        for name in ("tooltip", "description_tooltip")
        if text.has_trait(name)
    ]
    assert held[0] == "Peak learning rate."
    kit.close()


def test_guarded_error_in_callback_is_reported_escaped_with_traceback():
    seen: list[str] = []

    @guarded(threading.RLock(), seen.append)
    def broken() -> None:
        raise KeyError("<b>boom</b>")

    broken()
    assert 'role="alert"' in seen[0]
    assert "&lt;b&gt;boom" in seen[0]
    assert "<b>boom" not in seen[0]
    assert "Traceback" in seen[0]


def test_guarded_keyboard_interrupt_is_not_held_back():
    @guarded(threading.RLock(), lambda html: None)
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


def test_alert_html_escapes_and_counts():
    assert alert_html([]) == ""
    assert "1 setting needs" in alert_html(["<i>"])
    assert "&lt;i&gt;" in alert_html(["<i>", "b"])
    assert "2 settings need" in alert_html(["a", "b"])
    assert "<details>" in crash_html(ValueError("x"))
