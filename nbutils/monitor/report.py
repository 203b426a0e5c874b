"""``report.html``: one file about one run, made from its directory alone.

It needs no network and runs no script: its content policy forbids both, so that a
report about a stranger's run directory is safe to open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.reporting.caveats import caveats_section
from nbutils.monitor.reporting.cost import cost_section
from nbutils.monitor.reporting.course import course_section, troubles_section
from nbutils.monitor.reporting.drawn import curves_section, figures_section
from nbutils.monitor.reporting.ground import Ground, has_run
from nbutils.monitor.reporting.html import Section
from nbutils.monitor.reporting.measured import test_section, weights_section
from nbutils.monitor.reporting.style import POLICY, STYLE
from nbutils.monitor.reporting.subject import (
    checks_section,
    data_section,
    epochs_section,
    machine_section,
    record_section,
    reproduce_section,
    settings_section,
)
from nbutils.monitor.reporting.top import header
from nbutils.monitor.rundir import RunDirectory

__all__ = ["render_report", "write_report"]

_SECTIONS: tuple[Callable[[Ground], Section], ...] = (
    caveats_section,
    test_section,
    weights_section,
    checks_section,
    curves_section,
    figures_section,
    troubles_section,
    course_section,
    cost_section,
    data_section,
    settings_section,
    machine_section,
    reproduce_section,
    epochs_section,
    record_section,
)


def write_report(run_dir: str | Path, *, price_per_hour: float | None = None) -> Path:
    """Write ``report.html`` into the run directory and return its path.

    Any run has a report: one that goes on, was killed or failed, or whose files are
    damaged. What is missing is named in it, not left out silently.

    Args:
        run_dir: The folder of the run.
        price_per_hour: Of the machine, for the cost.

    Raises:
        EnvironmentProblem: There is no such folder, it is no run's, or it cannot be
            written.
    """
    directory = RunDirectory(run_dir)
    if not directory.path.is_dir():
        raise EnvironmentProblem(
            f"There is no folder {directory.path}; expected a run directory. Pass the "
            "folder that the run printed, for example runs/<name>."
        )
    if not has_run(directory.path):
        raise EnvironmentProblem(_no_run(directory.path))
    html = render_report(directory, price_per_hour=price_per_hour)
    return directory.write_text("report.html", html)


def render_report(
    directory: RunDirectory, *, price_per_hour: float | None = None
) -> str:
    """The report as one HTML document."""
    ground = Ground.read(directory.path, price_per_hour)
    sections = [make(ground) for make in _SECTIONS]
    told = [section for section in sections if section.body]
    name = escape(ground.record.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Run {name}</title><style>{STYLE}</style></head><body>\n"
        f"{header(ground, told)}\n<main>\n"
        f"{''.join(section.html() for section in told)}\n"
        f"{''.join(_missing(sections))}</main>\n</body></html>\n"
    )


def _missing(sections: list[Section]) -> Iterator[str]:
    """One line each about the sections that have nothing."""
    found = [section for section in sections if not section.body]
    if found:
        items = "".join(f"<li>{escape(section.missing)}</li>" for section in found)
        yield Section("missing", "Not available", f"<ul>{items}</ul>").html()


def _no_run(path: Path) -> str:
    """What lies there instead, if it is runs."""
    inside = sorted(p.name for p in path.iterdir() if p.is_dir() and has_run(p))
    found = f" Folders of runs in it: {', '.join(inside[:8])}." if inside else ""
    return (
        f"{path} holds nothing of a run: no events.jsonl, run.json or config.yaml. "
        f"Expected a run directory.{found} Pass the folder that the run printed."
    )
