"""Part of R6: every weight that the loss reaches belongs to the optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe
from nbutils.train.groups import LOSS_PREFIX

__all__ = ["Reach", "captured", "judge_ownership", "named", "plain_attributes"]

NUM_NAMED = 6
MAX_DEPTH = 4


@dataclass
class Reach:
    """Which leaves of the graph the loss reached, pass by pass.

    Attributes:
        before: Parameters of model and loss by name, before the first pass.
        passes: The leaves of each pass, kept alive: an id is good while it lives.
    """

    before: dict[str, nn.Parameter]
    passes: list[dict[int, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, probe: Probe) -> Reach:
        """Nothing reached yet."""
        return cls(_named_parameters(probe))

    def note(self, loss: Tensor) -> None:
        """Keep the leaves of a loss that was not backpropagated yet."""
        if len(self.passes) < 2:
            self.passes.append({id(leaf): leaf for leaf in _leaves(loss)})

    @property
    def lasting(self) -> dict[int, Tensor]:
        """Leaves of the last pass that the pass before it reached as well."""
        if not self.passes:
            return {}
        first, last = self.passes[0], self.passes[-1]
        return {key: leaf for key, leaf in last.items() if key in first}

    @property
    def fleeting(self) -> list[nn.Parameter]:
        """Parameters that a pass made for itself alone."""
        if len(self.passes) < 2:
            return []
        first, last = self.passes
        return [
            leaf
            for key, leaf in last.items()
            if key not in first and isinstance(leaf, nn.Parameter)
        ]


def judge_ownership(
    probe: Probe, owned: set[int], reach: Reach, claims: Claims
) -> None:
    """Compare what the optimizer owns with what is trainable, and what is reached."""
    resting = _resting_in_loss(probe, reach)
    trainable = {
        n: p for n, p in reach.before.items() if p.requires_grad and n not in resting
    }
    _judge_missing(probe, trainable, owned, reach, claims)
    now = _named_parameters(probe)
    _judge_late(reach, now, owned, claims)
    known = {id(p) for p in (*reach.before.values(), *now.values())} | owned
    _judge_unowned(probe, known, reach, claims)
    frozen = [n for n, p in reach.before.items() if not p.requires_grad]
    idle = [n for n in frozen if id(reach.before[n]) in owned]
    if idle:
        claims.show([("frozen, and in the optimizer", named(idle))])


def _resting_in_loss(probe: Probe, reach: Reach) -> set[str]:
    """Parameters of the loss that are not in its graph, or are in eval mode.

    Such as a network that compares features, which nobody means to train.
    """
    loss = probe.task.loss
    if not isinstance(loss, nn.Module):
        return set()
    reached = {key for found in reach.passes for key in found}
    return {
        f"{LOSS_PREFIX}{module_name}.{name}".replace("..", ".")
        for module_name, module in loss.named_modules()
        for name, p in module.named_parameters(recurse=False)
        if not module.training or id(p) not in reached
    }


def named(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def _named_parameters(probe: Probe) -> dict[str, nn.Parameter]:
    found = dict(probe.model.named_parameters())
    loss = probe.task.loss
    if isinstance(loss, nn.Module):
        found |= {LOSS_PREFIX + name: p for name, p in loss.named_parameters()}
    return found


def _judge_missing(
    probe: Probe,
    trainable: dict[str, nn.Parameter],
    owned: set[int],
    reach: Reach,
    claims: Claims,
) -> None:
    missing = [n for n, p in trainable.items() if id(p) not in owned]
    if not missing:
        claims.add("pass", "the optimizer owns every trainable parameter")
        return
    if "frozen on purpose" in probe.task.declares and len(missing) < len(trainable):
        claims.add("pass", f"{len(missing)} parameters rest on purpose, as declared")
        return
    reached = {key for found in reach.passes for key in found}
    owns_none = len(missing) == len(trainable) and not owned & reached
    claims.add(
        "fail" if owns_none else "warn",
        "the optimizer owns none of the model's parameters"
        if owns_none
        else f"the optimizer leaves out {len(missing)} trainable parameters",
        expected=f"all {len(trainable)} trainable parameters",
        actual=f"left out: {named(missing)}"
        + (f"; the optimizer owns {len(owned)} other tensors" if owns_none else ""),
        fix="Build it from the model that make_optimizer is given, after the last "
        "layer was replaced and not from a copy; set requires_grad=False on what "
        'should rest, or declare "frozen on purpose".',
    )


def _judge_late(
    reach: Reach,
    now: dict[str, nn.Parameter],
    owned: set[int],
    claims: Claims,
) -> None:
    """Parameters that forward made: the optimizer was built before and has none."""
    known = {id(p) for p in reach.before.values()}
    reached = {key for found in reach.passes for key in found}
    late = [
        name
        for name, p in now.items()
        if id(p) in reached and id(p) not in known and id(p) not in owned
    ]
    fleeting = [p for p in reach.fleeting if id(p) not in {id(q) for q in now.values()}]
    if late:
        is_new = any(name not in reach.before for name in late)
        claims.add(
            "fail",
            f"{len(late)} parameters appear after the first forward pass"
            if is_new
            else f"forward replaces {len(late)} parameters by new ones",
            expected="all parameters there before the optimizer is built",
            actual=f"{named(late)}: the loss reaches them, no optimizer owns them",
            fix="Create the layers in __init__, or run the model on one batch before "
            "the task is built; change a weight in place, under torch.no_grad().",
        )
    elif fleeting:
        shapes = ", ".join(str(tuple(p.shape)) for p in fleeting[:NUM_NAMED])
        claims.add(
            "fail",
            f"forward creates {len(fleeting)} new parameters at each call",
            expected="layers that are created once, in __init__",
            actual=f"new random weights of shape {shapes} in every pass; they are "
            "never trained",
            fix="Move the creation of the layer from forward to __init__.",
        )


def _judge_unowned(probe: Probe, known: set[int], reach: Reach, claims: Claims) -> None:
    """Lasting leaves that neither the model nor the optimizer knows."""
    strays = {key: leaf for key, leaf in reach.lasting.items() if key not in known}
    if not strays:
        return
    places = _places(probe, set(strays))
    told = {key: place for key, place in places.items() if not place.is_at_rest}
    resting = [place.path for place in places.values() if place.is_at_rest]
    if resting:
        claims.show([("get a gradient, and are taken to rest", named(resting))])
    if not told or "frozen on purpose" in probe.task.declares:
        return
    paths = [place.path for place in told.values()]
    count = sum(strays[key].numel() for key in told)
    claims.add(
        "warn",
        f"{len(paths)} weight tensors get a gradient but no optimizer owns them",
        expected="weights that are parameters of the model, so that they train, move "
        "to the device and are saved",
        actual=f"{count:,} weights outside of model.parameters(): {named(paths)}",
        fix="Put layers into nn.ModuleList or nn.ModuleDict, tensors into "
        "nn.Parameter, and helpers into the model (or make the loss an nn.Module); "
        "set requires_grad=False on what is frozen.",
    )


@dataclass(frozen=True)
class _Place:
    path: str
    is_at_rest: bool = False


def _places(probe: Probe, wanted: set[int]) -> dict[int, _Place]:
    """Where stray leaves live: in plain attributes, or in what functions captured."""
    found: dict[int, _Place] = {}
    task = probe.task
    for root in (probe.model, task.loss):
        for name, module in _modules(root):
            for key, value in plain_attributes(module):
                _search(value, f"{name}.{key}".lstrip("."), wanted, found, 0)
    for name, value in captured(task.forward_function):
        _search(value, f"forward: {name}", wanted, found, 0)
    for name, value in captured(task.loss):
        _search(value, f"loss: {name}", wanted, found, 0, points_rest=True)
    return found


def _modules(root: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(root, nn.Module):
        yield from root.named_modules()


def plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that torch does not manage."""
    managed = ("_parameters", "_buffers", "_modules")
    for key, value in vars(module).items():
        if key not in managed and "hooks" not in key:
            yield key, value


def _search(
    value: Any,
    path: str,
    wanted: set[int],
    found: dict[int, _Place],
    depth: int,
    *,
    points_rest: bool = False,
) -> None:
    """Look for the wanted tensors in ``value``.

    A bare tensor that a loss holds may be a point at which it differentiates, as in
    physics-informed networks: with ``points_rest`` it is no weight.
    """
    if isinstance(value, Tensor):
        if id(value) in wanted:
            is_point = points_rest and not isinstance(value, nn.Parameter)
            found.setdefault(id(value), _Place(path, is_point))
        return
    if depth > MAX_DEPTH:
        return
    if isinstance(value, nn.Module):
        for name, parameter in value.named_parameters():
            if id(parameter) in wanted:
                place = _Place(f"{path}.{name}", not value.training)
                found.setdefault(id(parameter), place)
        for key, part in plain_attributes(value):
            _search(part, f"{path}.{key}", wanted, found, depth + 1)
        return
    for key, part in _parts(value):
        place = f"{path}{key}"
        _search(part, place, wanted, found, depth + 1, points_rest=points_rest)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in list(value.items()))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif not _is_foreign(value):
        yield from ((f".{key}", part) for key, part in list(vars(value).items()))


def _is_foreign(value: Any) -> bool:
    """Objects without attributes, and those of libraries and of torch."""
    name = type(value).__module__.split(".")[0]
    has_none = not isinstance(getattr(value, "__dict__", None), dict)
    return has_none or isinstance(value, type) or name in ("torch", "builtins")


def captured(function: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a function's closure, of its object, and of its globals."""
    if function is None or isinstance(function, nn.Module):
        return
    while hasattr(function, "func"):  # functools.partial
        yield from ((f"argument {i}", a) for i, a in enumerate(function.args))
        yield from function.keywords.items()
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield type(owner).__name__, owner
    elif not inspect.isroutine(function):
        yield type(function).__name__, function
    function = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(function):
        yield from _cells(function)


def _cells(function: Any) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    for name in code.co_names:
        value = function.__globals__.get(name)
        if not inspect.ismodule(value) and not isinstance(value, type):
            yield name, value


def _leaves(loss: Tensor) -> list[Tensor]:
    """Every leaf that a backward pass would give a gradient to."""
    found: list[Tensor] = []
    seen: set[Any] = set()
    stack: list[Any] = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            found.append(leaf)
        stack.extend(following for following, _ in node.next_functions)
    return found
