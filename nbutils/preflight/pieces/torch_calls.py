"""Which call is which of torch's: a loss, a random number, a probability."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.loss import _Loss, _WeightedLoss

from nbutils.preflight.lints.syntax import MISSING, dotted, last
from nbutils.preflight.pieces.piece import Piece

__all__ = ["inner_value", "is_random", "loss_name", "probability"]

RANDOM = {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like"}
RANDOM_HOMES = ("torch", "np.random", "numpy.random", "th")
PASSED_ON = {"to", "long", "float", "int", "double", "half", "cuda", "cpu", "type"}
PASSED_ON |= {
    "unsqueeze",
    "squeeze",
    "view",
    "reshape",
    "contiguous",
    "detach",
    "clone",
}
LOSS_CLASSES = (_Loss, _WeightedLoss)
SOFTMAX = {"softmax", "sigmoid"}
MODULES = {nn.Softmax: "softmax", nn.Sigmoid: "sigmoid", nn.Softmax2d: "softmax"}


def inner_value(piece: Piece, node: ast.AST | None) -> ast.AST | None:
    """The expression behind a name and behind ``.to(...)`` and the like."""
    for _ in range(10):
        node = piece.value(node)
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and last(node) in PASSED_ON and not _is_module(piece, node):
            node = node.func.value  # type: ignore[union-attr]
        else:
            return node
    return node


def _is_module(piece: Piece, node: Any) -> bool:
    """Whether the function is of a module: ``torch.clone(x)``."""
    return isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"


def is_random(piece: Piece, node: ast.AST | None) -> bool:
    """Whether a value is nothing but random numbers."""
    node = inner_value(piece, node)
    if not isinstance(node, ast.Call):
        return False
    home, _, name = dotted(node.func).rpartition(".")
    if name not in RANDOM:
        return False
    found = piece.resolve(node.func)
    return found is getattr(torch, name, None) or home in RANDOM_HOMES


def loss_name(piece: Piece, call: ast.Call) -> str:
    """The name of the torch loss that a call computes; empty if it is none.

    Functions of ``torch.nn.functional``, modules of ``torch.nn``, and modules that are
    made and called in one go.
    """
    found = piece.resolve(call.func)
    name = last(call)
    if found is not MISSING and found is getattr(functional, name, None):
        is_loss = "loss" in name or "entropy" in name or name == "kl_div"
        return name if is_loss else ""
    if isinstance(found, LOSS_CLASSES):
        return type(found).__name__
    if isinstance(call.func, ast.Call):
        made = piece.resolve(call.func.func)
        if isinstance(made, type) and issubclass(made, LOSS_CLASSES):
            return made.__name__
    return ""


def probability(piece: Piece, node: ast.AST | None) -> str:
    """``softmax`` or ``sigmoid`` if that is what made a value; else empty."""
    node = inner_value(piece, node)
    if not isinstance(node, ast.Call):
        return ""
    name = last(node)
    found = piece.resolve(node.func)
    if isinstance(found, tuple(MODULES)):
        return next(word for kind, word in MODULES.items() if isinstance(found, kind))
    if name not in SOFTMAX:
        return ""
    homes = (getattr(torch, name), getattr(functional, name))
    is_method = found is MISSING and isinstance(node.func, ast.Attribute)
    is_own = is_method and dotted(node.func).split(".")[0] in ("self", "torch", "F")
    return name if found in homes or (is_method and not is_own) else ""
