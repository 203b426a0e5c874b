"""Run All of our first notebook: headless, twice in one kernel, with one run."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from nbutils.launch.executed import executed_problems

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_vision_classification.ipynb"

# Loaded by every Python that is started from here: no way out of this machine.
NO_NETWORK = """
import socket
_connect = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost"):
        open({log!r}, "a").write(repr(address) + chr(10))
        raise OSError("no network in this test")
    return _connect(self, address)
socket.socket.connect = connect
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run_all")


@pytest.fixture(scope="module")
def twice(place: Path) -> Any:
    """The notebook with all its cells twice, executed in smoke mode."""
    patch = pytest.MonkeyPatch()
    site = place / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        NO_NETWORK.format(log=str(place / "reached.txt"))
    )
    patch.setenv("PYTHONPATH", str(site))
    patch.setenv("NBUTILS_HEADLESS", "1")
    patch.setenv("HF_TOKEN", "hf_" + "aB3" * 12)  # must not show anywhere
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(place))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "\nsmoke = True"
    again = copy.deepcopy(notebook.cells)
    for cell in again:
        cell["id"] += "-again"
    notebook.cells += again
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(place)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()  # a cell that raises, or asks, fails here
        nbformat.write(notebook, place / "twice.ipynb")
        yield notebook
    finally:
        patch.undo()


def streams(cells: list[Any], name: str = "stdout") -> str:
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.get("name") == name)


def test_run_all_twice_in_one_kernel_makes_one_run(twice: Any, place: Path) -> None:
    half = len(twice.cells) // 2
    first, second = streams(twice.cells[:half]), streams(twice.cells[half:])
    assert "steps planned" in first
    assert "is finished" not in first
    assert "this run is finished: nothing was left to train" in second
    assert len(list((place / "runs").iterdir())) == 1
    [run] = (place / "runs").iterdir()
    kinds = [
        json.loads(line)["kind"]
        for line in (run / "events.jsonl").read_text().splitlines()
    ]
    assert kinds.count("epoch") == 1
    ids = set(re.findall(r"^run (\w+) ", first + second, re.MULTILINE))
    assert len(ids) == 1


def test_run_all_leaves_a_clean_notebook(twice: Any, place: Path) -> None:
    environ = {"HF_TOKEN": "hf_" + "aB3" * 12}
    once = copy.deepcopy(twice)
    once.cells = once.cells[: len(once.cells) // 2]
    nbformat.write(once, place / "once.ipynb")
    assert executed_problems(place / "once.ipynb", environ=environ) == []
    twofold = executed_problems(
        place / "twice.ipynb", environ=environ, max_bytes=600_000
    )
    assert twofold == []
    assert streams(twice.cells, "stderr") == ""


def test_run_all_reaches_no_other_machine(twice: Any, place: Path) -> None:
    log = place / "reached.txt"
    assert not log.exists(), log.read_text()


def test_run_all_first_cell_says_and_installs_nothing(twice: Any) -> None:
    [first, *_] = [cell for cell in twice.cells if cell.cell_type == "code"]
    assert "complete(" in first.source
    assert first.outputs == []
