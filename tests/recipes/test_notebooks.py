"""Each notebook is short, plain, stripped and the same as its source."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
FORBIDDEN = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.For,
    ast.While,
    ast.Try,
)


def cells_of(source: Path) -> list[dict]:
    return json.loads(source.with_suffix(".ipynb").read_text("utf-8"))["cells"]


def text_of(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_short_and_plain(source):
    cells = cells_of(source)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) <= 10
    assert len(cells) <= 14
    assert cells[0]["cell_type"] == "markdown"
    for cell in code:
        text = text_of(cell)
        assert len([line for line in text.splitlines() if line.strip()]) <= 11
        assert "%pip" not in text
        assert "sys.path" not in text
        assert not any(isinstance(n, FORBIDDEN) for n in ast.walk(ast.parse(text)))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_has_parameters_and_no_outputs(source):
    cells = cells_of(source)
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert "smoke = False" in text_of(tagged[0])
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_says_the_same_as_its_source(source):
    body = source.read_text("utf-8").split("\n# %%")[1:]
    texts = []
    for part in body:
        head, _, text = part.partition("\n")
        if "[markdown]" in head:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        texts.append(text.strip())
    assert texts == [text_of(cell).strip() for cell in cells_of(source)]
