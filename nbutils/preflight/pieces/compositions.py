"""S5: a loss that is given what another step already did, or should have done."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import torch

from nbutils.preflight.lints.syntax import argument, last
from nbutils.preflight.pieces.piece import Note, Piece, Rule
from nbutils.preflight.pieces.torch_calls import inner_value, loss_name, probability

__all__ = ["RULE"]

LOGITS = {"cross_entropy", "CrossEntropyLoss"}
LOGITS |= {"binary_cross_entropy_with_logits", "BCEWithLogitsLoss"}
LOGS = {"nll_loss", "NLLLoss", "kl_div", "KLDivLoss"}


def _run(piece: Piece) -> Iterator[Note]:
    for call in piece.calls():
        name = loss_name(piece, call)
        first = argument(call, "input", 0)
        made = probability(piece, first) if name in LOGITS | LOGS else ""
        if made and name in LOGITS:
            yield Note(
                line=call.lineno,
                title=f"{made} before {name}: the loss wants logits, it gets "
                "probabilities",
                expected="the outputs of the last layer as they are",
                actual=f"{ast.unparse(call)[:100]}: {made} is applied twice",
                fix=f"Leave out the {made}; {name} does it.",
            )
        elif made:
            yield Note(
                line=call.lineno,
                title=f"{name} wants log-probabilities, it gets probabilities",
                expected="log_softmax before the loss",
                actual=ast.unparse(call)[:100],
                fix="Use log_softmax in the place of softmax.",
            )
        else:
            yield from _log_of(piece, call)


def _log_of(piece: Piece, call: ast.Call) -> Iterator[Note]:
    """``softmax(x).log()`` without an epsilon."""
    if last(call) != "log":
        return
    is_function = piece.resolve(call.func) is torch.log
    is_method = isinstance(call.func, ast.Attribute) and not call.args
    inner = call.args[0] if is_function and call.args else None
    if inner is None and is_method and not is_function:
        inner = call.func.value  # type: ignore[union-attr]
    made = probability(piece, inner_value(piece, inner)) if inner is not None else ""
    if made:
        stable = "log_softmax" if made == "softmax" else "logsigmoid"
        yield Note(
            line=call.lineno,
            title=f"log of a {made}: minus infinity as soon as a probability rounds "
            "to 0",
            expected=f"F.{stable}, which is finite for all logits",
            actual=ast.unparse(call)[:100],
            fix=f"Use F.{stable}.",
        )


RULE = Rule(id="S5.composition", run=_run, roles=("loss", "forward", "model"))
