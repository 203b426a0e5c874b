"""Our own notebooks: stripped, in step with their sources, and free of questions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
make = nbformat.v4


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "check_notebooks", ROOT / "scripts" / "check_notebooks.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_its_source_without_outputs_and_asks_nothing(
    check: ModuleType, path: Path
) -> None:
    assert check.differences(path.with_suffix(".py")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_thin(path: Path) -> None:
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert len(code) <= 12
    assert max(len(cell.source.splitlines()) for cell in code) <= 16


def healthy(*extra: str, tags: tuple[str, ...] = ("parameters",)) -> Any:
    sources = [
        "from nbutils.environment.install import complete\ncomplete()",
        "smoke = False",
        *extra,
    ]
    notebook = make.new_notebook(cells=[make.new_code_cell(text) for text in sources])
    notebook.cells[1].metadata["tags"] = list(tags)
    return notebook


def test_obstacles_of_a_healthy_notebook_are_none(check: ModuleType) -> None:
    told = "inputs = model(batch); drive_mounted = True  # no getpass here"
    assert list(check.obstacles(healthy(told))) == []


@pytest.mark.parametrize(
    "source",
    [
        "name = input('who? ')",
        "key = getpass.getpass()",
        "notebook_login()",
        "from google.colab import files; files.upload()",
        "drive.mount('/content/drive')",
        "userdata.get('HF_TOKEN')",
        "wandb.login(key=key)",
    ],
)
def test_obstacles_name_what_asks(check: ModuleType, source: str) -> None:
    [what] = check.obstacles(healthy(source))
    assert what.startswith("asks: ")


@pytest.mark.parametrize(
    ("notebook", "what"),
    [
        (healthy("x = 1\n%pip install -q timm"), "installs with a magic"),
        (healthy("!pip install timm"), "installs with a magic"),
        (healthy(tags=()), "has 0 cells tagged 'parameters'"),
        (make.new_notebook(), "has 0 cells tagged 'parameters'"),
    ],
)
def test_obstacles_name_what_is_missing(
    check: ModuleType, notebook: Any, what: str
) -> None:
    assert next(iter(check.obstacles(notebook))).startswith(what)


def test_obstacles_name_a_first_cell_that_installs_nothing(check: ModuleType) -> None:
    notebook = healthy()
    notebook.cells[0].source = "import nbutils"
    [what] = check.obstacles(notebook)
    assert what == "does not begin with the cell that installs what is missing"
    notebook = healthy()
    notebook.cells[1].source = "epochs = 3"
    assert list(check.obstacles(notebook)) == ["has no parameter smoke"]
