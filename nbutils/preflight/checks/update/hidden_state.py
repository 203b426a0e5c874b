"""Part of R6: what a model remembers is in its state dict, and does not pile up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.ownership import captured, named, plain_attributes
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt

__all__ = ["Memory", "judge_memory"]

MAX_CANDIDATES = 12
NOTABLE = 1e-4
Key = tuple[str, str]


class Memory:
    """Plain attributes of the modules before the first step, and sizes at each step.

    Args:
        probe: The task under test; its model as it was found.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._first = dict(self._portraits())
        self._sizes: dict[str, list[int]] = {}
        self._graphs: set[str] = set()

    def note(self) -> None:
        """After a step: how long each container is."""
        for path, value in self._containers():
            self._sizes.setdefault(path, []).append(len(value))
            if _last_has_graph(value):
                self._graphs.add(path)

    def growing(self) -> list[str]:
        """Containers that grow at each step and hold tensors with their graph."""
        return [
            f"{path} ({sizes[0]} → {sizes[-1]})"
            for path, sizes in self._sizes.items()
            if path in self._graphs
            and len(sizes) > 2
            and all(a < b for a, b in pairwise(sizes))
        ]

    def changed(self) -> list[Key]:
        """Module and attribute of what is not as it was before the first step."""
        now = dict(self._portraits())
        return [key for key in now if not _same(now[key], self._first.get(key))]

    def _portraits(self) -> Iterator[tuple[Key, Any]]:
        for name, module in self._probe.model.named_modules():
            for key, value in plain_attributes(module):
                if key != "training":
                    yield (name, key), _portrait(value)
            for key in module._non_persistent_buffers_set:
                yield (name, key), _portrait(module._buffers.get(key))

    def _containers(self) -> Iterator[tuple[str, Any]]:
        for name, module in self._probe.model.named_modules():
            for key, value in plain_attributes(module):
                yield from _lists(f"{name}.{key}".lstrip("."), value)
        task = self._probe.task
        for label, part in (("forward", task.forward_function), ("loss", task.loss)):
            for name, value in captured(part):
                yield from _lists(f"{label}: {name}", value)


def judge_memory(probe: Probe, memory: Memory, claims: Claims) -> None:
    """Judge after some steps; leaves the model as it was found."""
    growing = memory.growing()
    if growing:
        claims.add(
            "warn",
            "memory leak: tensors with their graph pile up step by step",
            expected="what is kept over steps to be numbers, or detached tensors",
            actual=named(growing),
            fix="Append loss.item() or x.detach(); clear the list at each step.",
        )
    changed = memory.changed()[:MAX_CANDIDATES]
    if not changed:
        return
    lost, error = attempt(lambda: _lost(probe, changed))
    if error is not None or not lost:
        return
    change, names = lost
    claims.add(
        "warn",
        "the model keeps state that is not in its state dict",
        expected="the same outputs after save, new process and load",
        actual=f"outputs differ by {change:.1%} once only state_dict() is loaded: "
        f"{named(names)}",
        fix='Keep it with self.register_buffer("name", tensor), or give it in '
        "get_extra_state() and take it in set_extra_state().",
    )


def _lost(probe: Probe, changed: list[Key]) -> tuple[float, list[str]] | None:
    """By how much the outputs differ after a reload, and what is to blame."""
    model = probe.model
    with torch.no_grad():
        kept, again = _outputs(probe), _outputs(probe)
        if _distance(kept, again) > 0:
            return None  # no state to compare: another check tells
        values = {key: _value(model, key) for key in changed}
        state = {k: _copy(v) for k, v in model.state_dict().items()}

        def reload() -> None:
            probe.rewind()
            model.load_state_dict(state, strict=False)

        reload()
        change = _distance(kept, _outputs(probe))
        if change <= NOTABLE:
            return None
        names: list[str] = []
        for key, value in values.items():
            reload()
            _put(model, key, value)
            if _distance(kept, _outputs(probe)) < change * 0.5:
                names.append(".".join(part for part in key if part))
        probe.rewind()
    return change, names or [".".join(part for part in key if part) for key in changed]


def _outputs(probe: Probe) -> list[Tensor]:
    batch = probe.data.batch("train")
    seed_everything(probe.seed)
    outputs = probe.forward(probe.fresh(batch), training=False)
    return [t.clone() for _, t in tensors(outputs) if t.is_floating_point()]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    if [t.shape for t in a] != [t.shape for t in b]:
        return 1.0
    found = [0.0]
    for x, y in zip(a, b, strict=True):
        good = torch.isfinite(x) & torch.isfinite(y)
        if bool(good.any()):
            x, y = x[good].double(), y[good].double()
            scale = max(float(x.abs().max()), float(y.abs().max()), 1e-12)
            found.append(float((x - y).abs().max()) / scale)
    return max(found)


def _value(model: nn.Module, key: Key) -> Any:
    module = model.get_submodule(key[0])
    return _copy(getattr(module, key[1], None))


def _put(model: nn.Module, key: Key, value: Any) -> None:
    setattr(model.get_submodule(key[0]), key[1], value)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) is list:
        return [_copy(part) for part in value]
    if type(value) is dict:
        return {key: _copy(part) for key, part in value.items()}
    return value


def _portrait(value: Any, depth: int = 0) -> Any:
    """A copy of the parts that can be compared; objects by identity."""
    if isinstance(value, nn.Parameter):
        return id(value)
    if isinstance(value, Tensor):
        is_small = value.numel() <= 2**22 and value.layout == torch.strided
        return _copy(value) if is_small and not value.is_meta else id(value)
    if isinstance(value, np.ndarray):
        return value.copy() if value.dtype != object else id(value)
    if isinstance(value, (str, bytes, int, float, bool, complex, type(None))):
        return value
    if depth < 3 and isinstance(value, (list, tuple)) and len(value) < 1000:
        return [_portrait(part, depth + 1) for part in value]
    if depth < 3 and isinstance(value, Mapping) and len(value) < 1000:
        return {k: _portrait(part, depth + 1) for k, part in value.items()}
    return id(value)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return a == b or a != a


def _lists(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, dict)):
        yield path, value
        inner = value.items() if isinstance(value, dict) else ()
        for key, part in list(inner)[:100]:
            if isinstance(part, (list, dict)):
                yield f"{path}[{key!r}]", part


def _last_has_graph(value: Any) -> bool:
    if not value:
        return False
    last = list(value.values())[-1] if isinstance(value, dict) else value[-1]
    parts = last if isinstance(last, (list, tuple)) else (last,)
    return any(isinstance(p, Tensor) and p.grad_fn is not None for p in parts)
