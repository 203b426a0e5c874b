"""A notebook runs headless, tells where it is, and fails with the cell's name."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbutils.errors import ConfigError
from nbutils.launch import engine
from nbutils.launch.notebook import (
    NotebookInterrupted,
    NotebookRunError,
    run_notebook,
)
from nbutils.launch.parameters import declared_parameters, sort_parameters


def notebook(folder: Path, *sources: str, name: str = "tiny.ipynb") -> Path:
    """A notebook with a title, a parameters cell and ``sources``."""
    make = nbformat.v4
    parameters = make.new_code_cell("%time\nsize = 'small'\ncount: int = 1\n")
    parameters.metadata["tags"] = ["parameters"]
    cells: list[Any] = [make.new_markdown_cell("# A tiny run\n\ntext"), parameters]
    cells += [make.new_code_cell(source) for source in sources]
    path = folder / "books" / name
    path.parent.mkdir(exist_ok=True)
    nbformat.write(make.new_notebook(cells=cells), path)
    return path


def outputs_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(
        out.get("text", "") for cell in cells for out in cell.get("outputs", [])
    )


def test_run_notebook_passes_parameters_settings_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = notebook(
        tmp_path,
        "# say it\nimport os\nprint('got', size, count + 1)",
        "print({k: v for k, v in sorted(os.environ.items()) if 'NBUTILS' in k})",
        "print(os.getcwd())",
    )
    before = source.read_bytes()
    monkeypatch.setenv("NBUTILS_SEED", "5")
    monkeypatch.chdir(tmp_path)
    given = {"size": "007", "count": "2", "epochs": "3", "train.seed": 7}
    executed = run_notebook(source, given, "out")
    assert executed == Path("out") / "tiny.ipynb"
    text = outputs_of(executed)
    assert "got 007 3" in text
    assert (
        "{'NBUTILS_EPOCHS': '3', 'NBUTILS_HEADLESS': '1', 'NBUTILS_SEED': '7'}" in text
    )
    assert str(tmp_path) in text
    assert os.environ["NBUTILS_SEED"] == "5"
    assert "NBUTILS_HEADLESS" not in os.environ
    assert source.read_bytes() == before
    assert "got 007 3" in executed.with_suffix(".html").read_text(encoding="utf-8")
    terminal, errors = capfd.readouterr()
    assert "IPKernelApp" not in errors
    assert re.search(r"\[1/6\] 0:\d\d  A tiny run\n", terminal)
    assert "say it\ngot 007 3\n" in terminal


def test_run_notebook_failing_cell_is_named_and_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = notebook(tmp_path, "print('before')", "value = 1 / 0", "print('after')")
    with pytest.raises(NotebookRunError) as caught:
        run_notebook(source, {}, tmp_path / "out")
    text = str(caught.value)
    assert "tiny.ipynb: the cell [3] 'value = 1 / 0' raised ZeroDivisionError" in text
    assert str(tmp_path / "out" / "tiny.ipynb") in text
    assert "before" in outputs_of(tmp_path / "out" / "tiny.ipynb")
    assert "after" not in outputs_of(tmp_path / "out" / "tiny.ipynb")
    assert (tmp_path / "out" / "tiny.html").exists()
    assert "value = 1 / 0" in capfd.readouterr().err
    assert "NBUTILS_HEADLESS" not in os.environ


def test_run_notebook_dead_kernel_says_so(tmp_path: Path) -> None:
    source = notebook(
        tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    died = r"tiny\.ipynb: the kernel died in cell 3 of 3, 'os\.kill\("
    with pytest.raises(NotebookRunError, match=died):
        run_notebook(source, {}, tmp_path / "out")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_run_notebook_interrupt_ends_the_cell_and_keeps_what_ran(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    source = notebook(
        tmp_path,
        "import os, signal, time\n"
        "try:\n"
        f"    os.kill(os.getppid(), signal.{name})\n"
        "    [time.sleep(0.1) for _ in range(600)]\n"
        "except KeyboardInterrupt:\n"
        "    print('saved')",
        "print('after')",
    )
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = f"tiny.ipynb: {name} stopped it in cell 3 of 4"
    with pytest.raises(NotebookInterrupted, match=stopped):
        run_notebook(source, {}, tmp_path / "out")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    text = outputs_of(tmp_path / "out" / "tiny.ipynb")
    assert "saved" in text
    assert "after" not in text
    assert (tmp_path / "out" / "tiny.html").exists()
    assert "stopping after this cell" in capfd.readouterr().out


def test_run_notebook_interrupt_that_the_cell_does_not_catch_is_no_failure(
    tmp_path: Path,
) -> None:
    source = notebook(
        tmp_path,
        "import os, signal, time\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "[time.sleep(0.1) for _ in range(600)]",
    )
    with pytest.raises(NotebookInterrupted, match="Start it again to go on"):
        run_notebook(source, {}, tmp_path / "out")


def test_run_notebook_second_interrupt_ends_it_now(tmp_path: Path) -> None:
    source = notebook(
        tmp_path,
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    [time.sleep(0.1) for _ in range(600)]\n"
        "except KeyboardInterrupt:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    [time.sleep(0.1) for _ in range(600)]",
    )
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_notebook(source, {}, tmp_path / "out")
    assert time.monotonic() - start_s < 45


def test_run_notebook_tells_long_cells_and_what_must_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "TOLD_S", 0.3)
    monkeypatch.setenv("MY_API_KEY", "s3cret-value")
    source = notebook(
        tmp_path,
        "import time\ntime.sleep(0.4)\nprint('no line end', end='')",
        "import os\nprint(os.environ['MY_API_KEY'])",
    )
    executed = run_notebook(source, {}, tmp_path / "out")
    out, err = capfd.readouterr()
    assert re.search(r"no line end\n      took 0\.[4-9] s\n\[4/4\]", out)
    assert f"warning: {executed.name}: cell 4 holds the value of MY_API_KEY." in err
    assert "s3cret" not in err


def test_run_notebook_that_fails_still_warns_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_API_KEY", "s3cret-value")
    source = notebook(tmp_path, "import os\nraise ValueError(os.environ['MY_API_KEY'])")
    with pytest.raises(NotebookRunError):
        run_notebook(source, {}, tmp_path / "out")
    err = capfd.readouterr().err
    assert "holds the value of MY_API_KEY" in err
    assert "ended with" not in err


def test_run_notebook_wrong_parameters_are_reported_before_the_kernel_starts(
    tmp_path: Path,
) -> None:
    source = notebook(tmp_path, "print('ran')")
    with pytest.raises(ConfigError) as caught:
        run_notebook(
            source,
            {"epoch": 3, "cuont": 1, "zzzz": 1, "batch_size": "0", "betas": (0.9,)},
            tmp_path / "out",
        )
    assert caught.value.problems == [
        "epoch is neither a parameter of tiny.ipynb nor a setting; "
        "did you mean epochs?",
        "cuont is neither a parameter of tiny.ipynb nor a setting; did you mean count?",
        "zzzz is neither a parameter of tiny.ipynb nor a setting; "
        "its parameters are size, count.",
        "batch_size is 0; it must be >= 1.",
        "betas is (0.9,); it must be 2 numbers.",
    ]
    assert not (tmp_path / "out" / "tiny.ipynb").exists()


@pytest.mark.parametrize("name", ["absent.ipynb", "tiny.py"])
def test_run_notebook_other_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "tiny.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="is not a notebook; give the path of"):
        run_notebook(tmp_path / name, {}, tmp_path / "out")


def test_run_notebook_into_its_own_folder_is_refused(tmp_path: Path) -> None:
    source = notebook(tmp_path, "x = 1")
    with pytest.raises(ConfigError, match="must not be the notebook's own folder"):
        run_notebook(source, {}, source.parent)


def test_run_notebook_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{not json")
    with pytest.raises(ConfigError, match="cannot be read as a notebook"):
        run_notebook(path, {}, tmp_path / "out")


def test_declared_parameters_reads_literals_and_skips_magics() -> None:
    cells = [
        {"metadata": {}, "source": "other = 1"},
        {
            "metadata": {"tags": ["parameters"]},
            "source": "!ls\na = b = 1\nc: str = 'x'\nd = a + 1\n",
        },
    ]
    assert declared_parameters(cells) == {"a": 1, "b": 1, "c": "x", "d": None}


def test_sort_parameters_prefers_the_notebook_over_a_setting() -> None:
    found = sort_parameters(
        {"epochs": "3", "max_steps": None}, {"epochs": 1}, "x.ipynb"
    )
    assert found.injected == {"epochs": 3}
    assert found.environ == {"NBUTILS_MAX_STEPS": "none"}
