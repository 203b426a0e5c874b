"""Part of R3: a stream ends, and gives new samples till then."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Iterator
from typing import Any

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.column import digest
from nbutils.preflight.lints.syntax import literal
from nbutils.preflight.pieces import Piece
from nbutils.preflight.probe import Probe, attempt

__all__ = ["is_endless", "judge_end"]

MAX_SAMPLES = 2000
MAX_SECONDS = 0.3
MIN_REPEATS = 4
LIMITERS = ("islice", "zip", "takewhile", "next")
ENDINGS = (ast.Break, ast.Return, ast.Raise)


def judge_end(probe: Probe, split: str, data: Any, claims: Claims) -> None:
    """Judge the stream of a split: endless by its source, or going round within."""
    held = vars(data).values() if hasattr(data, "__dict__") else ()
    if any(isinstance(value, Iterator) for value in held):
        return  # reading would use it up
    pieces = [p for p in probe.facts.get("pieces", ()) if _belongs(p, data)]
    prints, has_ended = _read(data)
    if has_ended:
        _judge_rounds(split, prints, claims)
        return
    others = [piece for piece in pieces if not is_endless(piece)]
    if len(others) < len(pieces) and not any(map(_is_limited, others)):
        _tell_endless(probe, split, len(prints), claims)


def _belongs(piece: Piece, data: Any) -> bool:
    held = vars(data).values() if hasattr(data, "__dict__") else ()
    return piece.live is data or any(piece.function is value for value in held)


def _read(data: Any) -> tuple[list[int], bool]:
    """What some samples look like, and whether there are no more."""
    prints: list[int] = []
    deadline = time.perf_counter() + MAX_SECONDS
    stream, error = attempt(lambda: iter(data))
    while error is None and len(prints) < MAX_SAMPLES:
        sample, error = attempt(lambda: next(stream, _read))
        if error is None and sample is _read:
            return prints, True
        prints.append(hash(tuple(digest(t) for _, t in tensors(sample))))
        if time.perf_counter() > deadline:
            break
    return prints, False


def _judge_rounds(split: str, prints: list[int], claims: Claims) -> None:
    """The whole stream was seen: each sample many times over is no epoch."""
    num_distinct = len(set(prints))
    if split != "train" or not num_distinct:
        return
    fewest = min(prints.count(value) for value in set(prints))
    if num_distinct < 2 or fewest < MIN_REPEATS:
        return
    claims.add(
        "warn",
        "the stream repeats the same few samples within an epoch",
        expected="samples that differ",
        actual=f"{num_distinct} distinct samples, each at least {fewest} times among "
        f"the {len(prints)} of an epoch",
        fix="Look at __iter__: does each shard begin where the last one ended?",
    )


def _tell_endless(probe: Probe, split: str, num_read: int, claims: Claims) -> None:
    train = probe.config.train
    if split == "train" and (train.max_steps or train.max_hours):
        return
    what = "an epoch never ends" if split == "train" else "the validation never ends"
    fix = "Set max_steps, or end the stream after one pass over the data."
    if split != "train":
        fix = "End the stream after one pass, for example with itertools.islice."
    claims.add(
        "warn",
        f"the stream of '{split}' is endless: {what}",
        expected="a stream that ends, or max_steps"
        if split == "train"
        else "a stream that ends",
        actual=f"no end after {num_read} samples, and its loop has none",
        fix=fix,
    )


def is_endless(piece: Piece) -> bool:
    """Whether a generator has a loop without an end around what it yields.

    Example: ``while True: yield ...``, or ``itertools.cycle(...)`` handed on.
    """
    return any(_is_endless_node(node, piece) for node in piece.nodes)


def _is_endless_node(node: ast.AST, piece: Piece) -> bool:
    if isinstance(node, ast.While):
        return literal(node.test) in (True, 1) and _goes_on(node)
    if isinstance(node, ast.For):
        return _is_endless_call(node.iter, piece) and _goes_on(node)
    if isinstance(node, (ast.Return, ast.YieldFrom)):
        return _is_endless_call(node.value, piece)
    return False


def _goes_on(loop: ast.While | ast.For) -> bool:
    inner = list(_parts(loop))
    yields = any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in inner)
    return yields and not any(isinstance(node, ENDINGS) for node in inner)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    return itertools.islice(ast.walk(node), 1, None)


def _is_endless_call(node: ast.AST | None, piece: Piece) -> bool:
    if not isinstance(node, ast.Call):
        return False
    found = piece.resolve(node.func)
    if found is itertools.repeat:
        return len(node.args) == 1
    return found in (itertools.count, itertools.cycle)


def _is_limited(piece: Piece) -> bool:
    """Whether something in it may end a stream that it is given."""
    names = [
        getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        for node in piece.nodes
        if isinstance(node, ast.Call)
    ]
    return any(name in LIMITERS for name in names)
