"""What an ``except`` branch does with an error: shared by the rules about them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    dotted,
    inside,
    last,
    walk,
)

__all__ = ["broad_handlers", "is_loud", "random_or_constant", "tries"]

BROAD = {"Exception", "BaseException"}
LOUD = {"exit", "_exit", "abort", "fail", "quit", "skip", "exception_handler", "kill"}
MADE = {"zeros", "ones", "full", "rand", "randn", "randint", "normal", "uniform"}
MADE |= {"zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "tensor"}


def tries(node: ast.AST) -> Iterator[tuple[ast.Try, tuple[ast.AST, ...]]]:
    """Every ``try`` with the definitions around it, outermost first."""
    yield from _tries(node, ())


def _tries(
    node: ast.AST, around: tuple[ast.AST, ...]
) -> Iterator[tuple[ast.Try, tuple[ast.AST, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Try):
            yield child, around
        is_around = (*FUNCTIONS, ast.ClassDef, ast.For, ast.While, ast.AsyncFor)
        inner = (*around, child) if isinstance(child, is_around) else around
        yield from _tries(child, inner)


def broad_handlers(node: ast.Try) -> Iterator[ast.ExceptHandler]:
    """Handlers that take any error."""
    for handler in node.handlers:
        kinds = (
            handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        )
        if handler.type is None or BROAD & {last(kind) for kind in kinds}:
            yield handler


def is_loud(handler: ast.ExceptHandler) -> bool:
    """Whether the error goes on: raised, returned, kept for later, or the end."""
    for node in inside(handler.body):
        if isinstance(node, (ast.Raise, ast.Break, ast.Assert)):
            return True
        if isinstance(node, ast.Return) and node.value is not None:
            return True
        if isinstance(node, ast.Call) and last(node) in LOUD:
            return True
        if _keeps(node, handler.name):
            return True
    return False


def _keeps(node: ast.AST, name: str | None) -> bool:
    """``errors.append(error)`` and ``self.error = error`` hand it on."""
    if name is None:
        return False
    if isinstance(node, ast.Assign):
        return any(isinstance(n, ast.Name) and n.id == name for n in walk(node.value))
    is_put = isinstance(node, ast.Call) and last(node) in (
        "append",
        "put",
        "set_exception",
    )
    return is_put and any(isinstance(n, ast.Name) and n.id == name for n in walk(node))


def random_or_constant(node: ast.AST | None) -> str:
    """What a made-up value is made by: a number, or ``torch.zeros`` and the like."""
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return repr(node.value) if not isinstance(node.value, bool) else ""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node)}" if dotted(node) in ("np.inf", "math.nan") else ""
    if not isinstance(node, ast.Call):
        return ""
    name = dotted(node.func)
    if name.split(".")[0] in ("torch", "np", "numpy") and last(node) in MADE:
        is_made = last(node) != "tensor" or isinstance(
            node.args[0] if node.args else None, (ast.Constant, ast.UnaryOp)
        )
        return name if is_made else ""
    if isinstance(node.func, ast.Attribute) and last(node) in (
        "to",
        "cuda",
        "requires_grad_",
        "float",
        "long",
        "clone",
        "detach",
    ):
        return random_or_constant(node.func.value)
    return ""
