"""S5: questions that hold up Run All, where nobody answers."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    argument,
    dotted,
    last,
    walk,
)

__all__ = ["RULE"]

FIX = {
    "input": "Take the value from a parameters cell or the environment.",
    "getpass": "Read it from an environment variable or the platform's vault.",
    "login": "Set WANDB_API_KEY or HF_TOKEN outside of the notebook.",
    "upload": "Read the file from a path in the parameters cell.",
    "set_trace": "Remove it; debug with %debug after a failure.",
}
LOGINS = {"notebook_login", "interpreter_login"}


def _run(source: Source) -> Iterator[Hit]:
    imported = _imports(source.tree)
    shadowed = _bound(source.tree)
    for node, is_guarded, is_deferred in _calls(source.tree):
        kind = _prompt(node, imported, shadowed)
        if not kind or (not source.is_notebook and (is_guarded or is_deferred)):
            continue
        may_pass = is_guarded or is_deferred or kind == "login"
        yield Hit(
            line=node.lineno,
            title=f"{dotted(node.func)}() waits for an answer",
            expected="a run from the first cell to the last without a question",
            actual="it stops here until somebody types"
            if kind != "login"
            else "it asks for a key where none is stored",
            fix=FIX[kind],
            severity="warn" if may_pass or not source.is_notebook else "fail",
        )


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, bool, bool]]:
    """Calls; whether a branch guards them; whether a function holds them."""
    stack: list[tuple[ast.AST, bool, bool]] = [(tree, False, False)]
    while stack:
        node, is_guarded, is_deferred = stack.pop()
        if isinstance(node, ast.Call):
            yield node, is_guarded, is_deferred
        branches = (ast.If, ast.Try, ast.BoolOp, ast.IfExp, ast.ExceptHandler)
        is_guarded = is_guarded or isinstance(node, branches)
        is_deferred = is_deferred or isinstance(node, (*FUNCTIONS, ast.Lambda))
        stack += [(c, is_guarded, is_deferred) for c in ast.iter_child_nodes(node)]


def _prompt(call: ast.Call, imported: dict[str, str], shadowed: set[str]) -> str:
    name = dotted(call.func)
    full = imported.get(name.split(".")[0], "")
    if name == "input" and name not in shadowed:
        return "input"
    if name == "getpass.getpass" or full == "getpass.getpass":
        return "getpass"
    has_key = bool(call.args) or argument(call, "key") or argument(call, "token")
    is_hub = full.startswith("huggingface_hub") or name.startswith("huggingface_hub.")
    if not has_key and (name == "wandb.login" or (is_hub and last(call) == "login")):
        return "login"
    if is_hub and last(call) in LOGINS:
        return "login"
    if name == "files.upload" and full.startswith("google.colab"):
        return "upload"
    is_break = name in ("breakpoint", "pdb.set_trace", "ipdb.set_trace")
    return "set_trace" if is_break else ""


def _imports(tree: ast.Module) -> dict[str, str]:
    """Bound name -> what ``from x import y`` takes."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _bound(tree: ast.Module) -> set[str]:
    """Names that are assigned, defined or taken as an argument anywhere."""
    found = {n.id for n in walk(tree) if isinstance(n, ast.Name) and _stores(n)}
    found |= {n.arg for n in walk(tree) if isinstance(n, ast.arg)}
    return found | {n.name for n in walk(tree) if isinstance(n, FUNCTIONS)}


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


RULE = Rule(
    "S5.prompt",
    "A question in the night is answered in the morning: the run stood still.",
    _run,
    ("input(", "getpass", "login", "upload", "set_trace", "breakpoint"),
)
