"""S5: a term of the loss that was turned into a number, and so has no gradient."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import Tensor

from nbutils.preflight.lints.syntax import dotted, inside, last, words
from nbutils.preflight.pieces.piece import Note, Piece, Rule
from nbutils.preflight.pieces.torch_calls import loss_name

__all__ = ["RULE"]

NUMBERS = {"item", "tolist"}
CUTS = NUMBERS | {"detach"}
TERMS = {"loss", "aux", "reg", "kl", "kld", "entropy", "penalty", "nll", "ce", "mse"}
TERMS |= {"l1", "l2", "bce", "smooth", "smoothness", "consistency", "recon", "dice"}


def _run(piece: Piece) -> Iterator[Note]:
    for value, is_added in _sums(piece):
        terms = list(_terms(value))
        attached = {ast.unparse(term) for term in terms}
        cut = [term for term in terms if _is_cut(piece, term)]
        is_sum = is_added or len(cut) < len(terms)
        for term in cut if is_sum else []:
            if _inner_text(piece, term) not in attached:  # x - x.detach(): meant
                yield _note(term)


def _sums(piece: Piece) -> Iterator[tuple[ast.expr, bool]]:
    """What makes up the returned loss, and whether it is added to something."""
    values = list(_results(piece))
    yield from ((value, False) for value in values)
    returned = {name for value in values for name in _names(value)}
    for _ in range(3):
        bound = [node for name in returned for node in piece.stored.get(name, [])]
        returned |= {n for node in bound for n in _names(getattr(node, "value", None))}
    for name in returned:
        for node in piece.stored.get(name, []):
            if isinstance(node, ast.Assign) and dotted(node.targets[0]) == name:
                yield node.value, False
            elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                yield node.value, True


def _results(piece: Piece) -> Iterator[ast.expr]:
    """What a function returns; of a dict of terms each value."""
    if isinstance(piece.node, ast.Lambda):
        yield from _returned(piece.node.body)
    for node in piece.nodes:
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _returned(node.value)


def _returned(value: ast.expr) -> list[ast.expr]:
    if isinstance(value, ast.Dict):
        return value.values
    return value.elts[:1] if isinstance(value, ast.Tuple) else [value]


def _names(value: ast.AST | None) -> Iterator[str]:
    """Names that stand alone as a term of a sum."""
    if isinstance(value, ast.expr):
        for term in _terms(value):
            inner = term
            while isinstance(inner, ast.BinOp):
                inner = inner.left if isinstance(inner.left, ast.Name) else inner.right
            if isinstance(inner, ast.Name):
                yield inner.id


def _terms(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Add, ast.Sub)):
        yield from _terms(value.left)
        yield from _terms(value.right)
    else:
        yield value


def _is_cut(piece: Piece, term: ast.AST | None) -> bool:
    """``aux.item()``, ``w * aux.item()``, ``float(aux)``, or a name of such a value."""
    if isinstance(term, ast.BinOp) and isinstance(term.op, ast.Mult):
        sides = (term.left, term.right)
        return any(
            _is_cut(piece, one) and _is_weight(piece, other)
            for one, other in (sides, sides[::-1])
        )
    if isinstance(term, ast.BinOp) and isinstance(term.op, ast.Div):
        return _is_cut(piece, term.left)
    if isinstance(term, ast.Name):
        value = piece.value(term)
        is_single = value is not term
        return is_single and _is_cut(piece, value)
    if not isinstance(term, ast.Call):
        return False
    if isinstance(term.func, ast.Attribute) and last(term) in CUTS:
        inner = term.func.value
        if last(term) == "item" and dotted(term.func.value).startswith("self."):
            return False
        return _is_term(piece, inner)
    is_wrapped = dotted(term.func) in ("float", "torch.tensor") and len(term.args) >= 1
    return is_wrapped and _is_term(piece, term.args[0])


def _is_term(piece: Piece, node: ast.AST) -> bool:
    """A value that reads like a term of a loss, or is one."""
    if isinstance(node, ast.Call) and loss_name(piece, node):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        inner = node.func.value
        return last(node) in CUTS | {"mean", "sum"} and _is_term(piece, inner)
    name = dotted(node.func if isinstance(node, ast.Call) else node)
    if TERMS & set(words(name.rpartition(".")[2])):
        return True
    value = piece.value(node) if isinstance(node, ast.Name) else node
    return value is not node and isinstance(value, ast.Call) and _is_term(piece, value)


def _is_weight(piece: Piece, node: ast.AST) -> bool:
    """A factor that is a number, and nothing that learns."""
    if isinstance(node, ast.Constant):
        return True
    found = piece.resolve(node)
    if isinstance(found, Tensor):
        return not found.requires_grad
    if isinstance(found, (int, float)):
        return True
    value = piece.value(node)
    return isinstance(value, ast.Constant)


def _inner_text(piece: Piece, term: ast.expr) -> str:
    """What was cut, as text."""
    node = piece.value(term) if isinstance(term, ast.Name) else term
    for inner in inside([node] if node is not None else []):
        function = inner.func if isinstance(inner, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr in CUTS:
            return ast.unparse(function.value)
    return ""


def _note(term: ast.expr) -> Note:
    return Note(
        line=term.lineno,
        title="a term of the loss is detached: it adds to the value, not to the "
        "gradient",
        expected="tensors that are still attached, in every term",
        actual=f"{ast.unparse(term)[:80]} in the sum",
        fix="Add the tensor itself; call .item() or .detach() only for the log.",
    )


RULE = Rule(id="S5.detached-term", run=_run, roles=("loss",))
