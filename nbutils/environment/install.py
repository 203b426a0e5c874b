"""Install what is missing beside what a rented machine brings, and change nothing.

Needs only Python's own library, for it runs before anything else is installed.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from nbutils.environment.platform import RENTED, current_platform
from nbutils.environment.versions import stack_versions, stale_advice
from nbutils.errors import EnvironmentProblem

__all__ = ["complete", "missing_requirements", "pins"]

OWN = "nbutils"
RESTARTS = {
    "colab": "Runtime > Restart session, then Runtime > Run all",
    "colab-enterprise": "Runtime > Restart runtime, then Runtime > Run all",
    "kaggle": "Run > Restart & clear cell outputs, then Run All",
}
RESTART = "Restart the kernel, then Run All again"


def complete(*extras: str) -> None:
    """Install what nbutils and its extras need and this session lacks.

    On Colab, Kaggle, RunPod and the like only; elsewhere, and under ``nbutils run``,
    it does nothing. Every package that is there keeps its version, torch and Jupyter
    above all: pip gets the versions as constraints.

    Args:
        *extras: Such as ``vision`` and ``export``.

    Raises:
        EnvironmentProblem: pip finds no versions that fit beside what is there; or
            packages are loaded in another version than they are installed in.

    Example:
        >>> complete("vision")  # on a machine of one's own: nothing
    """
    platform = current_platform()
    if platform.name not in RENTED or os.environ.get("NBUTILS_HEADLESS"):
        return
    missing = missing_requirements(metadata.requires(OWN) or [], extras)
    if missing:
        _install(missing)
        importlib.invalidate_caches()
        sys.stdout.write(f"installed: {', '.join(missing)}\n")
    _demand_fresh(RESTARTS.get(platform.name, RESTART))


def missing_requirements(lines: Iterable[str], extras: Iterable[str]) -> list[str]:
    """Requirements of the core and of extras whose package is not installed.

    What is installed counts, in whatever version: the platform chose it.

    Args:
        lines: Of a distribution's metadata, such as ``timm>=1.0; extra == "vision"``.
        extras: Names of extras.
    """
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # pip always brings a copy
        from pip._vendor.packaging.requirements import Requirement

    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        if _is_wanted(requirement, ["", *extras]) and not _is_here(requirement.name):
            found[requirement.name] = f"{requirement.name}{requirement.specifier}"
    return list(found.values())


def pins() -> Iterator[str]:
    """Every installed distribution as ``name==version``, for pip's constraints."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and name.lower() not in {OWN, *seen}:
            seen.add(name.lower())  # of several on the path, the first is in use
            yield f"{name}=={version}"


def _is_wanted(requirement: Any, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def _is_here(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _install(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(pins()) + "\n", encoding="utf-8")
        done = _pip("install", "-q", "-c", str(constraints), *requirements)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = (lines or done.stderr.splitlines() or ["it said nothing"])[-1]
        raise EnvironmentProblem(
            f"pip could not install {', '.join(requirements)} beside what is there: "
            f"{said.removeprefix('ERROR: ')}. Expected versions that fit the packages "
            "of this platform, and a connection to the package index. Switch the "
            "internet on, or install them by hand: pip install "
            + " ".join(f"'{requirement}'" for requirement in requirements)
        )


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def _demand_fresh(how: str) -> None:
    """Raise one clear sentence where a restart is needed."""
    stale = stale_advice(sys.modules, stack_versions())
    if stale:
        what = " ".join(advice.what for advice in stale)
        raise EnvironmentProblem(f"{what} {how}: after that this cell does nothing.")
