"""Part of R12: a new process opens the checkpoint, without this package."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbutils.checkpoint.files import read_checkpoint
from nbutils.preflight.check import Claims

__all__ = ["judge_fresh"]

LIMIT_S = 60.0
"""For a Python that imports torch; 0: none is started."""

FILES = ("model.safetensors", "state.pt")
MAX_BYTES = 2 * 2**30

SCRIPT = """
import hashlib, json, sys
import torch
from safetensors.torch import load_file

def sha(t):
    flat = t.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()

def count(value):
    if isinstance(value, torch.Tensor):
        return 1
    items = value.values() if isinstance(value, dict) else value
    return sum(map(count, items)) if isinstance(value, (dict, list, tuple)) else 0

weights = load_file(sys.argv[1])
state = torch.load(sys.argv[2], map_location="cpu", weights_only=True)
told = {n: [list(t.shape), str(t.dtype), sha(t)] for n, t in weights.items()}
print("TOLD" + json.dumps({"weights": told, "state": count(state)}))
"""


def judge_fresh(folder: Path, claims: Claims) -> None:
    """Weights and state of a checkpoint, read by torch and safetensors alone."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    if LIMIT_S == 0 or size > MAX_BYTES:
        return
    files = [str(folder / name) for name in FILES]
    command = [sys.executable, "-c", SCRIPT, *files]
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 (our own script, our own Python)
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        claims.add("skip", f"a fresh process could not be tried: {error}")
        return
    lines = [x for x in done.stdout.splitlines() if x.startswith("TOLD")]
    if done.returncode or not lines:
        _note_failure(done.stderr, claims)
        return
    _judge_told(json.loads(lines[-1].removeprefix("TOLD")), folder, claims)


def _judge_told(told: dict[str, Any], folder: Path, claims: Claims) -> None:
    here = read_checkpoint(folder).weights
    other = {
        name: form[:2]
        for name, form in told["weights"].items()
        if form != [list(here[name].shape), str(here[name].dtype), _sha(here[name])]
    }
    if other:
        claims.add(
            "fail",
            "a fresh process reads other weights than this one",
            expected="the same bytes",
            actual=", ".join(f"{n}: {form}" for n, form in list(other.items())[:4]),
            fix="Report this: the file changes between two readers.",
        )
        return
    claims.add(
        "pass",
        "a fresh process opens the checkpoint under weights_only=True",
        actual=f"{len(told['weights'])} tensors of weights, {told['state']} of state, "
        "by torch and safetensors alone",
    )


def _sha(tensor: Tensor) -> str:
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def _note_failure(errors: str, claims: Claims) -> None:
    """Only what torch says of the file is held against it, not a Python that fails."""
    last = ([line for line in errors.splitlines() if line.strip()] or ["no message"])[
        -1
    ]
    is_file = (
        "Unpickling" in errors or "weights_only" in errors or "Safetensor" in errors
    )
    if not is_file:
        claims.add("skip", f"a fresh process could not be tried: {last:.200}")
        return
    claims.add(
        "fail",
        "a fresh process cannot open the checkpoint",
        expected="weights and state, under weights_only=True",
        actual=last,
        fix="Keep plain tensors, numbers, strings, lists and dicts in the state of "
        "model, optimizer and scheduler.",
    )
