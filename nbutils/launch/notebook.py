"""Run a notebook from first to last cell, headless, with its output on the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.errors import ConfigError, EnvironmentProblem, NbutilsError
from nbutils.launch.executed import executed_problems
from nbutils.launch.parameters import (
    Parameters,
    declared_parameters,
    sort_parameters,
)
from nbutils.launch.terminal import Terminal

__all__ = ["NotebookInterrupted", "NotebookRunError", "run_notebook"]

_KERNEL = "python3"
# A kernel for one run on this machine; its notes about how it listens are not news.
_KERNEL_ARGUMENTS = ("--IPKernelApp.log_level=ERROR",)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookRunError(NbutilsError, RuntimeError):
    """A cell failed, or its kernel died; the cells before it are kept."""


class NotebookInterrupted(NotebookRunError):
    """Somebody, or the end of the machine, stopped it; what ran is kept."""


def run_notebook(
    path: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output_dir: str | Path = "runs/notebooks",
) -> Path:
    """Execute a notebook in the current folder and keep what it showed.

    The executed notebook and an HTML page of it are written also when a cell fails.

    Args:
        path: The ``.ipynb`` file; it is not changed.
        parameters: Values for names in its cell tagged ``parameters``; a setting of
            the run, such as ``epochs``, reaches the kernel as ``NBUTILS_EPOCHS``.
        output_dir: Folder of the executed notebook.

    Returns:
        The executed notebook; the page lies beside it with the suffix ``.html``.

    Raises:
        ConfigError: No such notebook, or a parameter that it does not know.
        NotebookRunError: A cell raised, or the kernel died.
        NotebookInterrupted: Ctrl-C or SIGTERM stopped it.
        EnvironmentProblem: papermill, nbconvert or ipykernel is not installed.
    """
    source, target = _places(Path(path), Path(output_dir))
    _demand_packages()
    given = sort_parameters(
        parameters or {}, declared_parameters(_cells(source)), source.name
    )
    try:
        with _environment(
            {**_quiet_threads(), "NBUTILS_HEADLESS": "1", **given.environ}
        ):
            _execute(source, target, given)
    finally:
        if target.exists():
            _write_page(target)
            _warn(target)
    return target


def _places(source: Path, output_dir: Path) -> tuple[Path, Path]:
    if source.suffix != ".ipynb" or not source.is_file():
        raise ConfigError(
            [f"{source} is not a notebook; give the path of an existing .ipynb file."]
        )
    target = output_dir / source.name
    if target.resolve() == source.resolve():
        raise ConfigError(
            [f"output_dir is {output_dir}; it must not be the notebook's own folder."]
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    return source, target


def _demand_packages() -> None:
    try:
        import ipykernel  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import nbconvert  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import papermill  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise EnvironmentProblem(
            f"Running a notebook needs {error.name}, which is not installed. "
            "Install it with: pip install 'nbutils[notebook]'"
        ) from error


def _cells(source: Path) -> list[Any]:
    import nbformat

    try:
        notebook = nbformat.read(source, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise ConfigError(
            [f"{source} cannot be read as a notebook: {error}"]
        ) from error
    return notebook["cells"]


def _quiet_threads() -> dict[str, str]:
    """Let waiting threads sleep, unless the user has decided otherwise.

    Threads that spin at a barrier while a neighbour has their core made CPU training
    twelve times slower; asleep they cost a little on an idle machine (docs/LOG.md).
    """
    return {} if "OMP_WAIT_POLICY" in os.environ else {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def _environment(changes: Mapping[str, str]) -> Generator[None]:
    """Set variables for the kernel that is started inside; restore them after."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _execute(source: Path, target: Path, given: Parameters) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from nbutils.launch import engine

    terminal, course = Terminal(sys.stdout), engine.Course()
    engine.register(terminal, course)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=given.injected,
            engine_name=engine.NAME,
            kernel_name=_KERNEL,
            language="python",
            progress_bar=False,
            stdout_file=terminal,
            stderr_file=sys.stderr,
            coalesce_streams=True,
            store_widget_state=False,
            extra_arguments=list(_KERNEL_ARGUMENTS),
        )
    except PapermillExecutionError as error:
        if course.stopped_by is not None:
            raise _interrupted(source, target, course) from error
        sys.stderr.write("\n".join(_ANSI.sub("", line) for line in error.traceback))
        sys.stderr.write("\n")
        first = engine.describe_cell({"cell_type": "code", "source": error.source})
        raise NotebookRunError(
            f"{source.name}: the cell [{error.exec_count}] {first!r} raised "
            f"{error.ename}: {_ANSI.sub('', error.evalue)}\n"
            f"Its traceback and all cells before it are in {target}."
        ) from error
    except DeadKernelError as error:
        if course.stopped_by is not None:
            raise _interrupted(source, target, course) from error
        raise NotebookRunError(
            f"{source.name}: the kernel died in {course.place}, most often for want "
            f"of memory. The cells before are in {target}; try a smaller batch_size."
        ) from error
    if course.stopped_by is not None:
        raise _interrupted(source, target, course)


def _interrupted(source: Path, target: Path, course: Any) -> NotebookInterrupted:
    return NotebookInterrupted(
        f"{source.name}: {course.stopped_by.name} stopped it in {course.place}. What "
        f"ran is in {target}. Start it again to go on: a run that was saved continues "
        "where it stopped."
    )


def _warn(notebook: Path) -> None:
    """Tell what the written notebook holds and should not; errors are told anyway."""
    for problem in executed_problems(notebook):
        if " ended with " not in problem:
            sys.stderr.write(f"warning: {notebook.name}: {problem}.\n")


def _write_page(notebook: Path) -> None:
    """The executed notebook as one HTML page beside it."""
    import nbformat
    from nbconvert.exporters.html import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # the state of views, not a result
    page, _ = HTMLExporter().from_notebook_node(content)
    notebook.with_suffix(".html").write_text(page, encoding="utf-8")
