"""S5: layers that are made in ``forward``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    calls,
    dotted,
    last,
    root,
    walk,
)

__all__ = ["RULE"]

LAYERS = {"Linear", "Bilinear", "Embedding", "LSTM", "GRU", "RNN", "LayerNorm"}
LAYERS |= {"MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder"}
LAYERS |= {f"{kind}{n}d" for kind in ("Conv", "ConvTranspose") for n in "123"}
LAYERS |= {f"BatchNorm{n}d" for n in "123"} | {"GroupNorm"}


def _run(source: Source) -> Iterator[Hit]:
    for node in walk(source.tree):
        is_module = isinstance(node, ast.ClassDef) and any(
            last(base) in ("Module", "LightningModule") for base in node.bases
        )
        for method in node.body if is_module else []:  # type: ignore[attr-defined]
            if isinstance(method, ast.FunctionDef) and method.name == "forward":
                filled = _filled(method)
                for call in calls(method.body):
                    name = dotted(call.func)
                    is_layer = name.startswith(("nn.", "torch.nn."))
                    if is_layer and last(call) in LAYERS and id(call) not in filled:
                        yield _hit(call)


def _filled(method: ast.FunctionDef) -> set[int]:
    """Layers whose weights the method sets itself; they are only a container."""
    stored = {
        root(node).split(".")[0]
        for node in walk(method)
        if isinstance(node, (ast.Attribute, ast.Subscript))
        and isinstance(node.ctx, ast.Store)
    } - {"self"}
    return {
        id(node.value)
        for node in walk(method)
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) in stored
    }


def _hit(call: ast.Call) -> Hit:
    return Hit(
        line=call.lineno,
        title=f"{last(call)} is made in forward",
        expected="layers made in __init__, before the optimizer is",
        actual=f"{ast.unparse(call)[:80]}: new weights that no optimizer holds",
        fix="Make it in __init__; where its size is only known later, use "
        f"nn.Lazy{last(call)} and one forward before the optimizer."
        if last(call) in ("Linear", "Conv1d", "Conv2d", "Conv3d")
        else "Make it in __init__.",
    )


RULE = Rule(
    "S5.layer-in-forward",
    "The layer stays random, or is random anew with each call.",
    _run,
    ("def forward",),
)
