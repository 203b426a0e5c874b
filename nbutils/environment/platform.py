"""Which platform this is, whether somebody is looking, and what survives it.

Detection is a pure function of the environment variables, the loaded modules and the
files that exist; nothing is imported in order to detect it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem

__all__ = [
    "PLATFORMS",
    "RENTED",
    "Platform",
    "current_platform",
    "detect",
    "is_interactive",
]

Environ = Mapping[str, str]
Exists = Callable[[str], bool]

DRIVE = "/content/drive/MyDrive"
SAGEMAKER_METADATA = "/opt/ml/metadata/resource-metadata.json"
SAGEMAKER_INSTANCE = "/home/ec2-user/SageMaker"
SAGEMAKER_JOB_KEYS = ("SM_TRAINING_ENV", "TRAINING_JOB_ARN")
SAGEMAKER_KEYS = (
    "SAGEMAKER_APP_TYPE",
    "SAGEMAKER_INTERNAL_IMAGE_URI",
    *SAGEMAKER_JOB_KEYS,
)

# Persistent and scratch folders; where several are listed, the first that exists.
PLATFORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "kaggle": (("/kaggle/working",), "/tmp"),
    "colab-enterprise": ((), "/content"),
    "colab": ((DRIVE,), "/content"),
    "runpod": (("/workspace", "/runpod-volume"), "/tmp"),
    "lightning": (("/teamspace/studios/this_studio",), "/tmp"),
    "sagemaker": (
        ("/home/sagemaker-user", SAGEMAKER_INSTANCE, "/opt/ml/checkpoints"),
        "/tmp",
    ),
    "paperspace": (("/storage", "/notebooks"), "/tmp"),
    "vscode": ((".",), "."),
    "jupyter": ((".",), "."),
    "local": ((".",), "."),
}
"""Colab Enterprise has neither Drive nor ``userdata``, so it has a name of its own."""

RENTED = frozenset(PLATFORMS) - {"vscode", "jupyter", "local"}
"""Platforms whose machine goes away after the session."""

# How long files of the persistent folder live, where that is not "until deleted".
_LIFETIMES = {
    ("kaggle", ""): "as long as the output of a saved version (Save Version)",
    ("runpod", "pod"): "as long as this pod; terminating it deletes them",
    ("sagemaker", "training job"): "if the job names an S3 path for checkpoints",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Where this process runs.

    Args:
        name: A key of ``PLATFORMS``.
        is_headless: Nobody can click or answer a prompt.
        persistent_dir: A folder that outlives the session; none where there is none.
        scratch_dir: A folder on fast local disk that may vanish.
        reason: What gave the platform away.
        variant: Which of its products, such as ``network volume`` or ``training
            job``; empty where there is one.
        lifetime: How long files in the persistent folder live; empty: until they
            are deleted.
    """

    name: str
    is_headless: bool
    persistent_dir: Path | None
    scratch_dir: Path
    reason: str
    variant: str = ""
    lifetime: str = ""


def detect(environ: Environ, modules: Mapping[str, Any], exists: Exists) -> Platform:
    """The platform that these variables, modules and files describe.

    Args:
        environ: Environment variables; ``NBUTILS_PLATFORM`` overrides the search.
        modules: Loaded modules by name, as in ``sys.modules``.
        exists: Whether a path exists.

    Raises:
        EnvironmentProblem: ``NBUTILS_PLATFORM`` names no known platform.

    Example:
        >>> detect({"RUNPOD_POD_ID": "x"}, {}, {"/workspace"}.__contains__).name
        'runpod'
    """
    name, reason = _name_and_reason(environ, modules, exists)
    variant = _variant(name, environ, exists)
    persistent, scratch = PLATFORMS[name]
    kept = next((Path(p) for p in persistent if p == "." or exists(p)), None)
    return Platform(
        name=name,
        is_headless=not is_interactive(environ, modules),
        persistent_dir=kept,
        scratch_dir=Path(scratch),
        reason=reason,
        variant=variant,
        lifetime=_LIFETIMES.get((name, variant), ""),
    )


def current_platform() -> Platform:
    """The platform of this process."""
    return detect(os.environ, sys.modules, os.path.exists)


def is_interactive(
    environ: Environ | None = None, modules: Mapping[str, Any] | None = None
) -> bool:
    """Whether a front end is attached that can show widgets and take input.

    True only in a kernel that allows stdin; ``NBUTILS_HEADLESS``, ``CI`` and a
    Kaggle batch run say that nobody is there.
    """
    environ = os.environ if environ is None else environ
    modules = sys.modules if modules is None else modules
    if _is_set(environ, "NBUTILS_HEADLESS") or _is_set(environ, "CI"):
        return False
    if environ.get("KAGGLE_KERNEL_RUN_TYPE", "").lower() == "batch":
        return False
    kernel = getattr(_shell(modules), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def _name_and_reason(
    environ: Environ, modules: Mapping[str, Any], exists: Exists
) -> tuple[str, str]:
    """First match wins; Kaggle's image is built on Colab's, so Kaggle goes first."""
    override = environ.get("NBUTILS_PLATFORM", "").strip().lower()
    if override:
        return _known(override), "NBUTILS_PLATFORM is set"
    if name_and_reason := _by_variable(environ):
        return name_and_reason
    if exists("/kaggle/working"):
        return "kaggle", "/kaggle/working exists"
    if "google.colab" in modules or "COLAB_RELEASE_TAG" in environ:
        return "colab", "the google.colab runtime is loaded"
    for path, name in (
        (SAGEMAKER_METADATA, "sagemaker"),
        ("/teamspace/studios", "lightning"),
    ):
        if exists(path):
            return name, f"{path} exists"
    if "__vsc_ipynb_file__" in getattr(_shell(modules), "user_ns", {}):
        return "vscode", "the kernel was started by VS Code"
    if "JPY_SESSION_NAME" in environ or hasattr(_shell(modules), "kernel"):
        return "jupyter", "a Jupyter kernel is running"
    return "local", "no notebook platform was recognised"


def _by_variable(environ: Environ) -> tuple[str, str] | None:
    """Platforms that announce themselves in an environment variable."""
    marks = (
        ("kaggle", ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_USER_SECRETS_TOKEN")),
        ("runpod", ("RUNPOD_POD_ID", "RUNPOD_ENDPOINT_ID")),
        ("lightning", ("LIGHTNING_CLOUD_SPACE_ID", "LIGHTNING_CLOUD_PROJECT_ID")),
        ("sagemaker", SAGEMAKER_KEYS),
        ("paperspace", sorted(k for k in environ if k.startswith("PAPERSPACE_"))),
    )
    found = ((name, key) for name, keys in marks for key in keys if key in environ)
    name, key = next(found, ("", ""))
    if name:
        return name, f"{key} is set"
    if environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE":
        return "colab-enterprise", "VERTEX_PRODUCT is COLAB_ENTERPRISE"
    return None


def _variant(name: str, environ: Environ, exists: Exists) -> str:
    """Which product of a platform this is, as far as storage depends on it."""
    if name == "runpod":
        if "RUNPOD_ENDPOINT_ID" in environ:
            return "serverless"
        return "network volume" if environ.get("RUNPOD_VOLUME_ID") else "pod"
    if name == "sagemaker":
        if any(key in environ for key in SAGEMAKER_JOB_KEYS):
            return "training job"
        is_studio = "SAGEMAKER_APP_TYPE" in environ or not exists(SAGEMAKER_INSTANCE)
        return "studio" if is_studio else "notebook instance"
    return ""


def _known(name: str) -> str:
    """The name, if it is one of ``PLATFORMS``."""
    if name in PLATFORMS:
        return name
    near = get_close_matches(name, PLATFORMS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise EnvironmentProblem(
        f"NBUTILS_PLATFORM is {name!r}; expected one of {', '.join(PLATFORMS)}.{hint} "
        "Set one of these, or unset it to detect the platform."
    )


def _shell(modules: Mapping[str, Any]) -> Any:
    """The running IPython shell; none outside IPython."""
    get_ipython = getattr(modules.get("IPython"), "get_ipython", None)
    return get_ipython() if get_ipython else None


def _is_set(environ: Environ, key: str) -> bool:
    """Whether a flag variable is on: ``0``, ``false`` and empty are off."""
    return environ.get(key, "").strip().lower() not in {"", "0", "false", "no"}
