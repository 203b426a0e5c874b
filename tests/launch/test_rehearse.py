"""A rehearsal goes to the last cell, names what fails, and leaves nothing behind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner

from nbutils import cli
from nbutils.checkpoint.location import choose_run_dir, given_run_dir
from nbutils.config import RunConfig
from nbutils.config.sources import REHEARSAL, REHEARSAL_STEPS, rehearsed
from nbutils.errors import ConfigError
from nbutils.launch.overlay import lay_over, project_of
from nbutils.launch.rehearsal_page import NotebookRehearsal
from nbutils.launch.rehearse import rehearse
from nbutils.testing import make_task

RUN = """\
import nbutils as nb
from nbutils.testing import make_task
run = nb.TrainingCoordinator(make_task(), epochs=500, max_steps=900, run_dir="mine",
                             tracker="wandb", preflight="skip", warmup_steps=50)
result = run.train()
print("steps", result.steps)
"""


def book(folder: Path, *sources: str, parameters: str = "size = 1") -> Path:
    """A notebook with a title, a parameters cell and ``sources``."""
    make = nbformat.v4
    first = make.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells: list[Any] = [make.new_markdown_cell("# A tiny run"), first]
    cells += [make.new_code_cell(source) for source in sources]
    path = folder / "books" / "tiny.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(make.new_notebook(cells=cells), path)
    return path


def tried(path: Path, *given: Any, **more: Any) -> tuple[NotebookRehearsal, str]:
    out = io.StringIO()
    rehearsal = rehearse(path, *given, output_dir=Path("out"), out=out, **more)
    return rehearsal, out.getvalue()


def statuses(rehearsal: NotebookRehearsal) -> list[str]:
    return [f"{cell.number} {cell.status}" for cell in rehearsal.cells]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_rehearse_healthy_notebook_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    path = book(
        tmp_path,
        RUN,
        "assert result.steps == 3, result.steps\nassert size == 7",
        "from pathlib import Path\nassert Path('given.txt').read_text() == 'a'\n"
        "Path('given.txt').write_text('b')\nPath('new.txt').write_text('c')",
        "import os\nassert os.environ['WANDB_MODE'] == 'disabled'\n"
        "assert os.environ['NBUTILS_SEED'] == '5'",
    )
    (path.parent / "given.txt").write_text("a")
    before = files(path.parent)
    rehearsal, terminal = tried(path, {"size": "7", "seed": "5"}, num_steps=3)
    assert rehearsal.passed, rehearsal.text
    assert statuses(rehearsal) == ["2 pass", "3 pass", "4 pass", "5 pass", "6 pass"]
    assert files(path.parent) == before
    assert (path.parent / "given.txt").read_text() == "a"
    assert [str(p) for p in rehearsal.written] == ["given.txt", "new.txt"]
    assert "[3/6] 0:" in terminal
    assert "run = nb.TrainingCoordinator(" in terminal
    page = (tmp_path / "out" / "tiny.html").read_text()
    assert "5 passed of 5 cells" in page
    assert "http://" not in page
    assert "https://" not in page


def test_rehearse_names_every_cell_that_fails_and_those_not_reached(
    tmp_path: Path,
) -> None:
    path = book(
        tmp_path,
        "kept = 1\nbroken = 1 / 0",
        "print(kept)",
        "after = broken + 1",
        "def show():\n    return after",
        "show()",
        "raise ValueError('<b>' + 'token hf_' + 'aBcDeFgHiJkLmNoPqRsTuVwXyZAbCdEfGh')",
        "broken = 2\nbroken",
        "print(broken)",
    )
    rehearsal, terminal = tried(path)
    assert not rehearsal.passed
    assert statuses(rehearsal) == [
        *["2 pass", "3 fail", "4 pass", "5 skip", "6 pass", "7 skip", "8 fail"],
        *["9 pass", "10 pass"],
    ]
    texts = {cell.number: cell.text for cell in rehearsal.cells}
    assert texts[3] == "ZeroDivisionError: division by zero"
    assert texts[5] == "not reached: it needs broken of cell 3"
    assert texts[7] == "not reached: it needs after of cell 3"
    assert [cell.number for cell in rehearsal.failures] == [3, 8]
    assert "fail  ZeroDivisionError: division by zero" in terminal
    page = (tmp_path / "out" / "tiny.html").read_text()
    assert "hf_aBc" not in page + terminal
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_rehearse_prompt_fails_in_the_lint_and_in_the_run(tmp_path: Path) -> None:
    rehearsal, _ = tried(book(tmp_path, "name = input('who? ')", "print('on')"))
    assert [f.id for f in rehearsal.lints.findings] == ["S5.prompt"]
    assert statuses(rehearsal) == ["2 pass", "3 fail", "4 pass"]
    assert "StdinNotImplementedError" in rehearsal.failures[0].text


def test_rehearse_kernel_that_dies_ends_it(tmp_path: Path) -> None:
    path = book(tmp_path, "import os\nos._exit(1)", "print('on')")
    rehearsal, _ = tried(path)
    assert statuses(rehearsal) == ["2 pass", "3 fail", "4 skip"]
    assert "the kernel died" in rehearsal.failures[0].text
    assert rehearsal.cells[2].text == "not reached: the kernel died in cell 3"


def test_rehearse_long_cell_is_interrupted(tmp_path: Path) -> None:
    path = book(tmp_path, "import time\ntime.sleep(60)\nx = 1", "print('on')")
    rehearsal, _ = tried(path, timeout_s=2)
    assert statuses(rehearsal) == ["2 pass", "3 fail", "4 pass"]
    assert "it still ran after 2 s and was interrupted" in rehearsal.failures[0].text


def test_rehearse_hub_is_refused_and_no_fault(tmp_path: Path) -> None:
    path = book(tmp_path, RUN, "run.publish_to_hub('someone/x', token='t')")
    rehearsal, _ = tried(path)
    assert statuses(rehearsal) == ["2 pass", "3 pass", "4 warn"]
    assert "a rehearsal does not reach the Hub" in rehearsal.cells[2].text
    assert rehearsal.passed


def test_rehearse_wrong_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a notebook; give the path of"):
        rehearse(tmp_path / "absent.ipynb")
    with pytest.raises(ConfigError, match="num_steps is 1; it must be >= 2"):
        rehearse(book(tmp_path, "1"), num_steps=1)
    with pytest.raises(ConfigError, match="epoch is neither a parameter of tiny"):
        rehearse(book(tmp_path, "1"), {"epoch": 3})


def test_rehearse_command_says_so_by_its_exit_status(tmp_path: Path) -> None:
    path = str(book(tmp_path, "x = 1", "print(y)", "y = 1"))
    done = CliRunner().invoke(cli.main, ["rehearse", path, "--lint"])
    assert done.exit_code == 1
    assert "cell 5, below, is the first to define it" in done.output
    assert not Path("runs").exists()
    done = CliRunner().invoke(cli.main, ["lint", path, "--json"])
    assert done.exit_code == 1
    assert '"id": "S7.order"' in done.output
    done = CliRunner().invoke(cli.main, ["rehearse", path, "--output-dir", "o"])
    assert done.exit_code == 1
    assert "✗ fail  cell 4" in done.output
    assert "report  o/tiny.html" in done.output
    healthy = str(book(tmp_path, "x = 1"))
    done = CliRunner().invoke(cli.main, ["lint", healthy])
    assert (done.exit_code, "nothing found" in done.output) == (0, True)


def test_rehearsed_config_is_cut_short_and_stays_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RunConfig(
        epochs=9, warmup_steps=100, max_hours=3, tracker="wandb", mirror="m"
    )
    assert rehearsed(config) is config
    monkeypatch.setenv(REHEARSAL, "scratch")
    monkeypatch.setenv(REHEARSAL_STEPS, "6")
    short = rehearsed(config)
    assert (short.train.max_steps, short.schedule.warmup_steps) == (6, 5)
    assert (short.tracking.tracker, short.checkpoint.mirror) == ("none", None)
    assert short.train.max_hours is None
    assert rehearsed(RunConfig(max_steps=2)).train.max_steps == 2


def test_run_dir_in_a_rehearsal_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "run.json").write_text("{}")
    assert given_run_dir("mine") == mine
    monkeypatch.setenv(REHEARSAL, str(tmp_path / "scratch"))
    fresh = given_run_dir(mine)
    assert fresh.parent == tmp_path / "scratch"
    assert not fresh.exists()
    assert given_run_dir(fresh) == fresh
    resumed = given_run_dir("mine", is_resumed=True)
    assert (resumed, (resumed / "run.json").read_text()) == (fresh, "{}")
    chosen = choose_run_dir(RunConfig(), make_task())
    assert chosen.parent == tmp_path / "scratch"


def test_overlay_links_what_is_large_and_sees_it_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "project"
    (source / "books").mkdir(parents=True)
    (source / "data").mkdir()
    (source / "pyproject.toml").write_text("")
    (source / "data" / "large.bin").write_bytes(b"0" * 100)
    monkeypatch.setattr("nbutils.launch.overlay.MAX_COPY_BYTES", 50)
    assert project_of(source / "books") == source
    overlay = lay_over(source, tmp_path / "double" / "project")
    large = tmp_path / "double" / "project" / "data" / "large.bin"
    assert large.is_symlink()
    assert (overlay.written(), overlay.reached()) == ([], [])
    large.write_bytes(b"1")
    assert overlay.reached() == [source / "data" / "large.bin"]
    (overlay.target / "books" / "x").write_text("")
    assert overlay.written() == [Path("books/x")]


def test_overlay_links_folders_of_very_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "a" / "images" / str(number)).write_text("")
    monkeypatch.setattr("nbutils.launch.overlay.MAX_ENTRIES", 3)
    lay_over(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "images").is_symlink()
    assert (tmp_path / "b" / "images" / "4").exists()
