"""Refused windows: their batches on disk, readable without trusting them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors

__all__ = ["MAX_SAVED_BATCHES", "RefusedBatches"]

MAX_SAVED_BATCHES = 10
_CANNOT_PICKLE = (pickle.PicklingError, AttributeError, TypeError, RuntimeError)


class RefusedBatches:
    """Keeps the batches of refused windows; at most ten a run, resumes included.

    Args:
        folder: Where the files go; made when the first one comes.
        tell: Told, in a sentence, what is not kept as it was.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._has_told = False

    def save(self, step: int, window: Sequence[Any]) -> tuple[Path | None, str | None]:
        """Write the window's batches.

        Returns:
            The file and the Python that reads it; none where nothing was written.
        """
        path = self._folder / f"step-{step:08d}.pt"
        if not path.exists() and self._is_full():
            return None, None
        content = [_compact(batch) for batch in window]
        try:
            path.parent.mkdir(exist_ok=True)
            try:
                torch.save(content, path)
            except _CANNOT_PICKLE as error:
                found = [dict(tensors(batch)) for batch in content]
                torch.save(found, path)
                self._tell_once(
                    f"the refused batch of step {step} cannot be pickled ({error}); "
                    f"its tensors alone, by their paths, are in {path}."
                )
        except OSError as error:
            if path.exists():
                path.unlink()  # half of a batch is none
            self._tell_once(f"the refused batch of step {step} is not saved: {error}")
            return None, None
        return path, _how_to_load(path)

    def _is_full(self) -> bool:
        if len(list(self._folder.glob("step-*.pt"))) < MAX_SAVED_BATCHES:
            return False
        self._tell_once(
            f"{self._folder} holds {MAX_SAVED_BATCHES} refused batches; later ones are "
            "named in events.jsonl, by their indices, and not saved."
        )
        return True

    def _tell_once(self, text: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._tell(text)


def _how_to_load(path: Path) -> str:
    """Safe loading where the content allows it; else what it takes, and why."""
    try:
        torch.load(path, weights_only=True)
    except pickle.UnpicklingError:
        return (
            "torch.load(path, weights_only=False), which runs code: it holds objects "
            "other than tensors"
        )
    return "torch.load(path, weights_only=True)"


def _compact(value: Any) -> Any:
    """The same, without what a view's storage holds beside it."""
    if type(value) is Tensor:
        size = value.numel() * value.element_size()
        is_view = value.layout == torch.strided and value.untyped_storage().nbytes()
        return value.clone() if is_view and is_view > size else value
    if type(value) in (list, tuple):
        return type(value)(_compact(item) for item in value)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _compact(item) for key, item in value.items()}
    return value
