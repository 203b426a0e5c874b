"""Which source wins, and that each value remembers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbutils.config import RunConfig, resolve
from nbutils.errors import ConfigError


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_resolve_without_sources_is_the_default() -> None:
    assert resolve(environ={}) == RunConfig()


def test_resolve_precedence_is_keyword_environment_file_preset(tmp_path: Path) -> None:
    config = resolve(
        preset="vision/quick",
        path=saved(tmp_path, "epochs: 20\nlr: 0.5\nseed: 1\n"),
        overrides={"train.epochs": 40},
        environ={"NBUTILS_EPOCHS": "30", "NBUTILS_SEED": "2"},
    )
    found = {key: (config.leaves()[key], config.origin(key)) for key in config.leaves()}
    assert found["epochs"] == (40, "argument")
    assert found["seed"] == (2, "environment NBUTILS_SEED")
    assert found["lr"] == (0.5, "file mine.yaml")
    assert found["mode"] == ("max", "preset vision/quick")
    assert found["momentum"] == (0.9, "default")


@pytest.mark.parametrize(
    ("name", "text", "leaf", "value"),
    [
        ("NBUTILS_LR", "3e-4", "lr", 3e-4),
        ("NBUTILS_BETAS", "[0.8, 0.9]", "betas", (0.8, 0.9)),
        ("NBUTILS_RUN_NAME", "007", "run_name", "007"),
        ("NBUTILS_RUN_NAME", "none", "run_name", None),
        ("NBUTILS_MAX_STEPS", "none", "max_steps", None),
        ("NBUTILS_TRACKER", "none", "tracker", "none"),
        ("NBUTILS_PANEL", "off", "panel", "off"),
        ("NBUTILS_SHUFFLE", "false", "shuffle", False),
        ("NBUTILS_LOSS_WEIGHTS", "{kl: 2}", "loss_weights", {"kl": 2.0}),
    ],
)
def test_resolve_environment_text_becomes_the_leaf_type(
    name: str, text: str, leaf: str, value: object
) -> None:
    assert resolve(environ={name: text}).leaves()[leaf] == value


def test_resolve_environment_recipe_is_read() -> None:
    assert resolve(environ={"NBUTILS_RECIPE": "vision"}).recipe == "vision"


def test_resolve_reads_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBUTILS_EPOCHS", "7")
    assert resolve().train.epochs == 7
    assert RunConfig.preset("vision/quick").train.epochs != 7


def test_resolve_environment_other_names_pass() -> None:
    others = {"NBUTILS_HEADLESS": "1", "NBUTILS_PLATFORM": "x", "NBUTILS_QQQQ": "1"}
    assert resolve(environ={**others, "EPOCH": "3"}) == RunConfig()


def test_resolve_environment_near_miss_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"NBUTILS_EPOCH is set .* NBUTILS_EPOCHS\?"):
        resolve(environ={"NBUTILS_EPOCH": "3"})


def test_resolve_reports_all_sources_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            preset="vision/quik",
            path=tmp_path / "absent.yaml",
            overrides={"epoch": 3},
            environ={"NBUTILS_BATCH_SIZE": "many: [", "NBUTILS_LRR": "1"},
        )
    text = str(caught.value)
    for part in (
        "'vision/quik' is not a preset",
        "NBUTILS_LRR is set",
        "absent.yaml cannot be read",
        "epoch is not a setting",
        "batch_size is 'many: ['",
        "(from environment NBUTILS_BATCH_SIZE); it must be a whole number",
    ):
        assert part in text
    assert len(caught.value.problems) == 5
