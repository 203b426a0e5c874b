"""The config and summary of a run at a service: complete, flat, and never a secret."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.config import RunConfig
from nbutils.monitor.rundir import RunDirectory
from nbutils.testing import make_task
from nbutils.tracking.describe import (
    build_wandb_config,
    model_facts,
    run_summary,
    without_secrets,
)


class EncoderDecoder(nn.Module):
    """A model of two halves, with the config that such models carry."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=99, max_position_embeddings=17)
        self.shared = nn.Embedding(99, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16)
        self.decoder.requires_grad_(False)


def test_build_wandb_config_has_the_names_of_other_projects() -> None:
    config = RunConfig(lr=0.5, epochs=3, batch_size=8, seed=7, accumulation=2)
    task = make_task()
    facts = {"device": "cuda:0", "precision": "bf16"}
    found = nb.build_wandb_config(config, task, model_type="custom", facts=facts)
    expected = {
        "learning_rate": 0.5,
        "lr": 0.5,
        "epochs": 3,
        "batch_size": 8,
        "random_seed": 7,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "model_type": "custom",
        "model_class": "Sequential",
        "total_params": 178,
        "trainable_params": 178,
        "total_params_millions": 0.0,
        "device": "cuda:0",
        "precision": "auto",
        "mixed_precision": "bf16",
        "amp_enabled": True,
        "config_hash": config.hash,
        "task_fingerprint": task.fingerprint(),
    }
    assert {name: found.get(name) for name in expected} == expected
    assert set(config.leaves()) <= set(found)


def test_build_wandb_config_of_an_encoder_decoder() -> None:
    model = EncoderDecoder()
    found = build_wandb_config(RunConfig(), model=model, model_type="t5")
    frozen = sum(p.numel() for p in model.decoder.parameters())
    assert found["model_type"] == "t5"
    assert (found["vocab_size"], found["max_seq_len"]) == (99, 17)
    assert found["total_params"] - found["trainable_params"] == frozen


def test_build_wandb_config_of_a_model_without_name_or_weights() -> None:
    unnamed = type("", (nn.Module,), {"forward": lambda self, x: x})()
    found = build_wandb_config(RunConfig(), model=unnamed, model_type="custom")
    assert (found["model_class"], found["total_params"]) == ("", 0)
    assert "vocab_size" not in found


def test_model_facts_leave_lazy_parameters_and_odd_configs_out() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    model.config = {"vocab_size": "many", "n_positions": 5}
    found = model_facts(model)
    assert found["total_params"] == 8
    assert found["max_seq_len"] == 5
    assert "vocab_size" not in found
    assert "model_type" not in found


def test_model_facts_take_the_vocabulary_from_the_largest_table() -> None:
    tables = nn.ModuleList([nn.Embedding(10, 2), nn.Embedding(50, 2)])
    assert model_facts(tables)["vocab_size"] == 50


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://me:pass-word@host/a", "s3://me:[redacted]@host/a"),
        ("https://h/a?sig=Zm9vYmFy&v=1", "https://h/a?sig=[redacted]&v=1"),
        (
            "https://h/a?X-Amz-Signature=abc&X-Amz-Security-Token=def",
            "https://h/a?X-Amz-Signature=[redacted]&X-Amz-Security-Token=[redacted]",
        ),
        ("runs/key=value", "runs/key=value"),
        ("/data/tokens/train", "/data/tokens/train"),
    ],
)
def test_build_wandb_config_hides_passwords_in_addresses(
    address: str, shown: str
) -> None:
    found = build_wandb_config(RunConfig(data_dir=address, mirror=address))
    assert (found["data_dir"], found["mirror"]) == (shown, shown)


def test_without_secrets_hides_by_name_and_by_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ecret5ecret")
    given = {
        "hf_token": "x",
        "nested": {"password": "y", "path": Path("/a"), "n": (1, "5ecret5ecret")},
        "api_key": None,
        "max_tokens": 5,
        "monkey": "z",
    }
    assert without_secrets(given) == {
        "hf_token": "[redacted]",
        "nested": {"password": "[redacted]", "path": "/a", "n": [1, "[redacted]"]},
        "api_key": None,
        "max_tokens": 5,
        "monkey": "z",
    }


def test_run_summary_tells_best_reason_verdict_and_test(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json(
        "run.json",
        {
            "status": "finished",
            "stop_reason": "patience",
            "step": 30,
            "best": {"metric": "val_loss", "value": 0.5, "step": 20, "epoch": 2},
            "verdict": {
                "passed": False,
                "depth": "standard",
                "ids": {"R4": "fail", "R5": "pass"},
            },
            "test_metrics": {"test_accuracy": 0.75, "note": "x"},
            "model": {"total_params": 178},
        },
    )
    assert run_summary(directory) == {
        "status": "finished",
        "stop_reason": "patience",
        "steps": 30,
        "best_metric": "val_loss",
        "best_value": 0.5,
        "best_step": 20,
        "best_epoch": 2,
        "verdict": "failed: R4 (standard)",
        "total_params": 178,
        "test/accuracy": 0.75,
    }


def test_run_summary_of_a_killed_run_takes_the_best_from_its_events(
    tmp_path: Path,
) -> None:
    row = '{"time_s":1,"kind":"epoch","epoch":1,"step":4,"val_loss":0.5}\n'
    (tmp_path / "events.jsonl").write_text(row)
    assert run_summary(RunDirectory(tmp_path))["best_value"] == 0.5


def test_model_facts_are_of_any_dtype_and_device() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2, dtype=torch.float16)
    assert model_facts(model)["total_params"] == 6
