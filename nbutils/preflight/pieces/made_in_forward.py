"""S5: layers and parameters that are made while the model runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from nbutils.preflight.lints.syntax import MISSING, dotted, inside, last, root, walk
from nbutils.preflight.pieces.piece import Note, Piece, Rule, peek

__all__ = ["RULE"]

WITH_WEIGHTS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.Transformer,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.PReLU,
)


def _run(piece: Piece) -> Iterator[Note]:
    filled = _filled(piece)
    for call in piece.calls():
        kind = _weights_of(piece, call)
        if not kind or id(call) in filled:
            continue
        home = _home(piece, call)
        if (
            home
            and piece.live is not None
            and peek(piece.live, home)
            not in (
                MISSING,
                None,
            )
        ):
            continue  # made once already, before the optimizer
        yield Note(
            line=call.lineno,
            title=f"{kind} is made in {piece.node.name}"  # type: ignore[union-attr]
            if not isinstance(piece.node, ast.Lambda)
            else f"{kind} is made at each call",
            expected="layers and parameters made in __init__, before the optimizer is",
            actual=f"{ast.unparse(call)[:80]}: new weights that no optimizer holds",
            fix="Make it in __init__; where its size is only known later, use a lazy "
            "layer such as nn.LazyLinear.",
        )


def _weights_of(piece: Piece, call: ast.Call) -> str:
    """The class of a call that makes weights."""
    found = piece.resolve(call.func)
    if found is nn.Parameter:
        return "nn.Parameter"
    is_layer = isinstance(found, type) and issubclass(found, WITH_WEIGHTS)
    if is_layer and not issubclass(found, LazyModuleMixin):
        return found.__name__
    return ""


def _home(piece: Piece, call: ast.Call) -> str:
    """The attribute of ``self`` that a call is assigned to."""
    for node in piece.nodes:
        if isinstance(node, ast.Assign) and any(n is call for n in walk(node.value)):
            first, _, name = dotted(node.targets[0]).partition(".")
            return name if first == "self" and "." not in name else ""
    return ""


def _filled(piece: Piece) -> set[int]:
    """Layers whose weights the function sets itself; they are only a container."""
    stored = {
        root(node).split(".")[0]
        for node in piece.nodes
        if isinstance(node, (ast.Attribute, ast.Subscript))
        and isinstance(node.ctx, ast.Store)
    } - {"self"}
    loaded = {
        root(node.func.value).split(".")[0]
        for node in inside(piece.body)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and last(node) in ("load_state_dict", "copy_")
    }
    return {
        id(node.value)
        for node in piece.nodes
        if isinstance(node, ast.Assign)
        and dotted(node.targets[0]) in (stored | loaded) - {"self"}
    }


RULE = Rule(id="S5.layer-in-forward", run=_run, roles=("model", "forward", "loss"))
