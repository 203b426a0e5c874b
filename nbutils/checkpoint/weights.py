"""Which weights an evaluation or export uses: the last, their average, the best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from nbutils.checkpoint.snapshot import collect, load_weights
from nbutils.checkpoint.store import CheckpointStore
from nbutils.errors import ConfigError

__all__ = ["using_weights"]


@contextmanager
def using_weights(
    which: str,
    model: nn.Module,
    store: CheckpointStore,
    averaged: AbstractContextManager[None] | None,
) -> Iterator[None]:
    """The wanted weights in the model for a block, then those it had.

    Args:
        which: ``"last"``, or ``"best"`` by the monitored metric.
        averaged: Puts the running average into the model; none: this object has not
            trained, so its last weights are those on disk, if there are any.

    Raises:
        ConfigError: Neither of the two.
        CheckpointError: There is no best yet, or it belongs to another model.
    """
    if which not in ("last", "best"):
        raise ConfigError([f"weights is {which!r}; it must be 'last' or 'best'."])
    if which == "last" and averaged is not None:
        with averaged:
            yield
        return
    loaded = store.best() if which == "best" else store.latest()
    if loaded is None:
        yield
        return
    kept = collect(0, model, {})
    shadow = loaded.state["parts"].get("ema", {}).get("shadow", {})
    # the average, where there is one: it is what was judged
    load_weights(model, {**loaded.weights, **shadow}, loaded.state["model_extra"])
    try:
        yield
    finally:
        load_weights(model, kept.full_weights(), kept.state["model_extra"])
