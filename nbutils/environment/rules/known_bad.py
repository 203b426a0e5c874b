"""Versions that are known to fail, each with what happens and where it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nbutils.environment.advice import Advice, Severity
from nbutils.environment.device import eight_bit_trouble
from nbutils.environment.machine import Machine
from nbutils.environment.versions import version_numbers

__all__ = ["KNOWN_BAD", "KnownBad", "known_bad_rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBad:
    """A package's versions from ``low`` up to, not including, ``high``.

    Args:
        package: Distribution name.
        low: First bad version.
        high: First good one after it; empty while there is none.
        beside: Another package, and its first version that brings the trouble out;
            ``<`` before the version: its first version that does not.
        on: Platforms, devices or both, where it happens; empty: everywhere.
        severity: How much of a run it costs.
        why: What happens.
        fix: What to type.
        source: Where it is told.
    """

    package: str
    low: str
    high: str
    beside: tuple[str, str] | None = None
    on: tuple[str, ...] = ()
    severity: Severity
    why: str
    fix: str
    source: str

    def strikes(self, machine: Machine) -> bool:
        """Whether this machine has the version where it fails."""
        version = machine.versions.get(self.package)
        places = {machine.platform.name, machine.device}
        if version is None or (self.on and not places & set(self.on)):
            return False
        numbers = version_numbers(version)
        if numbers < version_numbers(self.low):
            return False
        if self.high and numbers >= version_numbers(self.high):
            return False
        return self.beside is None or self._is_beside(machine, *self.beside)

    def _is_beside(self, machine: Machine, name: str, version: str) -> bool:
        other = machine.versions.get(name)
        if other is None:
            return False
        bound = version_numbers(version.removeprefix("<"))
        is_older = version_numbers(other) < bound
        return is_older if version.startswith("<") else not is_older


KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        package="pandas",
        low="0",
        high="2.2.2",
        beside=("numpy", "2"),
        severity="fail",
        why="Built for numpy 1, its import ends in 'numpy.dtype size changed'.",
        fix='pip install "pandas>=2.2.2"  # then restart the kernel',
        source="pandas 2.2.2, release notes",
    ),
    KnownBad(
        package="scikit-learn",
        low="0",
        high="1.4.2",
        beside=("numpy", "2"),
        severity="warn",
        why="Built for numpy 1, its import ends in 'numpy.dtype size changed'.",
        fix='pip install "scikit-learn>=1.5"  # then restart the kernel',
        source="scikit-learn 1.4.2, release notes",
    ),
    KnownBad(
        package="torch",
        low="2.9.0",
        high="2.10.0",
        on=("cuda",),
        severity="info",
        why="conv3d in half precision takes several times the memory; other layers do "
        "not.",
        fix="pip install --upgrade torch torchvision  # then restart the kernel",
        source="github.com/pytorch/pytorch/issues/166643",
    ),
    KnownBad(
        package="onnx",
        low="1.19.0",
        high="1.19.1",
        beside=("ml_dtypes", "<0.5"),
        severity="warn",
        why="Its import fails, and so would an export: ml_dtypes lacks float4_e2m1fn.",
        fix='pip install "ml_dtypes>=0.5"  # then restart the kernel',
        source="github.com/onnx/onnx/issues/7249",
    ),
    KnownBad(
        package="ipywidgets",
        low="8.0",
        high="",
        on=("colab",),
        severity="warn",
        why="Colab shows widgets of version 7 only: forms would stay empty.",
        fix='pip install "ipywidgets==7.7.1"  # then restart the session',
        source="github.com/googlecolab/colabtools/issues/3020",
    ),
    KnownBad(
        package="ipykernel",
        low="7.0",
        high="",
        on=("vscode",),
        severity="info",
        why="In VS Code, cells may hang as 'pending'; JupyterLab is not affected.",
        fix='pip install "ipykernel<7"  # if it happens; then reload the window',
        source="github.com/microsoft/vscode-jupyter/issues/17228",
    ),
)


def known_bad_rule(machine: Machine) -> Iterator[Advice]:
    """No version is installed that is known to fail here."""
    for bad in KNOWN_BAD:
        if bad.strikes(machine):
            version = machine.versions[bad.package]
            yield Advice(
                bad.severity,
                f"{bad.package} {version} is known to fail here ({bad.source}).",
                bad.why,
                bad.fix,
            )
    version = machine.versions.get("bitsandbytes")
    trouble = eight_bit_trouble(machine.device or "", version)
    if machine.device == "cpu" and version is not None and trouble:
        yield Advice(
            "info",
            f"8-bit optimizers do not run here: {trouble}.",
            "A run with optimizer='adamw8bit' would stop at its first step.",
            'pip install "bitsandbytes>=0.50"  # then restart the kernel',
        )
