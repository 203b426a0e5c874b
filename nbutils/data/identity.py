"""What a task is made of, as one hash for each part, so that runs can be compared."""

from __future__ import annotations

from typing import Any

from nbutils.data.fingerprint import (
    describe_code,
    describe_data,
    describe_model,
    hash_parts,
)

__all__ = ["task_parts"]


def task_parts(task: Any) -> dict[str, Any]:
    """Hashes of the model's form, of the code and of each split.

    A split's hash is over its type, its length and its first sample. The names are
    those of a preflight verdict. Draws no randomness.
    """
    code = {
        "loss": task.loss,
        "forward": task.forward_function,
        "collate": task.collate,
    }
    return {
        "model": hash_parts(describe_model(task.model)),
        "code": {
            name: hash_parts(describe_code(name, it)) for name, it in code.items()
        },
        "data": {
            split: hash_parts(describe_data(split, getattr(task, f"{split}_data")))
            for split in ("train", "val", "test")
        },
    }
