"""S5: a module's name that an assignment in a function makes local too late."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    bound_names,
    own,
    walk,
)

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    known = _module_names(source.tree)
    for node in walk(source.tree):
        if isinstance(node, FUNCTIONS):
            yield from _judged(node, known)


def _judged(
    function: ast.FunctionDef | ast.AsyncFunctionDef, known: set[str]
) -> Iterator[Hit]:
    """Loads in the branch beside the only ones that bind the name."""
    declared = {
        name
        for n in own(function)
        if isinstance(n, (ast.Global, ast.Nonlocal))
        for name in n.names
    }
    stores = _by_name(function, ast.Store)
    given = {a.arg for a in walk(function.args) if isinstance(a, ast.arg)}
    for name in (known & stores.keys()) - declared - given:
        if _bound_otherwise(function, name):
            continue
        for load in _by_name(function, ast.Load).get(name, []):
            if _is_beside(function, stores[name], load) and not _in_loop(
                function, load
            ):
                yield _hit(load, stores[name][0])
                break


def _by_name(
    function: ast.AST, kind: type[ast.expr_context]
) -> dict[str, list[ast.Name]]:
    found: dict[str, list[ast.Name]] = {}
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    hidden = {
        id(inner)
        for node in own(function)
        if isinstance(node, comprehensions)
        for inner in walk(node)
    }
    for node in own(function):
        is_kind = isinstance(node, ast.Name) and isinstance(node.ctx, kind)
        if is_kind and id(node) not in hidden:
            found.setdefault(node.id, []).append(node)  # type: ignore[attr-defined]
    return found


def _bound_otherwise(function: ast.AST, name: str) -> bool:
    """By an import, a definition, a ``match`` or an ``except ... as`` in it."""
    for node in own(function):
        given = {getattr(node, "name", None)}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            given = {(a.asname or a.name).split(".")[0] for a in node.names}
        if name in given:
            return True
    return False


def _is_beside(function: ast.AST, stores: list[ast.Name], load: ast.Name) -> bool:
    """Whether no way to the load leads over a store."""
    for node in own(function):
        if isinstance(node, ast.If):
            arms = (node.body, node.orelse)
            for own_arm, other in (arms, arms[::-1]):
                if _all_in(stores, own_arm) and _all_in([load], other):
                    return True
        if isinstance(node, ast.Try) and _all_in(stores, node.body):
            for handler in node.handlers:
                is_first = _all_in(stores, node.body[:1])
                if is_first and _all_in([load], handler.body):
                    return True
    return False


def _all_in(names: list[ast.Name], block: list[ast.stmt]) -> bool:
    inner = {id(node) for statement in block for node in walk(statement)}
    return all(id(name) in inner for name in names)


def _in_loop(function: ast.AST, load: ast.Name) -> bool:
    """An earlier turn of a loop may have bound it."""
    return any(
        isinstance(node, (ast.For, ast.While, ast.AsyncFor))
        and any(inner is load for inner in walk(node))
        for node in own(function)
    )


def _module_names(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {name for target in node.targets for name in bound_names(target)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return found


def _hit(load: ast.Name, store: ast.Name) -> Hit:
    return Hit(
        line=load.lineno,
        title=f"{load.id} is a local name here, and not bound yet",
        expected=f"the module's {load.id}, or one that is bound on every way here",
        actual=f"line {store.lineno} of the function assigns {load.id}, in a branch "
        "that leads elsewhere: UnboundLocalError",
        fix=f"Give the object of line {store.lineno} another name.",
    )


RULE = Rule(
    "S5.unbound-local",
    "The branch that is seldom taken, such as an error message, fails itself.",
    _run,
)
