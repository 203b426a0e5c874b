"""What family a model belongs to, told by its structure before its name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nbutils.recipes.attention import Attention, watch_images, watch_tokens

__all__ = ["detect_model_type"]

ModelType = Literal["gpt", "bert", "t5", "vision", "graph", "custom"]

_NAMES: tuple[tuple[ModelType, tuple[str, ...]], ...] = (
    ("t5", ("t5", "encoderdecoder", "bart", "seq2seq")),  # before gpt: "decoder"
    ("gpt", ("gpt", "llama", "causal", "decoder")),
    ("bert", ("bert", "encoder")),
)
_CONVOLUTIONS = (
    *(nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.LazyConv2d, nn.LazyConv3d),
)
_GRAPH_PACKAGES = ("torch_geometric.nn", "dgl.nn")
_GRAPH_ARGUMENTS = ("edge_index", "edge_attr", "adj", "adj_t", "adjacency")
_WRAPPERS = ("module", "_orig_mod")


def detect_model_type(model: nn.Module) -> ModelType:
    """``gpt``, ``bert``, ``t5``, ``vision``, ``graph`` or ``custom``.

    A model with message passing is a graph network; one with 2-D or 3-D convolutions,
    or with attention over an image, sees images; one that embeds tokens is told by
    what its attention looks at: back alone (``gpt``), both ways (``bert``), or from
    one sequence at another (``t5``). For that, a copy reads a few token ids. Where it
    does not run, masks kept as buffers and parts of torch tell, and names come last. A
    mixture, such as images with text, and anything without attention is ``custom``.

    The model and the random generators stay as they are.

    Example:
        >>> detect_model_type(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
        'vision'
        >>> detect_model_type(nn.Linear(2, 2))
        'custom'
    """
    model = _unwrapped(model)
    modules = list(model.modules())
    has_images = any(_is_a(module, _CONVOLUTIONS) for module in modules)
    has_tokens = any(_is_a(m, (nn.Embedding, nn.EmbeddingBag)) for m in modules)
    if any(_is_message_passing(module) for module in modules):
        return "custom" if has_images else "graph"
    if has_images and not has_tokens:
        return "vision"
    if has_images:  # positions may be embedded, or labels, or it reads text as well
        return "vision" if watch_images(model) is not None else "custom"
    if has_tokens:
        return _by_attention(model, modules)
    if any(name in _GRAPH_ARGUMENTS for name in _arguments(model)):
        return "graph"
    if not any(p.ndim == 3 and p.shape[0] == 1 for p in _shaped(model)):
        return "custom"  # nothing that could be positions of patches
    seen = watch_images(model)
    return "vision" if seen is not None and seen.is_causal else "custom"


def _by_attention(model: nn.Module, modules: Sequence[nn.Module]) -> ModelType:
    """The family of a model that embeds tokens."""
    seen = watch_tokens(model)
    if seen is not None and (family := _family(seen)):
        return family
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    if seen is not None and is_recurrent:
        return "custom"
    return _by_parts(modules) or _by_name(modules)


def _family(seen: Attention) -> ModelType | None:
    masks = set(seen.is_causal)
    if seen.is_cross or len(masks) > 1:
        return "t5"  # some look both ways, others back: an encoder and a decoder
    if not masks:
        return None
    return "gpt" if masks == {True} else "bert"


def _by_parts(modules: Sequence[nn.Module]) -> ModelType | None:
    """What is told by masks kept as buffers and by parts of torch."""
    if any(isinstance(m, (nn.Transformer, nn.TransformerDecoder)) for m in modules):
        return "t5"
    if any(_is_causal_mask(b) for m in modules for b in m.buffers(recurse=False)):
        return "gpt"
    return None


def _is_causal_mask(buffer: torch.Tensor) -> bool:
    """A square that is the same below its diagonal, and another value above it."""
    if buffer.ndim < 2 or buffer.is_meta or not 2 < buffer.shape[-1] <= 1 << 14:
        return False
    if buffer.shape[-1] != buffer.shape[-2] or buffer.numel() != buffer.shape[-1] ** 2:
        return False
    corner = buffer.detach().reshape(buffer.shape[-2:])[:64, :64].cpu().float()
    ahead = torch.ones_like(corner, dtype=torch.bool).triu(1)
    before, after = corner[~ahead], corner[ahead]
    is_plain = bool((before == before[0]).all() and (after == after[0]).all())
    return is_plain and bool(before[0] != after[0])


def _by_name(modules: Sequence[nn.Module]) -> ModelType:
    """The last resort: names of classes."""
    for family, words in _NAMES:
        for module in modules:
            name = getattr(module, "original_name", type(module).__name__).lower()
            if any(word in name for word in words):
                return family
    return "custom"


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers: of compilation, of data parallelism."""
    while True:
        inner = dict(model.named_children())
        name = next(iter(inner), "")
        if len(inner) != 1 or name not in _WRAPPERS:
            return model
        model = inner[name]


def _is_a(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """An instance, or a scripted one that was."""
    original = getattr(module, "original_name", None)
    return isinstance(module, kinds) or original in {kind.__name__ for kind in kinds}


def _is_message_passing(module: nn.Module) -> bool:
    is_ours = any(base.__name__ == "MessagePassing" for base in type(module).__mro__)
    return is_ours or type(module).__module__.startswith(_GRAPH_PACKAGES)


def _shaped(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if not is_lazy(p)]


def _arguments(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # compiled code without a signature
        return []
