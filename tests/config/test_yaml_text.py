"""What is saved is what is loaded, whatever the values are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.config import RunConfig
from nbutils.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBER = st.floats(1e-300, 1e300)

SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "recipe": st.none() | TEXT,
        "data_dir": st.none() | TEXT,
        "project": TEXT,
        "monitor": TEXT.map(lambda text: f"m{text}"),
        "lr": NUMBER,
        "weight_decay": st.floats(0, 1e6),
        "target": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "betas": st.tuples(
            st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)
        ),
        "loss_weights": st.dictionaries(TEXT, st.floats(0, 1e300), max_size=4),
        "epochs": st.integers(1, 2**62),
        "max_steps": st.none() | st.integers(1, 10**9),
        "shuffle": st.booleans(),
        "panel": st.sampled_from(["auto", "off"]),
        "schedule": st.sampled_from(["constant", "cosine"]),
    },
)


@given(SETTINGS)
@settings(max_examples=150, deadline=None)
def test_save_load_round_trip_is_lossless(
    tmp_path_factory: pytest.TempPathFactory, leaves: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("round", numbered=True) / "config.yaml"
    config = RunConfig(**leaves)
    config.save(path)
    loaded = RunConfig.load(path)
    assert loaded == config
    assert repr(loaded.leaves()) == repr(config.leaves())
    assert loaded.hash == config.hash
    assert RunConfig(**yaml.safe_load(path.read_text(encoding="utf-8"))) == config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_save_comments_each_change_with_its_origin(tmp_path: Path) -> None:
    text = RunConfig.preset("vision/quick", epochs=3).save(tmp_path / "c.yaml")
    lines = text.read_text(encoding="utf-8").splitlines()
    assert "  epochs: 3  # argument" in lines
    assert "  recipe: vision" not in lines
    assert "recipe: vision  # preset vision/quick" in lines
    assert "  seed: 0" in lines


def test_save_makes_the_folder_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.yaml"
    assert RunConfig().save(path) == path
    RunConfig(epochs=3).save(path)
    assert [file.name for file in path.parent.iterdir()] == ["c.yaml"]
    assert RunConfig.load(path).train.epochs == 3


def test_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").mkdir()
    with pytest.raises(OSError, match=r"c\.yaml"):
        RunConfig().save(tmp_path / "c.yaml")
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]


def test_load_hand_written_words_stay_words(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "optim: {lr: 3e-4}\nloss:\n  loss_weights: {kl: 1e-2}\npanel: off\n"
        "shuffle: no\nrun_name: 2024-01-31\ndata:\ntracker: none\nprecision: bf16\n",
    )
    config = RunConfig.load(path)
    assert math.isclose(config.optim.lr, 0.0003)
    assert config.loss.loss_weights == {"kl": 0.01}
    assert (config.display.panel, config.data.shuffle) == ("off", False)
    assert config.tracking.run_name == "2024-01-31"
    assert config.precision.precision == "bf16"
    assert config.origin("lr") == "file config.yaml"


def test_load_names_the_file_in_each_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {epochs: 0, epoch: 3}\n7: 3\n")
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(path)
    assert caught.value.problems == [
        "train.epoch is not a setting; did you mean epochs (train.epochs)? "
        "(from file config.yaml)",
        "7 is not a setting; RunConfig().leaves() lists all of them. "
        "(from file config.yaml)",
        "epochs is 0 (from file config.yaml); it must be >= 1.",
    ]


def test_load_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read \(No such file"):
        RunConfig.load(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1", r"is not YAML: .* in line 1"),
        ("epochs: 3\nepochs: 4\n", r"'epochs' is given twice; keep one in line 2"),
        ("? [1, 2]\n: 3\n", r"a key must be a name in line 1"),
        ("- 1\n- 2\n", r"holds \[1, 2\]; it must be a mapping of settings"),
        ("", r"holds None; it must be a mapping"),
        ("a: !!python/object:os.system x\n", "is not YAML: could not determine"),
    ],
)
def test_load_bad_file_says_why(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        RunConfig.load(write(tmp_path, text))


def test_load_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00epochs")
    with pytest.raises(ConfigError, match=r"c\.yaml is not YAML"):
        RunConfig.load(path)
