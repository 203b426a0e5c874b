"""What a program of the gallery is, and the lists of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from nbutils.data.task import Task

Kind = Literal["images", "graphs", "sequences", "text", "arrays", "dicts", "tabular"]
Stage = Literal["static", "standard", "rehearsal", "epoch", "engine"]


@dataclass(frozen=True)
class Program:
    """What a user would hand over: a task and settings of the run."""

    task: Task
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One seeded fault.

    Args:
        name: Of the function that builds it.
        kind: Of its data.
        text: The fault in one sentence.
        told: Words; the alarm must hold at least one of them, in any case of letters.
        build: The program with the fault, or its twin without it.
        seeds: Where the fault was recorded first, such as ``"D18"``.
        stage: When it shows: a depth of preflight, the first epoch of training, or
            never, since the engine does not let it happen.
    """

    name: str
    kind: Kind
    text: str
    told: tuple[str, ...]
    build: Callable[[bool], Program]
    seeds: tuple[str, ...] = ()
    stage: Stage = "standard"


@dataclass(frozen=True)
class Healthy:
    """One unusual program that nothing is wrong with.

    Args:
        name: Of the function that builds it.
        kind: Of its data.
        text: What is unusual, in one sentence.
        build: The program.
        may_warn: Check -> why a person would agree with its warning.
    """

    name: str
    kind: Kind
    text: str
    build: Callable[[], Program]
    may_warn: dict[str, str] = field(default_factory=dict)


FAULTS: list[Fault] = []
HEALTHY: list[Healthy] = []


def fault(
    kind: Kind,
    text: str,
    told: tuple[str, ...],
    *,
    seeds: tuple[str, ...] = (),
    stage: Stage = "standard",
) -> Callable[[Callable[[bool], Program]], Callable[[bool], Program]]:
    """Put ``build(is_faulty)`` on the list of faults."""

    def add(build: Callable[[bool], Program]) -> Callable[[bool], Program]:
        FAULTS.append(Fault(build.__name__, kind, text, told, build, seeds, stage))
        return build

    return add


def healthy(
    kind: Kind, text: str, *, may_warn: dict[str, str] | None = None
) -> Callable[[Callable[[], Program]], Callable[[], Program]]:
    """Put ``build()`` on the list of healthy programs."""

    def add(build: Callable[[], Program]) -> Callable[[], Program]:
        HEALTHY.append(Healthy(build.__name__, kind, text, build, may_warn or {}))
        return build

    return add
