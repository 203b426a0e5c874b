"""The model card: what is known is said, what is not is left out, nothing breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import nbutils as nb
from nbutils.checkpoint.card import model_card
from nbutils.checkpoint.export import export_model
from nbutils.monitor.record import RunRecord
from nbutils.testing import make_task

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "panel": "off"}
ODD = "a|b *bold* <script>alert(1)</script>\n---\n[x](y): `z` # {é}"


def card_of(
    task: nb.Task, *, weights: str = "last", step: int | None = 10, **more: Any
) -> str:
    exported = export_model(task.model, torch.randn(4, 6), Path("out"), **more)
    return model_card(
        "ada/digits", RunRecord.read("run"), task, exported, weights, step
    )


def run_of(task: nb.Task, **more: Any) -> nb.TrainingCoordinator:
    run = nb.TrainingCoordinator(
        task, run_dir="run", **{**SETTINGS, "preflight": "skip", **more}
    )
    run.train()
    return run


def front_matter(card: str) -> dict[str, Any]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front)


@pytest.mark.gated
def test_card_tells_facts_of_the_run():
    task = make_task()
    run_of(task, preflight="run", seed=3)
    card = card_of(task)
    assert "Sequential (178 parameters)" in card
    assert "| samples | train 40; val 16 |" in card
    assert "| steps | 10 |" in card
    assert "| how it ended | completed |" in card
    assert "| seed | 3 |" in card
    assert "| checks before the run | passed (standard" in card.replace("\\", "")
    assert f"torch {torch.__version__.split('+')[0]}" in card.replace("\\", "")
    assert "load\\_model" not in card
    assert 'hf_hub_download("ada/digits", "model.safetensors")' in card


def test_card_front_matter_holds_the_numbers_of_these_weights():
    task = make_task()
    result = run_of(task).train()
    front = front_matter(card_of(task))
    assert front["library_name"] == "nbutils"
    assert "license" not in front
    (entry,) = front["model-index"]
    (found,) = entry["results"]
    (metric,) = found["metrics"]
    assert entry["name"] == "digits"
    assert metric["value"] == pytest.approx(result.rows[-1]["val_loss"])
    assert "model-index" not in front_matter(card_of(task, step=7))


def test_card_front_matter_is_what_the_hub_reads():
    hub = pytest.importorskip("huggingface_hub")
    task = make_task(extras={"license": "mit", "dataset": "blobs"})
    run_of(task)
    data = hub.ModelCard(card_of(task)).data
    assert data.license == "mit"
    assert data.eval_results[0].dataset_name == "blobs"
    assert data.eval_results[0].metric_type == "loss"


def test_card_test_numbers_only_of_the_published_weights():
    task = make_task()
    task.test_data = task.val_data
    run = run_of(task)
    run.evaluate("test", weights="best")
    assert "| test |" not in card_of(task)
    assert "| test | loss |" in card_of(task, weights="best")
    run.evaluate("test")
    assert "| test | loss |" in card_of(task)
    run_of(task, epochs=3)  # trained on since
    assert "| test |" not in card_of(task, step=15)


def test_card_baselines_stand_beside_the_results():
    task = make_task(baselines={"uniform": 0.6931})
    run_of(task)
    assert "as the task declares it: uniform 0.6931." in card_of(task)


def test_card_odd_texts_stay_texts():
    task = make_task(name=ODD, baselines={ODD: 1.0}, extras={"license": ODD})
    run_of(task)
    card = card_of(task)
    assert front_matter(card)["license"] == " ".join(ODD.split())
    text = card[card.index("\n# ") :]
    assert "<script>" not in text
    assert "\n---\n" not in text
    assert "a\\|b \\*bold\\*" in text


def test_card_says_what_safetensors_could_not_hold():
    class Counting(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"calls": 3}

        def set_extra_state(self, state: Any) -> None:
            assert state["calls"] == 3

    x, y = torch.randn(16, 6), torch.randint(2, (16,))
    task = nb.Task(Counting(6, 2), nn.CrossEntropyLoss(), (x, y))
    run_of(task)
    card = card_of(task)
    assert '"model.safetensors"), strict=False)' in card
    assert "tensors only" in card


def test_card_loading_lines_run(monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("huggingface_hub")
    task = make_task()
    run_of(task)
    card = card_of(task, formats=("safetensors", "state_dict", "torch_export"))
    monkeypatch.setattr(hub, "hf_hub_download", lambda _, name: str(Path("out") / name))
    blocks = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 3
    task.model.eval()
    batch = torch.randn(3, 6)
    for block in blocks:
        names: dict[str, Any] = {"model": make_task(seed=9).model, "batch": batch}
        exec(block.replace("model = ...", "model = model"), names)  # noqa: S102
        found = names.get("outputs")
        found = names["model"].eval()(batch) if found is None else found
        assert torch.equal(found, task.model(batch))


def test_card_of_a_bare_directory_leaves_out_what_is_unknown(tmp_path: Path):
    (tmp_path / "run").mkdir()
    card = card_of(make_task(), step=None)
    assert "Results" not in card
    assert "None" not in card
    assert "| samples | train 40; val 16 |" in card
