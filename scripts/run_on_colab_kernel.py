"""Run All of notebook 01 in the kernel that JUPYTER_PATH names, and check what ran.

Twice: headless, as ``nbutils run`` does it, and with a front end that shows widgets.
Afterwards the kernel must have had the versions of constraints/colab.txt, and the
notebook that ran headless holds no key, no widget, no error and few bytes. Called by
scripts/check_colab.sh.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from nbutils.launch.executed import executed_problems
from nbutils.launch.notebook import run_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "01_vision_classification.ipynb"
PINS = ROOT / "constraints" / "colab.txt"
WIDGET = "application/vnd.jupyter.widget-view+json"


class FrontEnd(NotebookClient):
    """A client that takes input; a kernel without one knows that nobody is there."""

    async def async_start_new_kernel_client(self) -> Any:
        """The client of the new kernel, with input allowed."""
        client = await super().async_start_new_kernel_client()
        client.allow_stdin = True
        return client


def main() -> int:
    """Both runs, in a folder that goes away."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(version_check()))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / NOTEBOOK.name
        nbformat.write(notebook, source)
        enter(Path(folder) / "headless")
        inspect(run_notebook(source, {"smoke": True}, "out"))
        enter(Path(folder) / "widgets")
        run_with_widgets(nbformat.read(source, as_version=4))
    return 0


def enter(folder: Path) -> None:
    """Work in a new folder, so that no run finds another one's files."""
    folder.mkdir()
    os.chdir(folder)


def inspect(executed: Path) -> None:
    """Fail where a saved notebook holds what it must not."""
    if problems := executed_problems(executed):
        raise SystemExit(f"{executed.name}, executed headless: {'; '.join(problems)}.")
    print(f"headless: {executed.stat().st_size // 1000} kB, clean")  # noqa: T201


def version_check() -> str:
    """A cell that fails unless every pinned version is the one in use."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line]
    return "\n".join(
        [
            "from importlib.metadata import version",
            "import IPython, ipykernel, ipywidgets",
            f"pins = dict({pins!r})",
            "seen = {name: version(name) for name in pins}",
            "assert seen == pins, (seen, pins)",
            "loaded = (IPython, ipykernel, ipywidgets)",
            "assert all(m.__version__ == pins[m.__name__.lower()] for m in loaded)",
            "print('as on Colab:', seen)",
        ]
    )


def run_with_widgets(notebook: nbformat.NotebookNode) -> None:
    """Run All as a front end does that takes input: the form must be a widget."""
    for name in ("CI", "NBUTILS_HEADLESS"):
        os.environ.pop(name, None)
    parameters = next(
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    parameters.source += "\nsmoke = True"
    FrontEnd(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    views = [out for out in outputs if WIDGET in out.get("data", {})]
    errors = [out for out in outputs if out.output_type == "error"]
    noise = "".join(out.text for out in outputs if out.get("name") == "stderr")
    if not views or errors or noise:
        raise SystemExit(
            f"With widgets: {len(views)} views (expected some), errors {errors}, "
            f"on the error stream: {noise!r} (expected nothing)."
        )
    print(f"with widgets: {len(views)} views, no errors")  # noqa: T201 (a script)


if __name__ == "__main__":
    sys.exit(main())
