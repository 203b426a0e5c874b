from __future__ import annotations

import pytest
from pydantic import BaseModel

from nbutils.config import RunConfig
from nbutils.ui.leaves import _leaf, all_leaves, check, format_value, parse_text

LEAVES = all_leaves()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "3e-4", 3e-4),
        ("lr", " 1 ", 1.0),
        ("batch_size", "1e2", 100),
        ("max_steps", "", None),
        ("data_dir", "  ", None),
        ("betas", "[0.9, 3e-1]", (0.9, 0.3)),
        ("loss_weights", "{a: 3e-4, b: 1}", {"a": 3e-4, "b": 1.0}),
        ("loss_weights", "", {}),
    ],
)
def test_parse_text_good_text_gives_the_typed_value(name, text, value):
    assert parse_text(LEAVES[name], text) == value


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "lr",
            "abc",
            "Learning rate (lr) is 'abc'; it must be a number, such as 3e-4.",
        ),
        ("lr", "", "Learning rate (lr) is empty; it must be a number, such as 3e-4."),
        ("lr", "-1", "Learning rate (lr) is -1; it must be > 0."),
        ("lr", "nan", "Learning rate (lr) is nan; it must be a finite number."),
        ("val_fraction", "1", "Validation share (val_fraction) is 1; it must be < 1."),
        ("batch_size", "1.5", "Batch size (batch_size) is '1.5'; it must be a whole"),
        ("epochs", "inf", "Epochs (epochs) is 'inf'; it must be a whole number"),
        ("betas", "[1]", "Adam betas (betas) is [1]; it must be YAML such as [0.9"),
        ("loss_weights", "{a: ", "it must be YAML such as {name: 1.0}."),
    ],
)
def test_parse_text_misfit_says_value_and_expectation(name, text, sentence):
    with pytest.raises(ValueError, match=r"must be") as caught:
        parse_text(LEAVES[name], text)
    assert sentence in str(caught.value)


def test_every_leaf_default_survives_the_way_through_text():
    for name, value in RunConfig().leaves().items():
        leaf = LEAVES[name]
        if leaf.kind not in ("flag", "choice"):
            assert parse_text(leaf, format_value(value)) == value
        assert check(leaf, value, value) == value
        assert leaf.label
        assert leaf.help in leaf.tooltip


def test_leaf_label_tells_the_unit_once():
    assert LEAVES["batch_size"].label == "Batch size (samples)"
    assert LEAVES["max_steps"].label == "Max. optimizer steps"


def test_leaf_without_form_hints_is_refused():
    class Plain(BaseModel):
        rate: float = 1.0

    with pytest.raises(TypeError, match="rate has no form hints; declare it with"):
        _leaf("plain", "rate", Plain.model_fields["rate"])
