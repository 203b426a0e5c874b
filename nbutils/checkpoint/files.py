"""One checkpoint on disk: three files, the manifest last, verified by hash."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from nbutils.checkpoint.hashed import HashedFile, Stated, copy_file, sha256_of, sync
from nbutils.checkpoint.plain import why_refused
from nbutils.checkpoint.snapshot import Snapshot
from nbutils.checkpoint.tensorfile import is_storable, write_tensors
from nbutils.errors import CheckpointError

__all__ = [
    "MANIFEST",
    "Loaded",
    "copy_checkpoint",
    "prove_readable",
    "read_checkpoint",
    "read_manifest",
    "verify",
    "write_files",
]

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
STATE_KEYS = {"parts", "rng", "model_extra"}
FORMAT = 2
UNREADABLE = (SafetensorError, RuntimeError, OSError, ValueError, EOFError, LookupError)

Check = Callable[[], None]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read back."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


def write_files(snapshot: Snapshot, folder: Path, check: Check | None = None) -> None:
    """Write a snapshot into ``folder``, synced, the manifest last.

    Args:
        check: Called before each block; what it raises ends the writing.
    """
    weights = snapshot.weights
    plain = {name: value for name, value in weights.items() if is_storable(value)}
    other = {name: weights[name] for name in weights.keys() - plain.keys()}
    with HashedFile(folder / WEIGHTS, check) as file:
        write_tensors(plain, file)
        files = {WEIGHTS: file.finish()}
    with HashedFile(folder / STATE, check) as file:
        try:
            torch.save({**snapshot.state, "other_weights": other}, cast(Any, file))
        except RuntimeError:  # torch says only that a position is not as expected
            if file.error is not None:
                raise file.error from None
            raise
        files[STATE] = file.finish()
    manifest = {
        "format": FORMAT,
        "step": snapshot.step,
        "written_s": time.time(),
        "torch": str(torch.__version__),
        "aliases": snapshot.aliases,
        "files": files,
    }
    manifest["sha256"] = _own_hash(manifest)
    with HashedFile(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode("utf-8"))
        file.finish()
    sync(folder)


def copy_checkpoint(source: Path, target: Path, check: Check | None = None) -> None:
    """Copy a checkpoint into the empty folder ``target``, the manifest last.

    Raises:
        CheckpointError: What was read is not what the manifest states.
    """
    manifest = read_manifest(source)
    for name, stated in manifest["files"].items():
        if copy_file(source / name, target / name, check) != stated:
            raise CheckpointError(f"{source / name} is damaged: its hash differs.")
    copy_file(source / MANIFEST, target / MANIFEST)
    sync(target)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: There is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: it is unfinished."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no checkpoint of format {FORMAT}.")
    if manifest.pop("sha256", None) != _own_hash(manifest):
        raise CheckpointError(f"{path} is damaged: its hash differs.")
    if set(manifest["files"]) != {WEIGHTS, STATE}:
        raise CheckpointError(f"{path} is foreign: it lists {list(manifest['files'])}.")
    return manifest


def verify(folder: Path, *, reads: bool = True) -> dict[str, Any]:
    """The manifest, once every file has the size and the hash it states.

    Args:
        reads: Read the files; otherwise only their sizes are compared.

    Raises:
        CheckpointError: A file is missing, truncated or altered.
    """
    manifest = read_manifest(folder)
    for name, stated in manifest["files"].items():
        _verify_file(folder / name, stated, reads=reads)
    return manifest


def prove_readable(folder: Path) -> None:
    """Verify, and open the files as a resume would, without loading the tensors.

    Raises:
        CheckpointError: It is damaged, or holds what is not loaded safely.
    """
    verify(folder)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        file.keys()
    _load_state(folder, is_mapped=True)


def read_checkpoint(folder: Path) -> Loaded:
    """Verify and read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: It is damaged or cannot be read.
    """
    manifest = verify(folder)
    state = _load_state(folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except UNREADABLE as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    weights.update(state.pop("other_weights", {}))
    for alias, name in manifest["aliases"].items():
        weights[alias] = weights[name]
    return Loaded(folder, manifest["step"], weights, state)


def _verify_file(path: Path, stated: Stated, *, reads: bool) -> None:
    if not path.is_file():
        what = "is no file" if path.exists() else "is missing"
        raise CheckpointError(f"{path} {what}.")
    size = path.stat().st_size
    if size != stated["bytes"]:
        raise CheckpointError(
            f"{path} is truncated: {size} bytes, expected {stated['bytes']}."
        )
    if not reads:
        return
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if found != stated["sha256"]:
        raise CheckpointError(f"{path} is damaged: its hash differs.")


def _load_state(folder: Path, *, is_mapped: bool = False) -> dict[str, Any]:
    path = folder / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds {why_refused(error)}; nothing but plain values is loaded."
        ) from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    missing = STATE_KEYS - (state.keys() if isinstance(state, dict) else set())
    if missing:
        raise CheckpointError(f"{path} holds no state: {sorted(missing)} are missing.")
    return state


def _own_hash(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
