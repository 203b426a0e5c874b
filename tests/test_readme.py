"""What the README shows runs as it is written, and its pictures are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import nbutils as nb

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
RUNNABLE = [block for block in BLOCKS if "%pip" not in block]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, and in a few steps; everything else stays as written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBUTILS_MAX_STEPS", "2")
    monkeypatch.setenv("NBUTILS_MAX_SAMPLES", "120")
    torch.manual_seed(0)


def test_readme_has_the_blocks_that_are_run_here():
    assert len(RUNNABLE) == 3


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda text: text.splitlines()[-1][:40])
def test_readme_block_runs(block):
    names = {"nb": nb}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 (our own text)
    assert {"result", "config"} & names.keys()


def test_readme_own_objects_leave_a_finished_run(capsys):
    block = next(block for block in RUNNABLE if "nb.Task(" in block)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 (our own text)
    assert names["result"].stop_reason == "completed"
    assert (names["result"].run_dir / "report.html").exists()
    assert "completed" in capsys.readouterr().out


@pytest.mark.parametrize("name", re.findall(r"\]\(((?!http)[^)]+)\)", TEXT))
def test_readme_links_lead_somewhere(name):
    path = ROOT / name
    assert path.exists()
    if path.suffix == ".png":
        assert path.stat().st_size < 200_000
