"""What family a model belongs to, told by its structure before its name."""

from __future__ import annotations

from typing import Literal

from torch import nn

__all__ = ["detect_model_type"]

ModelType = Literal["gpt", "bert", "t5", "vision", "graph", "custom"]
NAMES: tuple[tuple[ModelType, tuple[str, ...]], ...] = (
    ("t5", ("t5", "encoderdecoder", "bart", "seq2seq")),  # before gpt: "decoder"
    ("gpt", ("gpt", "llama", "causal", "decoder")),
    ("bert", ("bert", "encoder")),
    ("vision", ("resnet", "vit", "vision", "convnext", "cnn")),
    ("graph", ("graph", "gnn", "gcn", "gat")),
)


def detect_model_type(model: nn.Module) -> ModelType:
    """``gpt``, ``bert``, ``t5``, ``vision``, ``graph`` or ``custom``.

    A model with message passing is a graph network, one with 2-D convolutions and no
    token embedding sees images, one with an encoder and a decoder is a t5. Only a
    model with token embeddings whose attention mask cannot be seen from outside is
    told by the names of its classes.

    Example:
        >>> detect_model_type(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
        'vision'
        >>> detect_model_type(nn.Linear(2, 2))
        'custom'
    """
    modules = list(model.modules())
    if any(_is_message_passing(module) for module in modules):
        return "graph"
    has_tokens = any(isinstance(module, nn.Embedding) for module in modules)
    children = {name.lower() for name, _ in model.named_modules()}
    has_attention = any("attention" in type(m).__name__.lower() for m in modules)
    if has_tokens and _has_both_halves(modules, children):
        return "t5"
    if not has_tokens and any(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in modules):
        return "vision"
    if not has_tokens and not has_attention:
        return "custom"
    return _by_name(modules)


def _is_message_passing(module: nn.Module) -> bool:
    return any(base.__name__ == "MessagePassing" for base in type(module).__mro__)


def _has_both_halves(modules: list[nn.Module], names: set[str]) -> bool:
    if any(isinstance(m, (nn.Transformer, nn.TransformerDecoder)) for m in modules):
        return True
    ends = {name.rsplit(".", 1)[-1] for name in names}
    return "encoder" in ends and "decoder" in ends


def _by_name(modules: list[nn.Module]) -> ModelType:
    for family, words in NAMES:
        for module in modules:
            name = type(module).__name__.lower()
            if any(word in name for word in words):
                return family
    return "custom"
