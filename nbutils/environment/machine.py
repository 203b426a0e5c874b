"""Everything the doctor measures, gathered once, so that advice is a pure function."""

from __future__ import annotations

import os
import platform as system
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbutils.environment.advice import Advice
from nbutils.environment.device import (
    Capabilities,
    capabilities,
    cuda_trouble,
    resolve_device,
)
from nbutils.environment.limits import available_memory_bytes, memory_limit_bytes
from nbutils.environment.platform import Platform, current_platform
from nbutils.environment.secrets import SECRETS, secret_source
from nbutils.environment.storage import Storage, inspect_storage
from nbutils.environment.versions import (
    stack_versions,
    stale_advice,
    torch_requirement,
)
from nbutils.errors import EnvironmentProblem

__all__ = ["Machine", "inspect_machine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured.

    Args:
        python: Version of Python.
        system: Name of the operating system.
        platform: Where this runs.
        device: What ``device='auto'`` gives; none without torch.
        device_reason: Why it is that one.
        abilities: What the device offers; none without torch.
        cuda_trouble: Why an NVIDIA GPU that exists cannot be used; empty if it can.
        memory_bytes: Main memory that this process may use.
        available_bytes: Main memory that is free now.
        storage: The working folder, where runs go by default.
        secrets: Where each secret was found; empty when absent.
        secret_problems: Credential files that cannot be read.
        versions: Installed versions by distribution name.
        torch_requirement: What torchvision asks of torch.
        stale: Packages changed on disk since this kernel loaded them.
    """

    python: str
    system: str
    platform: Platform
    device: str | None
    device_reason: str
    abilities: Capabilities | None
    cuda_trouble: str
    memory_bytes: int
    available_bytes: int
    storage: Storage
    secrets: Mapping[str, str]
    secret_problems: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    torch_requirement: str = ""
    stale: tuple[Advice, ...] = ()


def inspect_machine(folder: Path | None = None) -> Machine:
    """Measure this machine; imports torch, writes and removes one small file.

    Args:
        folder: Where runs will be written; the working folder by default.
    """
    platform = current_platform()
    versions = stack_versions()
    secrets, secret_problems = _secrets()
    device, reason, abilities, trouble = _device("torch" in versions)
    return Machine(
        python=system.python_version(),
        system=f"{system.system()} {system.release()} ({system.machine()})",
        platform=platform,
        device=device,
        device_reason=reason,
        abilities=abilities,
        cuda_trouble=trouble,
        memory_bytes=memory_limit_bytes(),
        available_bytes=available_memory_bytes(),
        storage=inspect_storage(Path(folder or os.curdir), platform),
        secrets=secrets,
        secret_problems=secret_problems,
        versions=versions,
        torch_requirement=torch_requirement(),
        stale=tuple(stale_advice(sys.modules, versions)),
    )


def _device(has_torch: bool) -> tuple[str | None, str, Capabilities | None, str]:
    """Device, reason, abilities and trouble; all empty without torch."""
    if not has_torch:
        return None, "torch is not installed", None, ""
    device, reason = resolve_device("auto")
    return str(device), reason, capabilities(device), cuda_trouble()


def _secrets() -> tuple[dict[str, str], tuple[str, ...]]:
    """Where each secret is, and the files that could not be read for it."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for name in SECRETS:
        try:
            found[name] = secret_source(name)
        except EnvironmentProblem as problem:
            found[name] = ""
            problems.append(str(problem))
    return found, tuple(problems)
