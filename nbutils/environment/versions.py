"""Versions of the stack, stale kernels, and torch beside torchvision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from nbutils.environment.advice import Advice

__all__ = [
    "MIN_TORCH",
    "STACK",
    "explain_import_error",
    "pairing_advice",
    "stack_versions",
    "stale_advice",
    "torch_requirement",
    "torchvision_fix",
    "unsupported",
    "version_numbers",
]

# Import name -> distribution name.
STACK: dict[str, str] = {
    "torch": "torch",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
    "torchmetrics": "torchmetrics",
    "safetensors": "safetensors",
    "torchvision": "torchvision",
    "timm": "timm",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "wandb": "wandb",
    "bitsandbytes": "bitsandbytes",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "ml_dtypes": "ml_dtypes",
    "ipywidgets": "ipywidgets",
    "ipykernel": "ipykernel",
    "IPython": "ipython",
}
MIN_TORCH = (2, 6)
NMS_MISSING = "operator torchvision::nms does not exist"
RESTART = "Restart the kernel, then Run All again."

# Up to 0.29.0 a torchvision is built for exactly one torch: 0.(15 + n).p for 2.n.p.
# From 0.29.1 on it uses the stable interface and takes any torch from 2.14.
PAIR_OFFSET = 15
PAIRED_MINORS = range(6, 14)
STABLE_MINORS = (14, 15)
STABLE_TORCHVISION = "0.29.2"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def stack_versions() -> dict[str, str]:
    """Installed version of each distribution of the stack; absent ones are left out."""
    found = ((name, _installed(name)) for name in STACK.values())
    return {name: version for name, version in found if version}


def stale_advice(
    modules: Mapping[str, Any], versions: Mapping[str, str]
) -> list[Advice]:
    """Packages that were upgraded on disk after this kernel imported them.

    Args:
        modules: Loaded modules by name, as in ``sys.modules``.
        versions: Installed versions by distribution name.
    """
    return [
        Advice(
            "fail",
            f"{name} {imported} is loaded, but {installed} is installed.",
            "A half-upgraded package fails in ways that look like something else.",
            RESTART,
        )
        for name, imported, installed in _stale(modules, versions)
    ]


def pairing_advice(
    torch_version: str | None, torchvision_version: str | None, requires: str
) -> Advice | None:
    """Advice when torch and torchvision were not built for each other.

    Args:
        torch_version: Installed torch, such as ``2.15.0`` or ``2.8.0+cpu``.
        torchvision_version: Installed torchvision; none when absent.
        requires: What torchvision's own metadata asks of torch, such as ``==2.13.0``.
    """
    if torch_version is None or torchvision_version is None:
        return None
    if _accepts(requires, torch_version) and _same_build(
        torch_version, torchvision_version
    ):
        return None
    needs = f" (it needs torch {requires})" if requires else ""
    return Advice(
        "fail",
        f"torchvision {torchvision_version}{needs} does not match "
        f"torch {torch_version}.",
        f"Importing torchvision or timm fails with {NMS_MISSING!r}.",
        torchvision_fix(torch_version),
    )


def explain_import_error(error: BaseException) -> Advice | None:
    """What to do about a failed ``import timm`` or ``import torchvision``.

    Knows one error, a torchvision that was built for another torch; anything else
    is ``None``, and the error should go on.
    """
    if not any(NMS_MISSING in str(link) for link in _chain(error)):
        return None
    torch_version = _installed("torch")
    return Advice(
        "fail",
        f"torchvision {_installed('torchvision')} was not built for "
        f"torch {torch_version}: {NMS_MISSING}.",
        "torchvision's compiled operators load only beside their own torch.",
        torchvision_fix(torch_version or ""),
    )


def torchvision_fix(torch_version: str) -> str:
    """The pip line that installs the torchvision for a torch.

    Example:
        >>> torchvision_fix("2.7.1+cu126")
        'pip install torchvision==0.22.1  # then restart the kernel'
    """
    public, _, local = torch_version.partition("+")
    major, minor, patch = (*version_numbers(public), 0, 0, 0)[:3]
    if major == 2 and minor in PAIRED_MINORS:
        match = f"0.{minor + PAIR_OFFSET}.{patch}"
    elif major == 2 and minor in STABLE_MINORS:
        match = STABLE_TORCHVISION
    else:
        return "pip install --upgrade torch torchvision  # then restart the kernel"
    index = f" --index-url {CPU_INDEX}" if local == "cpu" else ""
    return f"pip install torchvision=={match}{index}  # then restart the kernel"


def torch_requirement() -> str:
    """What the installed torchvision asks of torch, such as ``>=2.14.0``."""
    try:
        lines = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return ""
    found = (re.fullmatch(r"torch\s*\(?([<>=!~].*?)\)?\s*(;.*)?", x) for x in lines)
    return next((match.group(1) for match in found if match), "")


def unsupported(
    versions: Mapping[str, str], requirements: Iterable[str]
) -> list[tuple[str, str, str]]:
    """Name, version and range of what is installed outside of what is asked for.

    Args:
        versions: Installed versions by distribution name.
        requirements: Lines of a distribution's metadata, such as ``timm>=1.0; extra
            == "vision"``; what is not installed is nobody's fault.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for line in requirements:
        match = re.match(r"([\w.-]+)(?:\[.*?\])?\s*\(?([<>=!~].*?)\)?\s*(?:;|$)", line)
        installed = versions.get(match[1]) if match else None
        if match is None or installed is None or _fits(match[2], installed):
            continue
        found[match[1]] = (match[1], installed, match[2])
    return list(found.values())


def _fits(specifier: str, version: str) -> bool:
    """Whether a version is within lower and upper bounds such as ``>=7.7,<9``."""
    have = version_numbers(_public(version))
    for operator, bound in re.findall(r"(>=|<=|<|>)\s*([\w.+]+)", specifier):
        want = version_numbers(bound)
        size = max(len(have), len(want))
        pair = tuple(v + (0,) * (size - len(v)) for v in (have, want))
        if (operator == ">=" and pair[0] < pair[1]) or (
            operator == "<" and pair[0] >= pair[1]
        ):
            return False
    return True


def _stale(
    modules: Mapping[str, Any], versions: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Name, imported version and installed version, where the two differ."""
    for import_name, name in (*STACK.items(), ("nbutils", "nbutils")):
        imported = getattr(modules.get(import_name), "__version__", None)
        installed = versions.get(name)
        if imported is None or installed is None:
            continue
        if _public(str(imported)) != _public(installed):
            yield name, str(imported), installed


def _accepts(requires: str, torch_version: str) -> bool:
    """Whether a requirement on torch holds, judged by major and minor version."""
    have = version_numbers(_public(torch_version))[:2]
    for operator, version in re.findall(r"([<>=!~]=?)\s*([\w.+]+)", requires):
        want = version_numbers(version)[:2]
        if operator in {"==", "~="} and have != want:
            return False
        if operator in {">=", ">"} and have < want:
            return False
    return True


def _same_build(torch_version: str, torchvision_version: str) -> bool:
    """Whether both are CPU builds or both CUDA builds, as far as they say so."""
    builds = [v.partition("+")[2] for v in (torch_version, torchvision_version)]
    return not all(builds) or (builds[0] == "cpu") == (builds[1] == "cpu")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _installed(name: str) -> str | None:
    """Installed version of a distribution; none when absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """A version without its build label."""
    return version.partition("+")[0]


def version_numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version.

    Example:
        >>> version_numbers("2.15.0rc1")
        (2, 15, 0)
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
