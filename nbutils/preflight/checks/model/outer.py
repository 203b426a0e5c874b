"""Parts of R4: a metric compares outputs with their own targets, and takes any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import tensors
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.model.metric_trials import evaluated, split_of
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_one_sided", "judge_outer"]

MAX_CLASSES = 12
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
ELEMENTWISE = frozenset(
    """
    sub rsub eq ne lt le gt ge mul div true_divide isclose
    __sub__ __rsub__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __mul__ __rmul__
    __truediv__
    """.split()  # noqa: SIM905  a list would take as many lines as words
)


def judge_outer(probe: Probe, claims: Claims) -> None:
    """Outputs ``(B, 1)`` and targets ``(B,)`` give a table of ``(B, B)``.

    A table of a tensor against itself, as of pairs with one label, is meant.
    """
    given = probe.task.metrics
    named = given if isinstance(given, Mapping) else {"": given}
    for name, metric in named.items():
        if not callable(metric) or hasattr(metric, "compute"):
            continue
        found: list[Shapes] = []
        written: list[str] = []
        watched = {name: _watched(metric, found, written)}
        if not name:
            watched = watched[name]
        attempt(lambda m=watched: evaluated(probe, m))
        called = name or getattr(metric, "__name__", "metric")
        if found:
            _tell(called, found[0], claims)
        if written:
            _tell_written(called, written[0], claims)


def judge_one_sided(probe: Probe, claims: Claims) -> None:
    """A model may give one class to all samples, at its beginning above all."""
    batch = probe.data.batch(split_of(probe))
    probe.rewind()
    with torch.no_grad():
        outputs = probe.forward(probe.fresh(batch), training=False)
    is_table = isinstance(outputs, Tensor) and outputs.ndim == 2
    if not is_table or not 2 <= outputs.shape[1] <= MAX_CLASSES:
        return
    for number in range(outputs.shape[1]):
        answers = torch.full_like(outputs, -5.0)
        answers[:, number] = 5.0
        _, error = attempt(
            lambda a=answers: evaluated(
                probe, probe.task.metrics, forward=lambda _model, _batch: a.clone()
            )
        )
        if isinstance(error, ZeroDivisionError):
            claims.add(
                "warn",
                "a metric divides by zero where all samples get one class",
                expected="a number, or NaN, for any outputs",
                actual=f"all outputs for class {number}: {quote(error)}",
                fix="Divide by max(count, 1); or use torchmetrics, which sums over "
                "the split before it divides.",
            )
            return


def _watched(
    metric: Callable[..., Any], found: list[Shapes], written: list[str]
) -> Callable[..., Any]:
    def measure(outputs: Any, batch: Any) -> Any:
        before = {path: t.clone() for path, t in tensors(batch)}
        with _Outer(found):
            value = metric(outputs, batch)
        after = dict(tensors(batch))
        written.extend(
            path
            for path, kept in before.items()
            if path in after
            and not torch.equal(kept, after[path])
            and not bool((kept != kept).any())
        )
        return value

    return measure


class _Outer(TorchFunctionMode):
    """Notes operations of a column ``(B, 1)`` with a row ``(B,)`` of another tensor."""

    def __init__(self, found: list[Shapes]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in ELEMENTWISE and len(args) > 1:
            self._look(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _look(self, a: Any, b: Any) -> None:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return
        column, row = (a, b) if a.ndim > b.ndim else (b, a)
        size = row.shape[0] if row.ndim == 1 else 0
        if size < 2 or column.shape != (size, 1) or _is_one(a, b):
            return
        self._found.append((tuple(column.shape), tuple(row.shape)))


def _is_one(a: Tensor, b: Tensor) -> bool:
    """Whether both are views of one tensor, or hold the same values."""
    is_view = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return is_view or torch.equal(a.detach().reshape(-1), b.detach().reshape(-1))


def _tell_written(name: str, path: str, claims: Claims) -> None:
    claims.add(
        "warn",
        f"metric '{name}' changes the batch: it writes into '{path}' in place",
        expected="a batch that is as it was after the metric",
        actual=f"'{path}' holds other values; metrics after it, and data kept in "
        "memory, get those",
        fix="Work on a copy in the metric: labels = batch[1].clone().",
    )


def _tell(name: str, shapes: Shapes, claims: Claims) -> None:
    size = shapes[1][0]
    claims.add(
        "warn",
        f"metric '{name}' compares every output with every target: shapes are "
        "broadcast",
        expected="each output compared with its own target",
        actual=f"{shapes[0]} and {shapes[1]} are broadcast to {(size, size)}",
        fix="Use outputs.squeeze(-1), or targets.unsqueeze(-1), in the metric.",
    )
