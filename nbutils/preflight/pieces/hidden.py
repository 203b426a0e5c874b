"""S5: weights that the model uses and does not own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils.preflight.lints.syntax import MISSING, dotted, has_word, last, walk
from nbutils.preflight.pieces.find import own_classes
from nbutils.preflight.pieces.piece import Note, Piece

__all__ = ["hidden_weights"]

HELPERS = {"teacher", "target", "ema", "momentum", "discriminator", "disc", "critic"}
HELPERS |= {"reference", "ref", "reward", "judge", "perceptual", "vgg", "lpips", "clip"}
HELPERS |= {
    "d",
    "netd",
    "adversary",
    "proxy",
    "average",
    "averaged",
    "frozen",
    "oracle",
    "shadow",
    "slow",
    "key",
    "old",
}
MAX_DEPTH = 3


def hidden_weights(task: Any, pieces: list[Piece]) -> Iterator[tuple[str, Note]]:
    """Trainable weights in lists, plain attributes and closures, with their place."""
    owned = {id(p) for p in task.model.parameters()}
    if isinstance(task.loss, nn.Module):
        owned |= {id(p) for p in task.loss.parameters()}
    owned |= {id(p) for p in _given_to_optimizer(pieces)}
    seen: set[int] = set()
    calm = _without_gradient(pieces)
    usual = set(vars(nn.Module()))
    for path, module in _modules(task):
        for name, value in vars(module).items():
            if name in usual or name in calm or has_word(name, HELPERS):
                continue
            found = [p for p in _trainable(value) if id(p) not in owned | seen]
            seen |= {id(p) for p in found}
            if found:
                yield f"{path}.{name}".lstrip("."), _held(name, value, found)
    for piece in pieces:
        if piece.role in ("forward", "model", "loss"):
            yield from _outside(piece, owned, seen, calm)


def _given_to_optimizer(pieces: list[Piece]) -> Iterator[Tensor]:
    """Weights that ``make_optimizer`` names beside the model's."""
    for piece in pieces:
        for node in walk(piece.node) if piece.role == "optimizer" else ():
            if isinstance(node, (ast.Name, ast.Attribute)):
                yield from _trainable(piece.resolve(node))


def _modules(task: Any) -> Iterator[tuple[str, nn.Module]]:
    for home in (task.model, task.loss):
        for path, module in home.named_modules() if isinstance(home, nn.Module) else ():
            if own_classes(module):
                yield path or type(home).__name__, module


def _trainable(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Leaf tensors with a gradient, in modules, lists, dicts and by themselves."""
    if isinstance(value, nn.Module):
        yield from (p for p in value.parameters() if p.requires_grad)
    elif isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield value
    elif depth < MAX_DEPTH and isinstance(value, (list, tuple, set)):
        for inner in value if len(value) <= 1000 else ():
            yield from _trainable(inner, depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, dict):
        for inner in list(value.values())[:1000]:
            yield from _trainable(inner, depth + 1)


def _held(name: str, value: Any, found: list[Tensor]) -> Note:
    size = sum(0 if is_lazy(p) else p.numel() for p in found)
    kind = type(value).__name__
    is_tensor = isinstance(value, Tensor)
    fix = (
        "Make it an nn.Parameter."
        if is_tensor
        else (
            "Use nn.ModuleList, nn.ModuleDict or nn.ParameterList in the place of the "
            f"{kind}."
        )
    )
    what = "a plain tensor" if is_tensor else f"a plain {kind}"
    return Note(
        line=0,
        title=f"self.{name} holds weights that the model does not own: they never "
        "train",
        expected="every trainable weight among model.parameters()",
        actual=f"{what} with {size:,} trainable values: in no optimizer, in no "
        "checkpoint, not moved to the device",
        fix=fix,
    )


def _without_gradient(pieces: list[Piece]) -> set[str]:
    """Last names of what is only used below ``no_grad``: teachers and the like."""
    below: set[str] = set()
    outside: set[str] = set()
    for piece in pieces:
        if piece.role == "init":
            continue
        whole = any("no_grad" in ast.unparse(d) for d in _decorators(piece))
        calm = {
            id(inner)
            for node in piece.nodes
            if isinstance(node, ast.With)
            and any(
                last(i.context_expr) in ("no_grad", "inference_mode")
                for i in node.items
            )
            for inner in walk(node)
        }
        for node in piece.nodes:
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = dotted(node).rpartition(".")[2]
                (below if whole or id(node) in calm else outside).add(name)
    return below - outside


def _decorators(piece: Piece) -> list[ast.expr]:
    return getattr(piece.node, "decorator_list", [])


def _outside(
    piece: Piece, owned: set[int], seen: set[int], calm: set[str]
) -> Iterator[tuple[str, Note]]:
    """Modules and parameters that a function takes from around it."""
    for node in walk(piece.node):
        if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        name = node.id
        value = piece.resolve(node)
        is_weight = isinstance(value, (nn.Module, Tensor)) and name not in calm
        if value is MISSING or not is_weight or has_word(name, HELPERS):
            continue
        is_calm = isinstance(value, nn.Module) and not value.training
        found = [p for p in _trainable(value) if id(p) not in owned | seen]
        seen |= {id(p) for p in found}
        if found and not is_calm:
            size = sum(0 if is_lazy(p) else p.numel() for p in found)
            note = Note(
                line=node.lineno,
                title=f"'{name}' has weights that the model does not own: they never "
                "train",
                expected="every trainable weight among the parameters of the model, "
                "or of a loss that is a module",
                actual=f"{size:,} trainable values outside of it",
                fix=f"Make {name} a part of the model (or of a loss module); if it "
                "should rest, call requires_grad_(False) and eval() on it.",
            )
            yield piece.place(node.lineno), note
