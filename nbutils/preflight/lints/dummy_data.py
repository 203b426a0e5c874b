"""S5: invented samples, inputs or targets in the place of real ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.handlers import (
    broad_handlers,
    random_or_constant,
    tries,
)
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import is_loader_loop, of_kind
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    bound_names,
    calls,
    dotted,
    inside,
    last,
)

__all__ = ["RULE"]

READERS = ("__getitem__", "collate", "collate_fn", "load_image", "read_image")
RANDOM = {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like"}
SHAPED = RANDOM | {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like"}
INPUTS = {"input_ids", "tokens", "token_ids", "image", "images", "img"}


def _run(source: Source) -> Iterator[Hit]:
    for node, around in tries(source.tree):
        function = next((a for a in around[::-1] if isinstance(a, FUNCTIONS)), None)
        name = "" if function is None else function.name
        for handler in node.handlers:
            yield from _invented(node, handler, name)
    for scope, found in source.training:
        if of_kind(found, "backward"):
            yield from _random_target(scope)


def _invented(node: ast.Try, handler: ast.ExceptHandler, name: str) -> Iterator[Hit]:
    """A sample that could not be read becomes zeros or noise."""
    if handler not in list(broad_handlers(node)) and name not in READERS:
        return
    if any(isinstance(inner, ast.Raise) for inner in inside(handler.body)):
        return
    for statement in inside(handler.body):
        value = getattr(statement, "value", None)
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        if isinstance(value, ast.Dict):
            parts = value.values
        made = next(filter(None, map(_made, parts)), "")
        is_input = isinstance(statement, ast.Assign) and INPUTS & {
            n for target in statement.targets for n in bound_names(target)
        }
        is_returned = isinstance(statement, ast.Return) and name in READERS
        if made and (is_returned or is_input):
            yield Hit(
                line=statement.lineno,  # type: ignore[attr-defined]
                title="a sample that cannot be read is replaced by an invented one",
                expected="the error raises, with the name of the sample",
                actual=f"except ...: {made}(...), kept with the true label",
                fix="Let it raise, or list the unreadable samples before training and "
                "leave them out, within a budget.",
            )


def _made(node: ast.AST | None) -> str:
    name = random_or_constant(node)
    return name if name.rpartition(".")[2] in SHAPED or name == "Image.new" else ""


def _random_target(scope: ast.AST) -> Iterator[Hit]:
    """``criterion(output, torch.randn_like(output))`` in a loop over real batches."""
    for loop in inside(getattr(scope, "body", [])):
        if not is_loader_loop(loop):
            continue
        for call in calls(loop.body):  # type: ignore[attr-defined]
            is_loss = "loss" in last(call).lower() or last(call) == "criterion"
            for given in call.args[1:2] if is_loss else []:
                name = dotted(given.func) if isinstance(given, ast.Call) else ""
                if name.startswith("torch.") and name.rpartition(".")[2] in RANDOM:
                    yield Hit(
                        line=call.lineno,
                        title="the loss compares with random numbers",
                        expected="targets that belong to the batch",
                        actual=f"{last(call)}(..., {name}(...))",
                        fix="Pass the targets of the batch.",
                    )


RULE = Rule(
    "S5.dummy-data",
    "Invented samples turn a reader that fails into a run that trains on nothing.",
    _run,
    ("except", "_like(", "rand"),
)
