"""The model card: what a run's directory knows about its weights, as Markdown.

What is not known is left out; nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from nbutils.checkpoint.card_facts import training_facts
from nbutils.checkpoint.card_text import plain, readable, table
from nbutils.checkpoint.export import Exported
from nbutils.monitor.record import RunRecord
from nbutils.monitor.runview import NO_METRIC

__all__ = ["model_card"]

_TASK_TYPES = {"vision": "image-classification"}

_LOADING = {
    "model.safetensors": """\
from huggingface_hub import hf_hub_download
from safetensors.torch import load_model

model = ...  # built as it was for training: {kind}
load_model(model, hf_hub_download("{repo_id}", "model.safetensors"){strict})
model.eval()""",
    "model.pt": """\
import torch
from huggingface_hub import hf_hub_download

state = torch.load(hf_hub_download("{repo_id}", "model.pt"), weights_only=True)
model.load_state_dict(state)  # a model built as it was for training: {kind}""",
    "model.onnx": """\
import onnxruntime
from huggingface_hub import hf_hub_download

session = onnxruntime.InferenceSession(hf_hub_download("{repo_id}", "model.onnx"))
outputs = session.run(None, {{"input": batch}})  # a numpy array""",
    "model.pt2": """\
import torch
from huggingface_hub import hf_hub_download

program = torch.export.load(hf_hub_download("{repo_id}", "model.pt2"))
outputs = program.module()(batch)  # called as the model is""",
}


def model_card(
    repo_id: str,
    record: RunRecord,
    task: Any,
    exported: Exported,
    weights: str,
    step: int | None,
) -> str:
    """The text of ``README.md``.

    Args:
        repo_id: Where it will lie.
        record: The run.
        task: What was trained; ``extras`` may give ``license`` and ``dataset``.
        exported: The files beside the card.
        weights: ``"last"`` or ``"best"``.
        step: The step they are of.
    """
    results = {
        "validation": _validation(record, step),
        "test": _test(record, weights),
    }
    front = yaml.safe_dump(
        _front_matter(repo_id, record, task, results),
        sort_keys=False,
        allow_unicode=True,
    )
    name = plain(task.name)
    parts = [
        f"---\n{front}---\n",
        f"# {name}\n",
        _opening(record, task, weights, step),
        "## Load\n",
        *_loading(repo_id, task, exported),
        *_result_table(results, task.baselines),
        "## Training\n",
        table(("", ""), training_facts(record, task)),
    ]
    return "\n".join(parts)


def _front_matter(
    repo_id: str, record: RunRecord, task: Any, results: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = record.settings.get("recipe", ("null", ""))[0]
    front: dict[str, Any] = {"library_name": "nbutils"}
    if license_name := task.extras.get("license"):
        front["license"] = _label(license_name)
    if recipe in _TASK_TYPES:
        front["pipeline_tag"] = _TASK_TYPES[recipe]
    front["tags"] = ["nbutils", "pytorch"]
    found = [
        {
            "task": {
                "type": _TASK_TYPES.get(recipe, "other"),
                "name": _label(task.name),
            },
            "dataset": {
                "name": _label(task.extras.get("dataset", f"data of {task.name}")),
                "type": "custom",
                "split": split,
            },
            "metrics": [
                {
                    "type": _label(name),
                    "name": _label(f"{split} {name}"),
                    "value": value,
                }
                for name, value in numbers.items()
                if isinstance(value, (int, float)) and math.isfinite(value)
            ],
        }
        for split, numbers in results.items()
    ]
    if found := [result for result in found if result["metrics"]]:
        front["model-index"] = [{"name": repo_id.split("/")[1], "results": found}]
    return front


def _label(value: object) -> str:
    """Text on one line: a line of dashes would end the front matter."""
    return " ".join(str(value).split())


def _validation(record: RunRecord, step: int | None) -> dict[str, Any]:
    """What validation said of these very weights."""
    rows = [row for row in record.view.rows if step and row.get("step") == step]
    row = rows[-1] if rows else {}
    return {
        name.removeprefix("val_"): value
        for name, value in row.items()
        if name.startswith("val_") and name not in NO_METRIC
    }


def _test(record: RunRecord, weights: str) -> dict[str, Any]:
    """Test numbers, if they are of these weights and not of an earlier session."""
    run = record.run
    is_theirs = run.get("test_weights") == weights
    is_current = run.get("test_step") is not None and run["test_step"] == run.get(
        "step"
    )
    found = run.get("test_metrics")
    return dict(found) if isinstance(found, dict) and is_theirs and is_current else {}


def _opening(record: RunRecord, task: Any, weights: str, step: int | None) -> str:
    count = record.view.start.get("num_parameters")
    size = f" ({count:,} parameters)" if isinstance(count, int) else ""
    which = "the last ones"
    if weights == "best":
        which = f"those with the best {plain(record.best.get('metric', 'metric'))}"
    decay = record.settings.get("ema_decay", ("null", ""))[0]
    if decay != "null":
        which += f", as a running average with decay {plain(decay)}"
    at = "" if step is None else f", at step {step:,}"
    return (
        f"Weights of a {plain(_kind(task))}{size}, trained with nbutils on the task "
        f"{plain(task.name)}: {which}{at}.\n"
    )


def _loading(repo_id: str, task: Any, exported: Exported) -> Iterator[str]:
    is_partial = any(note.startswith("safetensors ") for note in exported.notes)
    for path in exported.values():
        text = _LOADING[path.name].format(
            repo_id=repo_id, kind=_kind(task), strict=", strict=False" * is_partial
        )
        yield f"```python\n{text}\n```\n"
    for note in exported.notes:
        yield f"{plain(note)}\n"


def _result_table(
    results: Mapping[str, Mapping[str, Any]], baselines: Any
) -> Iterator[str]:
    rows = [
        (split, name, readable(value))
        for split, numbers in results.items()
        for name, value in numbers.items()
    ]
    if not rows:
        return
    yield "## Results\n"
    yield table(("split", "metric", "value"), rows)
    if isinstance(baselines, Mapping) and baselines:
        reached = "; ".join(f"{plain(k)} {readable(v)}" for k, v in baselines.items())
        yield f"What trivial predictors reach, as the task declares it: {reached}.\n"


def _kind(task: Any) -> str:
    return re.sub(r"\W", "", type(task.model).__name__)
