"""How many tokens a batch holds, where that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["count_tokens", "has_tokens"]

_IDS = ("input_ids", "tokens", "token_ids")
_MASK = "attention_mask"
MAX_TABLES = 3  # of tokens, positions, segments


def has_tokens(model: nn.Module, batch: Any) -> bool:
    """Whether :func:`count_tokens` is meant for such batches.

    A mapping says so by its names. In a tuple the first element must be an integer
    matrix, longer than the model has tables: columns of a data frame have one each.
    """
    if isinstance(batch, Mapping):
        return _ids_of(batch) is not None
    ids = _ids_of(batch)
    if ids is None:
        return False
    tables = sum(
        isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules()
    )
    return 1 <= tables <= MAX_TABLES and ids.shape[1] > tables


def count_tokens(batch: Any) -> int | None:
    """Tokens of a host batch: those that its mask keeps, or all without a mask.

    None if there are no token ids, or if the mask lies on a device, where reading it
    would wait.
    """
    ids = _ids_of(batch)
    if ids is None:
        return None
    mask = _mask_of(batch)
    if mask is None:
        return ids.numel()
    if mask.device.type != "cpu" or mask.shape != ids.shape:
        return None
    return int(torch.count_nonzero(mask))


def _ids_of(batch: Any) -> Tensor | None:
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in _IDS if name in batch), None)
    elif isinstance(batch, (tuple, list)) and batch:
        found = batch[0]
    else:
        found = None
    if not isinstance(found, Tensor) or found.ndim != 2:
        return None
    return found if found.dtype in (torch.int64, torch.int32) else None


def _mask_of(batch: Any) -> Tensor | None:
    if not isinstance(batch, Mapping):
        return None
    found = batch.get(_MASK)
    return found if isinstance(found, Tensor) else None
