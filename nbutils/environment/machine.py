"""Everything the doctor measures, gathered once, so that advice is a pure function."""

from __future__ import annotations

import os
import platform as system
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from nbutils.environment.advice import Advice
from nbutils.environment.device import (
    Capabilities,
    attention_kernels,
    capabilities,
    cuda_trouble,
    resolve_device,
)
from nbutils.environment.edits import edited_modules, version_on_disk
from nbutils.environment.gpu import Gpu, driver_version, inspect_gpu
from nbutils.environment.limits import (
    Swap,
    available_memory_bytes,
    host_cores,
    memory_limit_bytes,
    open_file_limit,
    swap,
)
from nbutils.environment.platform import Platform, current_platform
from nbutils.environment.secrets import SECRETS, secret_source
from nbutils.environment.storage import Storage, inspect_storage
from nbutils.environment.trips import round_trips
from nbutils.environment.versions import (
    stack_versions,
    stale_advice,
    torch_requirement,
    unsupported,
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
        edited: Modules of nbutils whose files were changed since.
        unsupported: Name, version and range of packages outside their range.
        broken_trips: Round trips between packages that failed, with their errors.
        torch_cuda: The CUDA that torch was built for; empty if for none.
        driver: Version of the NVIDIA driver; empty where there is none.
        gpu: What the driver tells of the GPU; none without one that torch can use.
        swap: Memory on disk.
        open_files: How many files may be open; none where there is no limit.
        host_cores: Cores of the whole machine.
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
    edited: tuple[str, ...] = ()
    unsupported: tuple[tuple[str, str, str], ...] = ()
    broken_trips: tuple[tuple[str, str], ...] = ()
    torch_cuda: str = ""
    driver: str = ""
    gpu: Gpu | None = None
    swap: Swap = field(default_factory=Swap)
    open_files: int | None = None
    host_cores: int = 0


def inspect_machine(folder: Path | None = None, *, thorough: bool = True) -> Machine:
    """Measure this machine; imports torch, writes files of up to 64 MiB for a moment.

    Args:
        folder: Where runs will be written; the working folder by default.
        thorough: Also measure the disk's speed, which takes a third of a second.
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
        storage=inspect_storage(Path(folder or os.curdir), platform, is_tried=thorough),
        secrets=secrets,
        secret_problems=secret_problems,
        versions=versions,
        torch_requirement=torch_requirement(),
        stale=tuple(stale_advice(sys.modules, _with_own(versions))),
        edited=_edited(),
        unsupported=tuple(unsupported(versions, _requirements())),
        broken_trips=round_trips(device) if device else (),
        torch_cuda=_torch_cuda() if device else "",
        driver=driver_version(),
        gpu=inspect_gpu() if device == "cuda" else None,
        swap=swap(),
        open_files=open_file_limit(),
        host_cores=host_cores(),
    )


def _device(has_torch: bool) -> tuple[str | None, str, Capabilities | None, str]:
    """Device, reason, abilities and trouble; only the reason without torch."""
    if not has_torch:
        return None, "torch is not installed", None, ""
    if trouble := _import_trouble():
        return None, trouble, None, ""
    device, reason = resolve_device("auto")
    abilities = replace(capabilities(device), attention=attention_kernels(device))
    return str(device), reason, abilities, cuda_trouble()


def _import_trouble() -> str:
    """Why torch cannot be imported; empty when it can."""
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except Exception as error:  # a library that is missing, or the wrong one
        line = str(error).strip().splitlines()[0]
        return f"importing torch fails: {type(error).__name__}: {line}"
    return ""


def _torch_cuda() -> str:
    import torch

    return torch.version.cuda or ""


def _with_own(versions: Mapping[str, str]) -> dict[str, str]:
    """The versions, and nbutils as its files say now."""
    own = version_on_disk()
    return {**versions, **({} if own is None else {"nbutils": own})}


def _edited() -> tuple[str, ...]:
    """Changed modules of nbutils, in a kernel: what else runs is over soon."""
    return tuple(edited_modules(sys.modules)) if "ipykernel" in sys.modules else ()


def _requirements() -> list[str]:
    """What nbutils asks of other packages; nothing where it was not installed."""
    try:
        return metadata.requires("nbutils") or []
    except metadata.PackageNotFoundError:  # run from a folder of its source
        return []


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
