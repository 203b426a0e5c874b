"""The events of training in a function: backward, step, zero_grad, in their order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from nbutils.preflight.lints.syntax import (
    Scope,
    dotted,
    has_word,
    inside,
    last,
    root,
    words,
)

__all__ = [
    "Event",
    "Loop",
    "between",
    "events",
    "is_compatible",
    "is_loader_loop",
    "iterated",
    "of_kind",
    "optimizer_names",
]

Loop = ast.For | ast.AsyncFor | ast.While
Path = tuple[tuple[int, str], ...]

OPTIMIZER_WORDS = {"opt", "optim", "optimizer", "optimiser"}
OPTIMIZERS = {"Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax"}
LOADERS = {"loader", "dataloader", "loaders", "dataloaders", "dl"}
WRAPPERS = {"enumerate", "tqdm", "trange", "progress_bar", "track", "islice", "iter"}
CLIPS = {"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm"}
# Objects that scale, unscale and clip by themselves.
FRAMEWORKS = {"accelerator", "fabric", "trainer", "engine", "self", "strategy"}


@dataclass(frozen=True, slots=True)
class Event:
    """A call that matters to training.

    Args:
        kind: ``backward``, ``step``, ``zero``, ``schedule``, ``clip``, ``unscale``,
            ``eval`` or ``train``.
        who: The loss, the optimizer, the schedule or the model.
        node: The call.
        path: The branches that lead there, outermost first.
        loops: The loops around it, outermost first.
        via: The scaler, where one is used.
    """

    kind: str
    who: str
    node: ast.Call
    path: Path
    loops: tuple[Loop, ...]
    via: str = ""


def events(scope: Scope) -> list[Event]:
    """The events of a function or module, in the order of the text."""
    return list(_walk(scope.body, (), (), optimizer_names(scope)))


def optimizer_names(scope: ast.AST) -> set[str]:
    """Names that a function, a module or a loop assigns an optimizer of torch to."""
    found: set[str] = set()
    for node in inside(getattr(scope, "body", [])):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = dotted(node.value.func)
            is_torch = last(node.value) in OPTIMIZERS or ".optim." in f".{made}."
            if is_torch and "lr_scheduler" not in made:
                found.update(filter(None, map(dotted, node.targets)))
    return found


def of_kind(found: list[Event], *kinds: str) -> list[Event]:
    """The events of some kinds."""
    return [event for event in found if event.kind in kinds]


def between(found: list[Event], first: Event, second: Event) -> list[Event]:
    """The events after ``first`` and before ``second``."""
    return found[found.index(first) + 1 : found.index(second)]


def is_compatible(first: Path, second: Path) -> bool:
    """Whether one run of the code may take both paths."""
    arms = dict(first)
    return all(arms.get(branch, arm) == arm for branch, arm in second)


def iterated(loop: Loop) -> ast.AST | None:
    """What a ``for`` loop runs over, without ``enumerate``, ``tqdm`` and the like."""
    node: ast.AST | None = loop.iter if not isinstance(loop, ast.While) else None
    while isinstance(node, ast.Call) and last(node) in WRAPPERS and node.args:
        node = node.args[0]
    return node


def is_loader_loop(node: ast.AST) -> bool:
    """Whether a loop runs over the batches of a loader."""
    if not isinstance(node, (ast.For, ast.AsyncFor)):
        return False
    return has_word(root(iterated(node)).rpartition(".")[2], LOADERS)


def _walk(
    body: list[ast.stmt], path: Path, loops: tuple[Loop, ...], known: set[str]
) -> Iterator[Event]:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        blocks = list(_blocks(statement))
        if not blocks:
            yield from _calls([statement], path, loops, known)
        elif isinstance(statement, ast.If):
            yield from _calls([statement.test], path, loops, known)
        for arm, block in blocks:
            is_loop = isinstance(statement, Loop) and arm == "body"
            inner = (*loops, statement) if is_loop else loops
            branch = ((id(statement), arm),) if _is_branch(statement, arm) else ()
            yield from _walk(block, (*path, *branch), inner, known)  # type: ignore[arg-type]


def _blocks(statement: ast.stmt) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The blocks of a statement by a name that tells them apart."""
    if isinstance(getattr(statement, "body", None), list):
        yield "body", statement.body  # type: ignore[attr-defined]
    for handler in getattr(statement, "handlers", []):
        yield f"except {id(handler)}", handler.body
    for case in getattr(statement, "cases", []):
        yield f"case {id(case)}", case.body
    for arm in ("orelse", "finalbody"):
        if block := getattr(statement, arm, None):
            yield arm, block


def _is_branch(statement: ast.stmt, arm: str) -> bool:
    """Whether a block may be left out; what a ``try`` tries is on the way."""
    return isinstance(statement, ast.If) or arm.startswith(("except", "case"))


def _calls(
    nodes: list[ast.AST] | list[ast.stmt] | list[ast.expr],
    path: Path,
    loops: tuple[Loop, ...],
    known: set[str],
) -> Iterator[Event]:
    for node in inside(nodes):
        if isinstance(node, ast.Call) and (found := _kind(node, known)):
            kind, who, via = found
            yield Event(kind, who, node, path, loops, via)


def _kind(call: ast.Call, known: set[str]) -> tuple[str, str, str] | None:
    """``(kind, who, via)`` of a call that matters."""
    name = last(call)
    held = call.func.value if isinstance(call.func, ast.Attribute) else None
    owner = root(held)
    first = dotted(call.args[0]) if call.args else ""
    if name in CLIPS:
        is_own = has_word(owner, FRAMEWORKS)
        return (
            None if is_own else ("clip", root(call.args[0] if call.args else None), "")
        )
    if held is None:
        return None
    if name == "backward":
        if isinstance(held, ast.Call) and last(held) == "scale" and held.args:
            return "backward", root(held.args[0]), dotted(held.func.value)  # type: ignore[attr-defined]
        has_loss = call.args and (has_word(owner, FRAMEWORKS) or not owner)
        return "backward", root(call.args[0]) if has_loss else owner, ""
    if name == "step" and has_word(owner, {"scaler"}):
        return "step", first, owner
    if name == "step":
        return _stepped(owner, known)
    if name in ("unscale_", "zero_grad", "eval", "train"):
        kinds = {"unscale_": "unscale", "zero_grad": "zero"}
        return kinds.get(name, name), first if name == "unscale_" else owner, ""
    return None


def _stepped(owner: str, known: set[str]) -> tuple[str, str, str] | None:
    """Tell an optimizer from a schedule by its name and by what made it."""
    if any(word.startswith("sched") for word in words(owner)):
        return "schedule", owner, ""
    if owner in known or has_word(owner, OPTIMIZER_WORDS):
        return "step", owner, ""
    return None
