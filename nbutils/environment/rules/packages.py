"""Rules on packages: there, in range, fitting each other, and the ones loaded."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine
from nbutils.environment.rules.rule import Rule
from nbutils.environment.versions import (
    MIN_TORCH,
    RESTART,
    pairing_advice,
    torchvision_fix,
    version_numbers,
)

__all__ = ["RULES"]

MAX_NAMED = 3


def torch_rule(machine: Machine) -> Iterator[Advice]:
    """Torch is there, loads, and is not older than supported."""
    least = ".".join(map(str, MIN_TORCH))
    fix = "pip install --upgrade torch torchvision  # then restart the kernel"
    version = machine.versions.get("torch")
    if version is None:
        yield Advice("fail", "torch is not installed.", "Nothing can train.", fix)
    elif version_numbers(version)[:2] < MIN_TORCH:
        yield Advice(
            "fail",
            f"torch is {version}; expected {least} or newer.",
            "Functions that the engine calls are missing.",
            fix,
        )
    elif machine.device is None:
        yield Advice(
            "fail",
            f"torch {version} is installed, but {machine.device_reason}.",
            "Nothing can train.",
            f"pip install --force-reinstall torch=={version}  # then restart",
        )


def pairing_rule(machine: Machine) -> Iterator[Advice]:
    """Torch and torchvision were built for each other."""
    versions = machine.versions
    advice = pairing_advice(
        versions.get("torch"), versions.get("torchvision"), machine.torch_requirement
    )
    if advice is not None:
        yield advice


def trips_rule(machine: Machine) -> Iterator[Advice]:
    """Torch works with numpy, with torchvision and on its device: it was tried."""
    versions = machine.versions
    torch, vision = versions.get("torch", ""), versions.get("torchvision")
    restart = "  # then restart the kernel"
    for name, problem in machine.broken_trips:
        if name == "torchvision":
            paired = pairing_advice(torch, vision, machine.torch_requirement)
            if paired is None:  # else said already
                yield Advice(
                    "fail",
                    f"torchvision {vision} does not run beside torch {torch}: "
                    f"{problem}.",
                    "Importing torchvision or timm, or the first batch, would fail.",
                    torchvision_fix(torch),
                )
        elif name == "numpy":
            yield Advice(
                "fail",
                f"torch {torch} and numpy {versions.get('numpy')} do not work "
                f"together: {problem}.",
                "Batches, metrics and figures pass through both.",
                f"pip install --force-reinstall --no-deps torch=={torch} "
                f"numpy=={versions.get('numpy')}{restart}",
            )
        else:
            yield Advice(
                "fail",
                f"A product on {machine.device} failed: {problem}.",
                "The first batch would fail in the same way.",
                "Restart the kernel. If it stays, this torch was not built for this "
                "GPU: pip install --upgrade torch torchvision, or set device='cpu'.",
            )


def range_rule(machine: Machine) -> Iterator[Advice]:
    """What is installed is in the ranges that nbutils is tested in."""
    for name, version, wanted in machine.unsupported:
        if name == "torch":  # said already
            continue
        yield Advice(
            "warn",
            f"{name} {version} is installed; nbutils is tested with {wanted}.",
            "What uses it may fail late in a run.",
            f'pip install "{name}{wanted}"  # then restart the kernel',
        )


def stale_rule(machine: Machine) -> Iterator[Advice]:
    """The kernel runs what is installed."""
    yield from machine.stale


def edited_rule(machine: Machine) -> Iterator[Advice]:
    """The kernel runs the nbutils that lies on disk."""
    if not machine.edited:
        return
    num_more = len(machine.edited) - MAX_NAMED
    more = f" and {num_more} more" if num_more > 0 else ""
    verb = "was" if len(machine.edited) == 1 else "were"
    yield Advice(
        "warn",
        f"{', '.join(machine.edited[:MAX_NAMED])}{more} {verb} changed on disk since "
        "this kernel loaded nbutils.",
        "The kernel runs the old code, and what it loads later is the new one.",
        RESTART,
    )


def widgets_rule(machine: Machine) -> Iterator[Advice]:
    """A notebook that somebody looks at can show the wizard."""
    if not machine.platform.is_headless and "ipywidgets" not in machine.versions:
        yield Advice(
            "info",
            "ipywidgets is not installed.",
            "The wizard and the live panel show text instead.",
            'pip install "ipywidgets>=7.7,<9"  # then reload the page',
        )


RULES: tuple[Rule, ...] = (
    torch_rule,
    pairing_rule,
    trips_rule,
    range_rule,
    stale_rule,
    edited_rule,
    widgets_rule,
)
