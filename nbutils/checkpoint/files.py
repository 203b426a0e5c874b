"""One checkpoint on disk: three files, the manifest last, verified by hash."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nbutils.checkpoint.plain import why_refused
from nbutils.checkpoint.snapshot import Snapshot
from nbutils.errors import CheckpointError

__all__ = ["Loaded", "read_checkpoint", "read_manifest", "verify", "write_files"]

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read back."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


def write_files(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot into ``folder``, fsynced, the manifest last."""
    save_file(snapshot.weights, folder / WEIGHTS)
    torch.save(snapshot.state, folder / STATE)
    files = {}
    for name in (WEIGHTS, STATE):
        _sync(folder / name)
        size = (folder / name).stat().st_size
        files[name] = {"bytes": size, "sha256": _sha256(folder / name)}
    manifest = {
        "format": FORMAT,
        "step": snapshot.step,
        "written_s": time.time(),
        "torch": str(torch.__version__),
        "aliases": snapshot.aliases,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: There is none, or it is not one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: it is unfinished."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no checkpoint of format {FORMAT}.")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, once every file has the size and hash it states.

    Raises:
        CheckpointError: A file is missing, truncated or altered.
    """
    manifest = read_manifest(folder)
    for name, stated in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{path} is missing.")
        size = path.stat().st_size
        if size != stated["bytes"]:
            raise CheckpointError(
                f"{path} is truncated: {size} bytes, expected {stated['bytes']}."
            )
        if _sha256(path) != stated["sha256"]:
            raise CheckpointError(f"{path} is damaged: its hash differs.")
    return manifest


def read_checkpoint(folder: Path) -> Loaded:
    """Verify and read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: It is damaged or cannot be read.
    """
    manifest = verify(folder)
    try:
        weights = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{folder / STATE} holds {why_refused(error)}; nothing but plain values "
            "is loaded."
        ) from error
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    for alias, name in manifest["aliases"].items():
        weights[alias] = weights[name]
    return Loaded(folder, manifest["step"], weights, state)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
