"""Part of R4: a sample's output does not depend on its companions in the batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import batch_size, tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.resting import CHOOSING
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt

__all__ = ["distance", "judge_companions"]

SURE = {"fp32": 1e-2}
NOTABLE = {"fp32": 1e-3}
HALF_SURE, HALF_NOTABLE = 1e-1, 3e-2
SIZES = (5, 7)
CHEAP_S = 1.0
NOT_JUDGED = "whether samples are kept apart"


@dataclass(frozen=True)
class _Pair:
    """Two batches that share one sample, and where in them it lies."""

    one: Any
    other: Any
    row: int


def judge_companions(probe: Probe, claims: Claims) -> None:
    """The same sample beside different companions, at both ends of the batch."""
    if "samples interact" in probe.task.declares:
        claims.add("pass", "samples interact, as declared")
        return
    if probe.facts.get("random in eval"):
        claims.add("skip", f"{NOT_JUDGED}: outputs are random in eval mode")
        return
    found, error = attempt(lambda: _pairs(probe))
    if error is not None or not found[0]:
        claims.add("skip", f"{NOT_JUDGED}: no batches of one form to compare")
        return
    pairs, larger = found
    paths, error = attempt(lambda: _with_rows(probe, pairs[0].one, larger))
    if error is not None or not paths:
        claims.add("skip", f"{NOT_JUDGED}: no output has a row for each sample")
        return
    start = time.perf_counter()
    differences = [_difference(probe, p, paths, training=False) for p in pairs]
    took = time.perf_counter() - start
    worst = max(differences)
    if worst > _notable(probe):
        _note(probe, pairs[differences.index(worst)], worst, claims)
        return
    if _judge_place(probe, pairs, paths, claims):
        return
    claims.add("pass", "eval mode: samples do not see each other")
    if took < CHEAP_S:
        _show_training(probe, pairs, paths, claims)


def _judge_place(
    probe: Probe, pairs: list[_Pair], paths: list[str], claims: Claims
) -> bool:
    """Whether the same two samples in the other order give other outputs."""
    if len(pairs) < 2 or pairs[0].row == pairs[1].row:
        return False
    if pairs[0].one is pairs[1].one:
        return False  # altered rows of one batch: what else belongs to one is unknown
    last, first = pairs[0], pairs[1]
    rows = zip(tensors(first.one), tensors(last.one), strict=True)
    whole = batch_size(first.one)
    is_same = all(
        torch.equal(a[first.row], b[last.row])
        for (_, a), (_, b) in rows
        if a.ndim and b.ndim and a.shape[0] == b.shape[0] == whole
    )
    if not is_same or _forms(first.one) != _forms(last.one):
        return False  # a collate that sorts or draws
    one = _outputs(probe, first.one, training=False)
    other = _outputs(probe, last.one, training=False)
    both = [p for p in paths if p in one and p in other]
    worst = max(
        (distance(one[p][first.row], other[p][last.row]) for p in both), default=0.0
    )
    if worst <= _notable(probe) or _draws(probe, first.one, both):
        return False
    claims.add(
        "warn",
        "eval mode: a sample's output depends on its place in the batch",
        expected="the same output in any row",
        actual=f"the output of one sample differs by {worst:.1%} between the first "
        "row and the last, beside the same companion",
        fix="Look for positions, weights or a recurrence along dim 0: position tables "
        "of (time, batch, width) code are added along the batch where batch_first "
        'is meant. If it is meant, declare "samples interact".',
    )
    return True


def _draws(probe: Probe, batch: Any, paths: list[str]) -> bool:
    """Whether outputs in eval mode hang on the seed: each row has its own numbers."""
    one = _forward(probe, batch, training=False)
    other = _forward(probe, batch, training=False, seed=probe.seed + 1)
    return any(distance(one[p], other[p]) > _notable(probe) for p in paths)


def _notable(probe: Probe) -> float:
    return NOTABLE.get(probe.precision.kind, HALF_NOTABLE)


def _pairs(probe: Probe) -> tuple[list[_Pair], Any]:
    """Pairs, and a larger batch of the same samples; none where there is none.

    Batches of two from an indexed split; else one batch, with the rest made alike.
    """
    data = probe.data.samples("train")
    if data is None or len(data) < 2 or probe.data.configured_size < 2:
        return _altered_pairs(probe), None
    target, one, other = data[0], data[1], data[len(data) - 1]
    make = probe.data.collate
    first = _Pair(make([target, one]), make([target, other]), 0)
    last = _Pair(make([one, target]), make([other, target]), 1)
    alike = [p for p in (last, first) if _forms(p.one) == _forms(p.other)]
    if not all(map(_shares_row, alike)):  # a collate that draws, as masks are
        return _altered_pairs(probe), None
    return alike, make([target, one, other])


def _shares_row(pair: _Pair) -> bool:
    """Whether the two batches hold one and the same sample at the row."""
    found = zip(tensors(pair.one), tensors(pair.other), strict=True)
    return all(
        torch.equal(a[pair.row], b[pair.row])
        for (_, a), (_, b) in found
        if a.ndim and a.shape[0] == batch_size(pair.one)
    )


def _altered_pairs(probe: Probe) -> list[_Pair]:
    batch = probe.data.batch("train")
    size = batch_size(batch)
    if size < 3:
        return []
    found: list[_Pair] = []
    for row in (0, size - 1):
        order = [row if i == row else size // 2 for i in range(size)]
        found.append(_Pair(batch, _reordered(batch, order, size), row))
    return found


def _reordered(batch: Any, order: list[int], size: int) -> Any:
    """The batch with rows chosen by ``order``, in all tensors alike."""
    twin = copy.deepcopy(batch)
    index = torch.tensor(order)
    for _, tensor in tensors(twin):
        if tensor.ndim and tensor.shape[0] == size:
            tensor.copy_(tensor[index])
    return twin


def _forms(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for _, tensor in tensors(batch)]


def _with_rows(probe: Probe, batch: Any, larger: Any) -> list[str]:
    """Outputs whose first axis alone follows the batch size: these have rows."""
    few = _outputs(probe, batch, training=False)
    if larger is None:
        size = batch_size(batch)
        return [path for path, tensor in few.items() if size not in tensor.shape[1:]]
    many = _outputs(probe, larger, training=False)
    return [p for p in few if p in many and few[p].shape[1:] == many[p].shape[1:]]


def _difference(
    probe: Probe, pair: _Pair, paths: list[str], *, training: bool
) -> float:
    """Largest relative difference of the shared row."""
    one = _outputs(probe, pair.one, training=training)
    other = _outputs(probe, pair.other, training=training)
    both = [p for p in paths if p in one and p in other]
    found = [distance(one[p][pair.row], other[p][pair.row]) for p in both]
    return max(found, default=0.0)


def _outputs(probe: Probe, batch: Any, *, training: bool) -> dict[str, Tensor]:
    """Outputs with as many rows as the batch has; BatchNorm always as in eval."""
    probe.rewind()
    return _forward(probe, batch, training=training)


def _forward(
    probe: Probe, batch: Any, *, training: bool, seed: int | None = None
) -> dict[str, Tensor]:
    seed_everything(probe.seed if seed is None else seed)
    model = probe.model.train(training)
    if training:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    with torch.no_grad(), probe.precision.autocast():
        outputs = probe.task.forward(model, probe.fresh(batch))
    size = batch_size(batch)
    return {
        path: tensor.detach()
        for path, tensor in tensors(outputs)
        if (tensor.is_floating_point() or tensor.is_complex())
        and tensor.ndim
        and tensor.shape[0] == size
    }


def _show_training(
    probe: Probe, pairs: list[_Pair], paths: list[str], claims: Claims
) -> None:
    """In train mode mixing is often meant: minibatch statistics, mixup, memory."""
    found, error = attempt(
        lambda: max(_difference(probe, p, paths, training=True) for p in pairs)
    )
    if error is None and found > _notable(probe):
        text = f"an output differs by {found:.1%} beside other samples"
        claims.show([("samples interact in train mode, BatchNorm apart", text)])


def _note(probe: Probe, pair: _Pair, worst: float, claims: Claims) -> None:
    sure = SURE.get(probe.precision.kind, HALF_SURE)
    place, error = attempt(lambda: _place(probe, pair))
    reason, _ = attempt(lambda: _reason(probe))
    where, module = place if error is None else ("", None)
    is_time = _reads_batch_as_time(module)
    is_fault = worst > sure and not reason and probe.config.data.shuffle
    title = "a sample's output depends on its companions in the batch"
    if is_time:
        title += f": '{where}' reads the batch as time (batch_first=False)"
    name = f"'{where}'" if where else "the model"
    told = f"; it begins in {name} ({type(module).__name__})" if module else ""
    told += f"; {reason}" if reason else ""
    claims.add(
        "fail" if is_fault else "warn",
        f"eval mode: {title}",
        expected="the same output beside any other sample",
        actual=f"the output of one sample differs by {worst:.1%} beside another{told}",
        fix="Set batch_first=True, or hand it (time, batch, features)."
        if is_time
        else "Look for a reduction, softmax or reshape over dim 0, or statistics of "
        'the batch in eval mode; if it is meant, declare "samples interact".',
    )


def _reads_batch_as_time(module: nn.Module | None) -> bool:
    if module is None:
        return False
    inner = [module, *module.children()]
    return any(getattr(part, "batch_first", None) is False for part in inner)


def _place(probe: Probe, pair: _Pair) -> tuple[str, nn.Module | None]:
    """The innermost module whose inputs agree in the row and whose outputs do not."""
    passes = []
    for batch in (pair.one, pair.other):
        probe.rewind()  # before the hooks, which it would remove
        with _rows(probe.model, batch_size(batch), pair.row) as seen:
            _forward(probe, batch, training=False)
        passes.append(seen)
    for (name, module, given, got), (_, _, given2, got2) in zip(*passes, strict=False):
        if not given or not got:
            continue
        if _agree(given, given2) and not _agree(got, got2):
            return name, module
    return "", None


def _agree(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        distance(a, b) <= 1e-5 for a, b in zip(one, other, strict=True)
    )


Row = tuple[str, nn.Module, list[Tensor], list[Tensor]]


@contextmanager
def _rows(model: nn.Module, size: int, row: int) -> Iterator[list[Row]]:
    """One row of what each module call is given and gives, in the order they end."""
    seen: list[Row] = []

    def picked(value: Any) -> list[Tensor]:
        found = [t for _, t in tensors(value)]
        found = [t for t in found if t.ndim and t.shape[0] == size]
        return [t[row].clone() for t in found if t.is_floating_point()]

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen.append((name, module, picked(args), picked(output)))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Shapes(TorchFunctionMode):
    """Shapes of all results of a pass, and whether it chooses by value."""

    def __post_init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.chooses = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        self.chooses = self.chooses or func in CHOOSING
        if isinstance(value, Tensor):
            self.shapes.append(tuple(value.shape))
        return value


def _reason(probe: Probe) -> str:
    """What a batch may be mixed for on purpose; empty if nothing is seen."""
    for name, module in probe.model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            return f"'{name}' keeps no running statistics (track_running_stats=False)"
    data = probe.data.samples("train")
    if data is None:
        return "the data is a stream"
    if len(data) < max(SIZES):
        return "the data is too small to tell why"
    found: list[_Shapes] = []
    for size in SIZES:
        shapes = _Shapes()
        batch = probe.data.collate([data[i] for i in range(size)])
        with shapes:
            _outputs(probe, batch, training=False)
        found.append(shapes)
    if found[0].chooses:
        return "the model chooses by value, as experts with a capacity do"
    few, many = (s.shapes for s in found)
    is_pairwise = any(
        a.count(SIZES[0]) > 1 and b.count(SIZES[1]) > a.count(SIZES[1])
        for a, b in zip(few, many, strict=False)
    )
    return "each sample is compared with each, as attention does" * is_pairwise


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the larger magnitude; finite places only."""
    if a.shape != b.shape:
        return 1.0
    a, b = a.to(torch.complex128), b.to(torch.complex128)
    kept = torch.isfinite(a) & torch.isfinite(b)
    if not bool(kept.any()):
        return 0.0
    a, b = a[kept], b[kept]
    scale = max(float(a.abs().max()), float(b.abs().max()), 1e-12)
    return float((a - b).abs().max()) / scale
