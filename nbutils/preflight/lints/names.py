"""Which names a cell binds, and which it needs before it starts."""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass, field

from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    literal,
    walk,
)

__all__ = ["CellNames", "cell_names", "needs_of"]

KNOWN = set(dir(builtins)) | {"In", "Out", "get_ipython", "display", "exit", "quit"}
KNOWN |= {"_", "__", "___", "_i", "_ii", "_iii", "_ih", "_oh", "_dh", "__file__"}
KNOWN |= {"__vsc_ipynb_file__", "ipython", "__annotations__"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(slots=True)
class CellNames:
    """The names of one cell.

    Args:
        bound: Name -> line of its first binding.
        maybe: Names that only one branch of a test binds.
        needed: Name -> line of its first use before the cell binds it.
        needed_maybe: As ``needed``, where a branch or a ``try`` surrounds the use.
        deleted: Names that it deletes.
        inner: Function or class -> names that its body takes from outside.
        called: Functions that the cell calls itself -> line.
        is_open: A star import or ``exec`` may bind anything.
    """

    bound: dict[str, int] = field(default_factory=dict)
    maybe: set[str] = field(default_factory=set)
    needed: dict[str, int] = field(default_factory=dict)
    needed_maybe: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    inner: dict[str, dict[str, int]] = field(default_factory=dict)
    called: dict[str, int] = field(default_factory=dict)
    is_open: bool = False


def cell_names(tree: ast.Module) -> CellNames:
    """Read the statements of a cell in their order."""
    reader = _Reader()
    for statement in tree.body:
        reader.visit(statement)
    return reader.names


def needs_of(
    names: CellNames, inner: dict[str, dict[str, int]]
) -> dict[str, tuple[int, bool]]:
    """Name -> line, and whether the use is certain.

    Args:
        names: Of the cell.
        inner: What each function known so far takes from outside; those that the cell
            calls are looked into.
    """
    needs = {name: (line, False) for name, line in names.needed_maybe.items()}
    needs |= {name: (line, True) for name, line in names.needed.items()}
    waiting = list(names.called.items())
    seen: set[str] = set()
    while waiting:
        function, line = waiting.pop()
        if function in seen or function not in inner:
            continue
        seen.add(function)
        for name in inner[function]:
            if name not in names.bound and name not in needs and name not in inner:
                needs[name] = (line, True)
            waiting.append((name, line))
    return needs


# Over the cap: a method per kind of node, as ast.NodeVisitor asks.
class _Reader(ast.NodeVisitor):
    """Goes through a cell as it would run, branches marked as such."""

    def __init__(self) -> None:
        self.names = CellNames()
        self._depth = 0  # of branches

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._use(node.id, node.lineno)
        elif isinstance(node.ctx, ast.Store):
            self._bind(node.id, node.lineno)
        else:
            self._delete(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        self.visit(node.annotation)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._use(node.target.id, node.lineno)
        self.visit(node.value)
        self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.visit(node.target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        for part in (node.iter, node.target, *node.body, *node.orelse):
            self.visit(part)

    visit_AsyncFor = visit_For

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.names.is_open = True
            else:
                self._bind((alias.asname or alias.name).split(".")[0], node.lineno)

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        for part in (*node.decorator_list, *defaults):
            self.visit(part)
        self.names.inner[node.name] = _free(node)
        self._declare_globals(node)
        self._bind(node.name, node.lineno)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        taken: dict[str, int] = {}
        for inner in walk(node):
            if isinstance(inner, FUNCTIONS):
                taken |= _free(inner)
        own = {n.id for n in walk(node) if isinstance(n, ast.Name)}
        self.names.inner[node.name] = {
            k: v for k, v in taken.items() if k in own and k != node.name
        }
        self._bind(node.name, node.lineno)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)

    def visit_comprehension_like(self, node: ast.AST) -> None:
        own = {
            n.id
            for n in walk(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        own |= {a.arg for a in walk(node) if isinstance(a, ast.arg)}
        for inner in walk(node):
            is_load = isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
            if is_load and inner.id not in own:  # type: ignore[attr-defined]
                self._use(inner.id, inner.lineno)  # type: ignore[attr-defined]
            elif isinstance(inner, ast.NamedExpr):
                self._bind(inner.target.id, inner.lineno)
            elif isinstance(inner, ast.Call):
                self._note_call(inner)

    visit_ListComp = visit_SetComp = visit_comprehension_like
    visit_DictComp = visit_GeneratorExp = visit_comprehension_like

    def visit_Call(self, node: ast.Call) -> None:
        self._note_call(node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        value = literal(node.test)
        if value is True or value == 1:
            return self._each(node.body)
        before = set(self.names.bound)
        self._branch(node.body)
        first = set(self.names.bound) - before
        self._branch(node.orelse)
        second = set(self.names.bound) - before - first
        both = _bound_in(node.body) & _bound_in(node.orelse)
        ends = _ends(node.body) or _ends(node.orelse)
        if not ends:
            self.names.maybe |= (first | second) - both
        return None

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        for case in node.cases:
            self._branch(case.body)

    def visit_Try(self, node: ast.Try) -> None:
        self._branch(node.body)
        for handler in node.handlers:
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name:
                self._bind(handler.name, handler.lineno)
            self._branch(handler.body)
        self._branch(node.orelse)
        self._each(node.finalbody)

    def _each(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def _branch(self, body: list[ast.stmt]) -> None:
        self._depth += 1
        self._each(body)
        self._depth -= 1

    def _use(self, name: str, line: int) -> None:
        if name in KNOWN or name in self.names.bound:
            return
        place = self.names.needed_maybe if self._depth else self.names.needed
        place.setdefault(name, line)

    def _bind(self, name: str, line: int) -> None:
        self.names.deleted.discard(name)
        self.names.bound.setdefault(name, line)
        if not self._depth:
            self.names.maybe.discard(name)

    def _delete(self, name: str) -> None:
        if not self._depth:
            self.names.bound.pop(name, None)
            self.names.deleted.add(name)

    def _note_call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name):
            if function.id in ("exec", "globals", "locals", "vars", "run_cell"):
                self.names.is_open = True
            if not self._depth:
                self.names.called.setdefault(function.id, node.lineno)

    def _declare_globals(self, node: ast.AST) -> None:
        for inner in walk(node):
            if isinstance(inner, ast.Global):
                for name in inner.names:
                    self.names.bound.setdefault(name, inner.lineno)


def _free(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, int]:
    """Names that a function takes from outside, with the line of the first use."""
    bound = {a.arg for a in walk(function) if isinstance(a, ast.arg)}
    used: dict[str, int] = {}
    guarded: set[str] = set()
    for node in walk(function):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used.setdefault(node.id, node.lineno)
            else:
                bound.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, (ast.Try, ast.If, ast.IfExp)):
            guarded |= {n.id for n in walk(node) if isinstance(n, ast.Name)}
        elif name := getattr(node, "name", None):
            bound.add(name)
        elif rest := getattr(node, "rest", None):
            bound.add(rest)
    hidden = bound | KNOWN | guarded
    return {name: line for name, line in used.items() if name not in hidden}


def _bound_in(body: list[ast.stmt]) -> set[str]:
    inner = _Reader()
    inner._each(body)
    return set(inner.names.bound)


def _ends(body: list[ast.stmt]) -> bool:
    """Whether a branch leaves the cell: raises, or ends the process."""
    if not body:
        return False
    final = body[-1]
    is_exit = isinstance(final, ast.Expr) and isinstance(final.value, ast.Call)
    return isinstance(final, (ast.Raise, ast.Return)) or (
        is_exit and "exit" in ast.unparse(final.value)  # type: ignore[attr-defined]
    )
