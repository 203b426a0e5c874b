"""Keys, dead widgets and too many bytes are found in a saved notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbutils.launch.executed import executed_problems

make = nbformat.v4
KEY = "0123456789abcdef" * 2 + "01234567"
WIDGET = "application/vnd.jupyter.widget-view+json"


def saved(folder: Path, *outputs: Any, source: str = "x", **metadata: Any) -> Path:
    cell = make.new_code_cell(source, outputs=list(outputs))
    notebook = make.new_notebook(cells=[make.new_markdown_cell("# t"), cell])
    notebook.metadata.update(metadata)
    path = folder / "executed.ipynb"
    nbformat.write(notebook, path)
    return path


def stream(text: str) -> Any:
    return make.new_output("stream", text=text)


def test_executed_clean_notebook_has_no_problem(tmp_path: Path) -> None:
    picture = make.new_output(
        "display_data",
        {
            "image/png": "AKIAABCDEFGHIJKLMNOP",  # bytes, not text
            "text/html": "<img src='data:image/png;base64,AKIAABCDEFGHIJKLMNOP'>",
        },
    )
    path = saved(tmp_path, stream("loss 0.5\n"), picture)
    assert executed_problems(path, environ={"HF_TOKEN": KEY, "HOME": "loss 0.5"}) == []


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (stream(f"WANDB_API_KEY={KEY}"), "cell 2 holds what looks like a key"),
        (stream("hf_" + "aB3" * 12), "cell 2 holds what looks like a key"),
        (stream("it is s3cret-value!"), "cell 2 holds the value of MY_PASSWORD"),
        (
            make.new_output("error", ename="ValueError", evalue="s3cret-value"),
            "cell 2 holds the value of MY_PASSWORD",
        ),
        (
            make.new_output("execute_result", {"text/html": "<p>s3cret-value</p>"}),
            "cell 2 holds the value of MY_PASSWORD",
        ),
        (
            make.new_output("display_data", {WIDGET: {"model_id": "a"}}),
            "cell 2 shows a widget that is dead in a saved file",
        ),
        (
            make.new_output("error", ename="ValueError", evalue="no"),
            "cell 2 ended with ValueError",
        ),
    ],
)
def test_executed_fault_in_an_output_is_named(
    tmp_path: Path, output: Any, problem: str
) -> None:
    found = executed_problems(
        saved(tmp_path, output), environ={"MY_PASSWORD": "s3cret-value"}
    )
    assert problem in found
    assert not any("s3cret" in text or KEY in text for text in found)


def test_executed_key_in_the_source_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, source=f"wandb_api_key = '{KEY}'")
    assert executed_problems(path, environ={}) == ["cell 2 holds what looks like a key"]


def test_executed_widget_state_and_size_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, stream("x" * 400), widgets={"state": {}})
    problems = executed_problems(path, max_bytes=300, environ={})
    assert problems[0] == "it holds the state of widgets, and with it what was typed"
    assert "bytes; at most 300 are wanted" in problems[1]
