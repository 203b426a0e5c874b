"""Execute a notebook in miniature, to the last cell, and name each that would fail.

Runs of nbutils are cut short, and live in a scratch folder; so do files that cells
write below the notebook's folder or its project. W&B is off, and the Hub is not
reached. What a cell writes to an absolute path elsewhere is not held back.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from nbutils.config.sources import REHEARSAL, REHEARSAL_STEPS
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.launch.cells import CellOutcome, run_cells
from nbutils.launch.overlay import lay_over, project_of
from nbutils.launch.parameters import (
    Parameters,
    declared_parameters,
    sort_parameters,
)
from nbutils.launch.rehearsal_page import NotebookRehearsal, write_page
from nbutils.preflight.lints import lint
from nbutils.preflight.lints.source import Source, read_source

__all__ = ["rehearse"]

_KERNEL = "python3"
_KERNEL_ARGUMENTS = ("--IPKernelApp.log_level=ERROR",)
CUT_OFF = {
    "NBUTILS_HEADLESS": "1",
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
"""What keeps a rehearsal on this machine."""


def rehearse(
    path: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    num_steps: int = 4,
    timeout_s: int = 600,
    output_dir: str | Path = "runs/rehearsals",
    out: TextIO | None = None,
) -> NotebookRehearsal:
    """Lint a notebook, execute all its cells in miniature, and write a report.

    Args:
        path: The ``.ipynb`` file; neither it nor anything beside it is changed.
        parameters: As for a run of the notebook.
        num_steps: Windows of each run of nbutils, at least 2.
        timeout_s: Seconds after which a cell is interrupted and counts as failed.
        output_dir: Folder of the report, ``<name>.html``.
        out: Where progress is written; by default the terminal.

    Raises:
        ConfigError: No such notebook, a parameter it does not know, too few steps.
        EnvironmentProblem: nbclient or ipykernel is not installed.
    """
    start = time.monotonic()
    path = Path(path)
    terminal = out or sys.stdout
    _demand(path, num_steps)
    source = read_source(path)
    notebook, given = _prepared(path, parameters or {})
    lints = lint(path)
    terminal.write(f"{lints.text}\n")
    with tempfile.TemporaryDirectory(prefix="nbutils-rehearsal-") as scratch:
        root = project_of(path.parent)
        double = Path(scratch).resolve() / "work" / root.name
        overlay = lay_over(root, double)
        environ = _environ(Path(scratch).resolve() / "runs", num_steps, given)
        folder = double / path.parent.resolve().relative_to(root)
        cells = _executed(notebook, source, folder, environ, timeout_s, terminal)
        rehearsal = NotebookRehearsal(
            name=path.name,
            lints=lints,
            cells=cells,
            written=overlay.written(),
            reached=overlay.reached(),
            num_steps=num_steps,
            seconds=time.monotonic() - start,
            page=Path(output_dir) / f"{path.stem}.html",
        )
    write_page(rehearsal, Path(output_dir) / f"{path.stem}.html")
    return rehearsal


def _demand(path: Path, num_steps: int) -> None:
    if path.suffix != ".ipynb" or not path.is_file():
        raise ConfigError(
            [f"{path} is not a notebook; give the path of an existing .ipynb file."]
        )
    if num_steps < 2:
        raise ConfigError([f"num_steps is {num_steps}; it must be >= 2."])
    try:
        import ipykernel  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import nbclient  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise EnvironmentProblem(
            f"Rehearsing a notebook needs {error.name}, which is not installed. "
            "Install it with: pip install 'nbutils[notebook]'"
        ) from error


def _prepared(path: Path, parameters: Mapping[str, Any]) -> tuple[Any, Parameters]:
    """The notebook with the parameters in its tagged cell, and settings of the run."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    given = sort_parameters(
        parameters, declared_parameters(notebook["cells"]), path.name
    )
    lines = [f"{name} = {value!r}" for name, value in given.injected.items()]
    for cell in notebook["cells"]:
        if lines and "parameters" in cell.get("metadata", {}).get("tags", []):
            cell["source"] = "\n".join([cell["source"], *lines])
            break
    return notebook, given


def _environ(runs: Path, num_steps: int, given: Parameters) -> dict[str, str]:
    """The variables of the kernel."""
    runs.mkdir(parents=True)
    threads = {} if "OMP_WAIT_POLICY" in os.environ else {"OMP_WAIT_POLICY": "PASSIVE"}
    return {
        **os.environ,
        **threads,
        **given.environ,
        **CUT_OFF,
        REHEARSAL: str(runs),
        REHEARSAL_STEPS: str(num_steps),
    }


def _executed(
    notebook: Any,
    source: Source,
    folder: Path,
    environ: Mapping[str, str],
    timeout_s: int,
    out: TextIO,
) -> list[CellOutcome]:
    """Every code cell, with a line on the terminal for each."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name=_KERNEL,
        interrupt_on_timeout=True,
        store_widget_state=False,
        extra_arguments=list(_KERNEL_ARGUMENTS),
    )
    client.reset_execution_trackers()
    began_s = time.monotonic()
    num_cells = len(notebook["cells"])

    def announce(number: int, title: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began_s), 60)
        place = f"[{number:>{len(str(num_cells))}}/{num_cells}]"
        out.write(f"{place} {minutes}:{seconds:02}  {title}\n")
        out.flush()

    outcomes: list[CellOutcome] = []
    cells = {cell.number: cell for cell in source.cells}
    with client.setup_kernel(cwd=str(folder), env=dict(environ)):
        for outcome in run_cells(client, cells, timeout_s, announce):
            outcomes.append(outcome)
            if outcome.text:
                out.write(f"    {outcome.status}  {outcome.text}\n")
                out.flush()
    return outcomes
