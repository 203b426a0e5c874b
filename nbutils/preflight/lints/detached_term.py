"""S5: a term of the loss that was turned into a number, and so has no gradient."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import of_kind
from nbutils.preflight.lints.syntax import dotted, inside, last, root, words

__all__ = ["RULE"]

CUTS = {"item", "detach", "tolist"}
TERMS = {"loss", "aux", "reg", "kl", "entropy", "penalty", "kld", "nll", "ce", "mse"}


def _run(source: Source) -> Iterator[Hit]:
    for scope, found in source.training:
        trained = {event.who for event in of_kind(found, "backward")} - {""}
        for node in inside(scope.body):
            for value in _added(node, trained):
                terms = list(_terms(value))
                cut = [term for term in terms if _is_cut(term)]
                is_sum = isinstance(node, ast.AugAssign) or len(cut) < len(terms)
                for term in cut if is_sum else []:
                    yield _hit(term)


def _added(node: ast.AST, trained: set[str]) -> Iterator[ast.expr]:
    """What is added to a loss that goes backward."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        if dotted(node.target) in trained:
            yield node.value
    elif isinstance(node, ast.Assign) and dotted(node.targets[0]) in trained:
        yield node.value


def _terms(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Add, ast.Sub)):
        yield from _terms(value.left)
        yield from _terms(value.right)
    else:
        yield value


def _is_cut(term: ast.expr) -> bool:
    """``aux.item()``, ``w * aux.item()`` or ``float(aux)``, and nothing attached."""
    if isinstance(term, ast.BinOp) and isinstance(term.op, (ast.Mult, ast.Div)):
        sides = (term.left, term.right)
        return any(map(_is_cut, sides)) and any(map(_is_weight, sides))
    if not isinstance(term, ast.Call):
        return False
    if last(term) in CUTS and isinstance(term.func, ast.Attribute):
        name = root(term.func.value)
    elif dotted(term.func) == "float" and term.args:
        name = dotted(term.args[0])
    else:
        return False
    return bool(TERMS & set(words(name)))


def _is_weight(node: ast.expr) -> bool:
    """A factor: a number, or a name that is no term."""
    if isinstance(node, ast.Constant):
        return True
    return bool(dotted(node)) and not TERMS & set(
        words(dotted(node).rpartition(".")[2])
    )


def _hit(term: ast.expr) -> Hit:
    return Hit(
        line=term.lineno,
        title="a term of the loss is a plain number",
        expected="tensors that are still attached, in every term",
        actual=f"{ast.unparse(term)[:80]} adds to the value, and has no gradient",
        fix="Add the tensor itself; call .item() only for the log.",
    )


RULE = Rule(
    "S5.detached-term",
    "The curve shows the term; training does not feel it.",
    _run,
    (".backward(",),
)
