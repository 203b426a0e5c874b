"""The config judges everything at once and keeps what it was told."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbutils.config import RunConfig, presets
from nbutils.config.leaves import DEFAULTS, LEAVES, TOP
from nbutils.config.presets import PRESETS
from nbutils.config.sections import SECTIONS, DataSection
from nbutils.errors import ConfigError

ROOT = Path(__file__).parents[2]


def problems_of(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**settings)
    return caught.value.problems


def test_run_config_fields_are_the_sections() -> None:
    assert set(RunConfig.model_fields) == set(SECTIONS) | set(TOP)
    for name, kind in SECTIONS.items():
        assert RunConfig.model_fields[name].annotation is kind


def test_leaf_names_are_unique_over_sections() -> None:
    names = [leaf for kind in SECTIONS.values() for leaf in kind.model_fields]
    assert len(names) == len(set(names)) == len(LEAVES)


def test_leaf_hints_are_complete() -> None:
    for kind in SECTIONS.values():
        for field in kind.model_fields.values():
            hints = field.json_schema_extra
            assert isinstance(hints, dict)
            assert set(hints) - {"accepts"} == {"step", "unit", "advanced"}
            assert field.description


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3},
        {"train.epochs": 3},
        {"train": {"epochs": 3}},
        {"train": SECTIONS["train"](epochs=3)},
        {"epochs": "3"},
    ],
)
def test_run_config_any_spelling_sets_the_leaf(settings: dict[str, Any]) -> None:
    config = RunConfig(**settings)
    assert config.train.epochs == 3
    assert config == RunConfig(epochs=3)
    assert config.changes() == {"epochs": (3, "argument")}


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "bf16"), ("preflight", "skip"), ("schedule", "cosine")],
)
def test_run_config_shared_name_is_leaf_or_section(name: str, value: str) -> None:
    flat = RunConfig(**{name: value})
    nested = RunConfig(**{name: {name: value}})
    assert flat == nested
    assert flat.leaves()[name] == value


def test_run_config_three_errors_are_all_named() -> None:
    problems = problems_of(
        batch_size=0, epoch=3, val_fraction=0.6, test_fraction=0.5, lr="fast"
    )
    assert problems == [
        "epoch is not a setting; did you mean epochs (train.epochs)?",
        "batch_size is 0; it must be >= 1.",
        "lr is 'fast'; it must be a number.",
        "val_fraction is 0.6 and test_fraction is 0.5; together they must be < 1, "
        "so that data is left to train on.",
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"val_fraction": 1}, "val_fraction is 1; it must be < 1."),
        ({"lr": 0}, "lr is 0; it must be > 0."),
        ({"max_refused_fraction": 2}, "max_refused_fraction is 2; it must be <= 1."),
        ({"target": float("nan")}, "target is nan; it must be a finite number."),
        ({"epochs": True}, "epochs is True; it must be a whole number."),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number."),
        ({"max_steps": "x"}, "max_steps is 'x'; it must be a whole number or None."),
        ({"shuffle": "hm"}, "shuffle is 'hm'; it must be true or false."),
        ({"run_name": 7}, "run_name is 7; it must be text or None."),
        ({"betas": (0.9,)}, "betas is (0.9,); it must be 2 numbers."),
        ({"betas": ("a", 0.9)}, "betas[0] is 'a'; it must be a number."),
        (
            {"loss_weights": 3},
            "loss_weights is 3; it must be a mapping of names to numbers.",
        ),
        (
            {"loss_weights": {"kl": "x"}},
            "loss_weights['kl'] is 'x'; it must be a number.",
        ),
        (
            {"mode": "maxi"},
            "mode is 'maxi'; it must be one of 'min', 'max'. Did you mean 'max'?",
        ),
        ({"recipe": 3}, "recipe is 3; it must be text or None."),
        ({"min_lr": 0.1}, "min_lr is 0.1; it must be <= lr, which is 0.001."),
        (
            {"warmup_steps": 5, "max_steps": 5},
            "warmup_steps is 5; it must be < max_steps, which is 5.",
        ),
        (
            {"betas": (0.9, 1.0)},
            "betas is (0.9, 1.0); both must be >= 0 and < 1.",
        ),
        (
            {"loss_weights": {"kl": -1}},
            "loss_weights holds {'kl': -1.0}; each weight must be >= 0.",
        ),
        (
            {"lr_groups": {"head.*": -1}},
            "lr_groups holds {'head.*': -1.0}; each factor must be >= 0.",
        ),
        (
            {"decay_groups": {"a": 1, "b": -0.5}},
            "decay_groups holds {'b': -0.5}; each factor must be >= 0.",
        ),
        (
            {"loss_phases": {"kl": [[0, "x"]]}},
            "loss_phases is {'kl': [[0, 'x']]}; it must be a mapping of term names to "
            "lists of [share, factor].",
        ),
        (
            {"checkpoint_blocks": "layers.*"},
            "checkpoint_blocks is 'layers.*'; it must be a list of name patterns.",
        ),
        (
            {"loss_phases": {"kl": []}},
            "loss_phases['kl'] is []; at least one point [share of the run, factor] "
            "is needed.",
        ),
        (
            {"loss_phases": {"kl": [[0, 1], [1.5, 0]]}},
            "loss_phases['kl'] is [[0.0, 1.0], [1.5, 0.0]]; each share of the run must "
            "be from 0 to 1.",
        ),
        (
            {"loss_phases": {"kl": [[0.5, 1], [0.5, 0]]}},
            "loss_phases['kl'] is [[0.5, 1.0], [0.5, 0.0]]; the shares of the run must "
            "increase from point to point.",
        ),
        (
            {"loss_phases": {"kl": [[0, -1]]}},
            "loss_phases['kl'] is [[0.0, -1.0]]; each factor must be >= 0.",
        ),
        (
            {"monitor": " ", "patience": 2},
            "monitor is ' '; patience and target need the name of a metric, "
            "such as 'val_loss'.",
        ),
        (
            {"run_name": "../x"},
            "run_name is '../x'; it must be one printable folder name "
            "without '/', '\\' or ':'.",
        ),
        (
            {"run_name": "é" * 101},
            "run_name has 202 bytes; a folder name of at most 200 is expected.",
        ),
        (
            {"data": 3},
            "data is 3; it is a section and must be a mapping such as "
            "{'data_dir': ...}.",
        ),
        (
            {"epochs": 3, "train": {"epochs": 4}},
            "epochs is given twice, as 3 and as 4; keep one.",
        ),
        (
            {"schema_version": 2},
            "schema_version is 2; this nbutils reads version 1; "
            "install the nbutils that wrote the file.",
        ),
    ],
)
def test_run_config_wrong_value_says_what_is_expected(
    settings: dict[str, Any], sentence: str
) -> None:
    assert problems_of(**settings) == [sentence]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("batchsize", "batch_size (data.batch_size)"),
        ("data.epochs", "epochs (train.epochs)"),
        ("lr_min", "min_lr (schedule.min_lr)"),
        ("learning_rate", "lr (optim.lr)"),
        ("recipes", "recipe"),
    ],
)
def test_run_config_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    assert problems_of(**{key: 1}) == [f"{key} is not a setting; did you mean {meant}?"]


def test_run_config_unknown_key_far_from_all_points_to_the_list() -> None:
    assert problems_of(zzzzzz=1) == [
        "zzzzzz is not a setting; RunConfig().leaves() lists all of them."
    ]


def test_run_config_unknown_key_in_a_section_is_named_in_full() -> None:
    assert problems_of(train={"epoch": 1}) == [
        "train.epoch is not a setting; did you mean epochs (train.epochs)?"
    ]


def test_run_config_rule_over_a_wrong_leaf_is_not_judged() -> None:
    assert len(problems_of(min_lr=0.1, lr=-1)) == 1


def test_run_config_is_frozen() -> None:
    config = RunConfig()
    with pytest.raises(Exception, match="frozen"):
        config.train = SECTIONS["train"]()  # type: ignore[assignment]
    with pytest.raises(Exception, match="frozen"):
        config.train.epochs = 3


def test_run_config_paths_become_text(tmp_path: Path) -> None:
    assert RunConfig(data_dir=tmp_path).data.data_dir == str(tmp_path)


def test_run_config_numpy_numbers_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    config = RunConfig(epochs=numpy.int64(3), lr=numpy.float32(0.5))
    assert (config.train.epochs, config.optim.lr) == (3, 0.5)
    assert type(config.train.epochs) is int


def test_run_config_section_sets_only_what_it_was_given() -> None:
    config = RunConfig.preset("vision/quick", data=DataSection(num_workers=2))
    assert config.data.batch_size == PRESETS["vision/quick"]["batch_size"]
    assert config.data.num_workers == 2


def test_replace_keeps_values_and_origins() -> None:
    start = RunConfig.preset("vision/quick")
    config = start.replace(**{"train.epochs": 3})
    assert config.train.epochs == 3
    assert config.origin("epochs") == "argument"
    assert config.origin("lr") == "preset vision/quick"
    assert start.train.epochs == PRESETS["vision/quick"]["epochs"]
    with pytest.raises(ConfigError, match=r"did you mean epochs"):
        start.replace(epoch=3)


@pytest.mark.parametrize("name", presets())
def test_preset_is_valid_and_says_where_it_comes_from(name: str) -> None:
    config = RunConfig.preset(name)
    assert config.recipe == name.split("/")[0]
    assert {origin for _, origin in config.changes().values()} == {f"preset {name}"}


def test_preset_override_wins() -> None:
    config = RunConfig.preset("vision/quick", epochs=3)
    assert config.train.epochs == 3
    assert config.origin("train.epochs") == "argument"
    assert config.origin("seed") == "default"


def test_preset_unknown_lists_near_ones_and_all() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.preset("vision/quik")
    assert "did you mean vision/quick" in str(caught.value)
    assert all(name in str(caught.value) for name in presets())
    with pytest.raises(ConfigError, match="'qqq' is not a preset; The presets are"):
        RunConfig.preset("qqq")


def test_origin_unknown_key_raises() -> None:
    with pytest.raises(ConfigError, match=r"epoch is not a setting; did you mean"):
        RunConfig().origin("epoch")


def test_leaves_and_repr_replay_the_config() -> None:
    config = RunConfig.preset("vision/quick", epochs=3)
    assert RunConfig(recipe="vision", **config.leaves()) == config
    assert eval(repr(config), {"RunConfig": RunConfig}) == config  # noqa: S307
    assert str(config) == repr(config)


def test_equality_is_by_values_not_origin() -> None:
    assert RunConfig(epochs=10) == RunConfig()
    assert hash(RunConfig(epochs=10)) == hash(RunConfig())
    assert RunConfig(epochs=11) != RunConfig()
    assert RunConfig() != "RunConfig()"


def test_pickle_and_copy_keep_values_and_origins() -> None:
    config = RunConfig.preset("vision/quick", epochs=3)
    for twin in (
        pickle.loads(pickle.dumps(config)),  # noqa: S301
        copy.deepcopy(config),
    ):
        assert twin == config
        assert twin.origin("epochs") == "argument"


@pytest.mark.parametrize(
    "change",
    [
        {"runs_dir": "x"},
        {"mirror": "x"},
        {"keep_last": 9},
        {"save_every_steps": 5},
        {"run_name": "x"},
        {"tracker": "wandb"},
        {"preflight": "skip"},
        {"panel": "off"},
    ],
)
def test_hash_ignores_what_leaves_the_result(change: dict[str, Any]) -> None:
    assert RunConfig(**change).hash == RunConfig().hash


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"recipe": "vision"}, {"lr": 2e-3}, {"betas": (0.9, 0.9)}]
)
def test_hash_follows_what_affects_the_result(change: dict[str, Any]) -> None:
    assert RunConfig(**change).hash != RunConfig().hash


def test_hash_is_the_same_in_another_process() -> None:
    code = (
        "import sys; from nbutils.config import RunConfig; "
        "print(RunConfig(loss_weights={'b': 1, 'a': 2}).hash, 'torch' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=environ, cwd=ROOT,
    )  # fmt: skip
    own = RunConfig(loss_weights={"a": 2.0, "b": 1.0}).hash
    assert done.stdout.split() == [own, "False"]
    assert len(own) == 16


def test_explain_lists_changes_only() -> None:
    assert RunConfig().explain() == "Every setting has its default."
    lines = RunConfig(epochs=3).explain().splitlines()
    assert lines[1].split() == ["train.epochs", "3", "argument"]
    assert len(lines) == 2


def test_repr_html_escapes_values() -> None:
    html = RunConfig(run_name="<b>x")._repr_html_()
    assert "&lt;b&gt;x" in html
    assert "<b>x" not in html
    assert "every setting has its default" in RunConfig()._repr_html_()


def test_defaults_are_those_of_an_empty_config() -> None:
    config = RunConfig()
    assert {**config.leaves(), "recipe": None, "schema_version": 1} == DEFAULTS
    assert config.changes() == {}
