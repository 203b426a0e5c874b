"""S5: an error in a training step or a forward pass that nobody hears of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Literal

from nbutils.preflight.lints.handlers import broad_handlers, is_loud, tries
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import FUNCTIONS, calls, dotted, last, literal

__all__ = ["RULE"]

FITS = {"fit", "train"}
RUNNERS = {"trainer", "coordinator", "learner", "learn", "run"}


def _run(source: Source) -> Iterator[Hit]:
    for node, around in tries(source.tree):
        what = _trained(node, around)
        if not what:
            continue
        broad = list(broad_handlers(node))
        for handler in node.handlers:
            is_taken = handler in broad or _is_runtime(handler)
            is_other = is_loud(handler) or any(map(_is_loss, handler.body))
            if is_taken and not is_other:
                is_sure = handler in broad and what != "training"
                yield _hit(handler, what, "fail" if is_sure else "warn")


def _is_runtime(handler: ast.ExceptHandler) -> bool:
    """A ``RuntimeError`` that is neither looked at nor noted in a variable."""
    text = "\n".join(map(ast.unparse, handler.body)).lower()
    is_noted = any(isinstance(node, ast.Assign) for node in handler.body)
    is_runtime = last(handler.type) == "RuntimeError"
    return is_runtime and not is_noted and "memory" not in text


def _trained(node: ast.Try, around: tuple[ast.AST, ...]) -> str:
    """What part of training the ``try`` holds."""
    found = list(calls(node.body))
    in_loop = any(isinstance(a, (ast.For, ast.While, ast.AsyncFor)) for a in around)
    for call in found:
        if last(call) == "backward" and isinstance(call.func, ast.Attribute):
            return "backward"
    if in_loop and any(_is_loss(statement) for statement in node.body):
        return "the loss"
    if _in_forward(around) and any(_is_layer(call) for call in found):
        return "a layer of forward"
    if not in_loop and any(_is_fit(statement) for statement in node.body):
        return "training"
    return ""


def _is_loss(statement: ast.stmt) -> bool:
    """``loss = criterion(...)``."""
    if not isinstance(statement, ast.Assign) or not isinstance(
        statement.value, ast.Call
    ):
        return False
    name = dotted(statement.targets[0]).rpartition(".")[2].lower()
    return name in ("loss", "total_loss", "train_loss", "batch_loss")


def _is_fit(statement: ast.stmt) -> bool:
    """``trainer.fit(...)`` or ``result = run.train()``."""
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    owner = dotted(call.func.value).rpartition(".")[2]
    return last(call) in FITS and owner.lower() in RUNNERS


def _in_forward(around: tuple[ast.AST, ...]) -> bool:
    """Directly in the ``forward`` of a class of modules."""
    inner = [a for a in around if isinstance(a, (*FUNCTIONS, ast.ClassDef))]
    if len(inner) < 2 or not isinstance(inner[-2], ast.ClassDef):
        return False
    is_module = any("Module" in dotted(base) for base in inner[-2].bases)
    return is_module and getattr(inner[-1], "name", "") == "forward"


def _is_layer(call: ast.Call) -> bool:
    """``self.encoder(x)``, ``self.layers[i](x)`` or ``layer(x)`` with an argument."""
    function = call.func
    while isinstance(function, ast.Subscript):
        function = function.value
    name = dotted(function)
    is_own = name.startswith("self.") and name.count(".") == 1
    return bool(call.args) and (is_own or name in ("layer", "block", "module"))


def _hit(
    handler: ast.ExceptHandler, what: str, severity: Literal["warn", "fail"]
) -> Hit:
    kind = ast.unparse(handler.type) if handler.type else "any error"
    shown = "; ".join(ast.unparse(statement) for statement in handler.body)
    is_silent = any(
        isinstance(s, (ast.Pass, ast.Continue))
        or (isinstance(s, ast.Expr) and literal(s.value) is ...)
        for s in handler.body
    )
    does = "goes on" if is_silent else f"does only: {shown[:80]}"
    return Hit(
        line=handler.lineno,
        title=f"an error in {what} is swallowed",
        expected="the error ends the run, or a counted few are let pass",
        actual=f"except {kind}: {does}",
        fix="Let it raise. To survive single batches, catch the one kind of error you "
        "know, count it, and raise above a limit.",
        severity=severity,
    )


RULE = Rule(
    "S5.swallowed-error",
    "A loop that skips what fails ends green when every batch failed.",
    _run,
    ("except",),
)
