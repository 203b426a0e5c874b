"""What a model's attention looks at, seen in a forward pass on a few token ids.

The pass runs on a copy, in eval mode, without gradients and without the user's hooks;
random generators, weights and buffers of the model stay as they are. A model that does
not run this way tells nothing this way.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from nbutils.data.rng import preserved_rng

__all__ = ["Attention", "watch_images", "watch_tokens"]

MAX_COPIED_BYTES = 2 << 30
"""A model on an accelerator is copied to the host; larger ones are not probed."""

_SHARED_BYTES = 64 << 20
"""On the host, weights of larger models are shared with the copy."""

_LENGTHS = (11, 13, 7, 9, 5)
_SPREAD = ("DTensor", "FlatParameter")
"""Weights that lie on several devices: a pass would wait for the other processes."""

_MASKED = -1e3
"""Scores below are masked: no model scores so low by itself."""

_IMAGE_SIZES = (224, 32, 28, 64, 96, 256, 384)
_SOFTMAX = ("_softmax", "_safe_softmax")
_TARGETS = ("decoder_input_ids", "decoder_inputs", "tgt", "trg", "target_ids")
_IDS = ("input_ids", "ids", "tokens", "input", "inputs", "x", "idx", "src", "text")
_BY_NAME = ("mask", "token_type", "segment", "position", "pos_ids", "length")


@dataclass
class Attention:
    """Attention that was seen, by the lengths and the masks of its scores.

    Args:
        is_causal: One entry for each square of scores: whether it looks back alone.
        is_cross: One sequence looked at another one of another length.
    """

    is_causal: list[bool] = field(default_factory=list)
    is_cross: bool = False

    def add(self, scores: Tensor, shortest: int, longest: int) -> None:
        """Take in scores of shape ``(..., queries, keys)``."""
        if scores.ndim < 2:
            return
        queries, keys = scores.shape[-2:]
        if min(queries, keys) < 3:
            return  # a pooling query, not a sequence
        if queries != keys:
            self.is_cross = True
        elif shortest <= queries <= longest:
            ahead = torch.ones(queries, keys, dtype=torch.bool).triu(1)
            self.is_causal.append(bool((scores[..., ahead] <= _MASKED).all()))


def watch_tokens(model: nn.Module) -> Attention | None:
    """The attention of a token model; none where it cannot be told this way.

    Two sequences of different lengths are given where the signature takes two.
    """
    trial = _trial(model)
    if trial is None:
        return None
    silent: list[Attention] = []
    for length in _lengths(model):
        for arguments, named in _token_calls(trial, length):
            seen = _run(trial, arguments, named, length, 16)
            if seen is None:
                continue
            seen.is_cross &= len(arguments) + len(named) > 1
            if seen.is_causal or seen.is_cross:
                return seen
            silent.append(seen)
        if silent:  # it runs, batch first or not, and no attention is seen
            return silent[0]
    return None


def watch_images(model: nn.Module) -> Attention | None:
    """What a pass over an image shows; none where no image is taken."""
    trial = _trial(model)
    if trial is None:
        return None
    for size in _IMAGE_SIZES:
        for channels in (3, 1):
            image = torch.zeros(1, channels, size, size)
            seen = _run(trial, [image], {}, 3, size * size)
            if seen is not None:
                return seen
    return None


class _Watch(TorchDispatchMode):
    """Reads the scores of every softmax, whichever way the attention is written."""

    def __init__(self, shortest: int, longest: int) -> None:
        super().__init__()
        self.seen = Attention()
        self._lengths = shortest, longest

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in _SOFTMAX and args[1] in (
            -1,
            args[0].ndim - 1,
        ):
            self.seen.add(args[0], *self._lengths)
        return func(*args, **(kwargs or {}))


def _trial(model: nn.Module) -> nn.Module | None:
    """A copy on the host that may be run; none where that would cost or risk much."""
    parameters = list(model.parameters())
    if any(is_lazy(p) or p.is_meta or type(p).__name__ in _SPREAD for p in parameters):
        return None
    num_bytes = sum(p.numel() * p.element_size() for p in parameters)
    tensors = [*parameters, *model.buffers()]
    on_host = all(tensor.device.type == "cpu" for tensor in tensors)
    if num_bytes > MAX_COPIED_BYTES and not on_host:
        return None
    renormed = any(getattr(m, "max_norm", None) is not None for m in model.modules())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            memo: dict[int, Any] = {}
            if not on_host:  # never a second copy on the accelerator
                memo = {id(tensor): _on_host(tensor) for tensor in tensors}
            elif num_bytes > _SHARED_BYTES and not renormed:
                memo = {id(parameter): parameter for parameter in parameters}
            trial = copy.deepcopy(model, memo).eval()
    except Exception:  # no copy can be made: it cannot be told this way
        return None
    for module in trial.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, hook in hooks.items() if _is_foreign(hook)]:
                del hooks[key]
    return trial


def _on_host(tensor: Tensor) -> Tensor:
    """A copy of a parameter or buffer in the host's memory."""
    copied = tensor.detach().cpu()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=False)
    return copied


def _is_foreign(hook: Any) -> bool:
    """A hook of the user; those of torch, such as weight norm, make the weights."""
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return not str(home).startswith("torch.")


def _run(
    trial: nn.Module,
    arguments: list[Any],
    named: Mapping[str, Any],
    length: int,
    more: int,
) -> Attention | None:
    """What is seen of ``length`` tokens, and up to ``more`` of the model's own."""
    watch = _Watch(length, length + more)
    try:
        with _quiet(), _plain_attention(), watch:
            trial(*arguments, **named)
    except Exception:  # another kind of input: it cannot be told this way
        return None
    return watch.seen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, no prints, no warnings, no draw that anyone notices."""
    with (
        torch.no_grad(),
        preserved_rng(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as matrix products and a softmax, not as one fused operation."""
    was_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fused)


def _lengths(model: nn.Module) -> list[int]:
    """Lengths that no weight has, then those that tables of positions ask for."""
    sizes = {size for p in model.parameters() for size in p.shape}
    free = [length for length in _LENGTHS if length not in sizes][:3]
    tables = [p for p in model.parameters() if p.ndim == 3 and p.shape[0] == 1]
    found = dict.fromkeys(p.shape[1] for p in tables if 3 <= p.shape[1] <= 4096)
    return free + list(found)[:2]


def _token_calls(model: nn.Module, length: int) -> Iterator[tuple[list[Any], Any]]:
    """Ways to call a model with token ids, the likeliest first."""
    parameters = _parameters(model)
    needed = [p for p in parameters if p.default is p.empty]
    for limit in _limits(model):
        source, target = (_ids(limit, n) for n in (length, max(length - 2, 3)))
        named = {p.name for p in parameters}
        filled = {p.name: _filler(p.name, length) for p in needed if _is_known(p.name)}
        bare = [p for p in needed if not _is_known(p.name)]
        for name in _TARGETS:
            if name in named and len(bare) <= 1 and bare[:1] != [name]:
                yield [source], {name: target, **filled}
        if len(bare) == 2:
            yield [], {bare[0].name: source, bare[1].name: target, **filled}
            swapped = {bare[0].name: source.T, bare[1].name: target.T}
            yield [], {**swapped, **filled}
        if len(bare) <= 1:
            for ids in (source, source.T):
                yield ([], {bare[0].name: ids, **filled}) if bare else ([ids], filled)
        if len(bare) == 1:
            batch = dict.fromkeys(_IDS, source)
            yield [{**batch, "attention_mask": torch.ones_like(source)}], {}
        if "input_ids" in named and "labels" in named and not bare:
            yield [], {"input_ids": source, "labels": target}


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code without a signature
        return []
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _limits(model: nn.Module) -> list[int]:
    """Bounds of the ids to try: the largest table of embeddings, then the smallest."""
    rows = sorted(
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    )
    return list(dict.fromkeys([*rows[-1:], *(n for n in rows if n > 2)][:2])) or [8]


def _ids(limit: int, length: int) -> Tensor:
    """Ids from the middle of a vocabulary, where nothing special stands."""
    start = limit // 2 if limit >= 2 * length else min(1, limit - 1)
    span = max(min(limit - start, length), 1)
    return (start + torch.arange(length) % span)[None]


def _is_known(name: str) -> bool:
    return any(part in name.lower() for part in _BY_NAME)


def _filler(name: str, length: int) -> Any:
    """A value for an argument that is no token: no mask, one segment, positions."""
    lowered = name.lower()
    if "attention_mask" in lowered:
        return torch.ones(1, length, dtype=torch.long)
    if "mask" in lowered:
        return None
    if "length" in lowered:
        return torch.tensor([length])
    if "pos" in lowered:
        return torch.arange(length)[None]
    return torch.zeros(1, length, dtype=torch.long)
