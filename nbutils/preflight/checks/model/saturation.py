"""Part of R6: layers whose units are dead, saturated or all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.ownership import named
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.watch import ModuleTrace

__all__ = ["Units", "judge_dropout", "judge_units", "look_at_units"]

RECTIFIERS = {
    functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu,
    Tensor.relu_, functional.relu6, torch.clamp_min,
}  # fmt: skip
SQUASHERS = {
    torch.tanh: "tanh", Tensor.tanh: "tanh", functional.tanh: "tanh",
    torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid",
    functional.sigmoid: "sigmoid",
}  # fmt: skip
FLAT = 1e-3
SATURATED = 0.98
MIN_END = 0.1
MIN_UNITS = 6
CERTAIN_UNITS = 16
LARGE = 20.0
HEAVY_DROPOUT = 0.95


@dataclass(frozen=True)
class Units:
    """One activation of a pass.

    Args:
        name: The module that it ran in, and how often it had run there before.
        kind: ``relu``, ``tanh`` or ``sigmoid``.
        num_units: Units of the layer.
        num_dead: Units that are 0 for each sample and place.
        flat: Share of the outputs in the flat ends, and at the lower and upper end.
        largest: The largest magnitude before the activation.
        margin: By how many standard deviations all of it lies below 0.
    """

    name: str
    kind: str
    num_units: int
    num_dead: int
    flat: tuple[float, float, float]
    largest: float
    margin: float = 0.0

    @property
    def is_dead(self) -> bool:
        """Whether the layer gives nothing at all, and not by chance.

        A few units that answer to a few samples alike may all be below 0 at first.
        """
        is_certain = self.num_units >= CERTAIN_UNITS or self.margin > 1
        enough = self.num_units >= MIN_UNITS and is_certain
        return self.kind == "relu" and enough and self.num_dead == self.num_units

    @property
    def is_saturated(self) -> bool:
        """Whether nearly all sits at the two flat ends; a gate sits at one."""
        share, low, high = self.flat
        is_squashed = self.kind != "relu" and self.num_units >= MIN_UNITS
        is_squashed = is_squashed and self.largest > LARGE
        return is_squashed and share >= SATURATED and min(low, high) >= MIN_END


@dataclass
class _Activations(TorchFunctionMode):
    trace: Callable[[], ModuleTrace | None]
    found: list[Units] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kind = "relu" if func in RECTIFIERS else SQUASHERS.get(func)
        before = args[0] if args else (kwargs or {}).get("input")
        if kind is None or not isinstance(before, Tensor):
            return func(*args, **(kwargs or {}))
        inputs = _extremes(before)
        value = func(*args, **(kwargs or {}))
        if value.is_floating_point() and value.ndim:
            self.found.append(self._measured(kind, value.detach(), *inputs))
        return value

    def _measured(
        self, kind: str, value: Tensor, largest: float, margin: float
    ) -> Units:
        trace = self.trace()
        place = trace.running[-1][0] if trace and trace.running else ""
        count = sum(units.name.split(" #")[0] == place for units in self.found)
        name = f"{place} #{count + 1}" if count else place
        axis = 1 if value.ndim in (4, 5) else -1
        rows = value.movedim(axis, -1).flatten(0, -2) if value.ndim > 1 else value[None]
        num_units = rows.shape[-1]
        if not rows.numel():
            return Units(name, kind, 0, 0, (0.0, 0.0, 0.0), 0.0)
        if kind == "relu":
            num_dead = int((rows == 0).all(0).sum())
            ends = (0.0, 0.0, 0.0)
            return Units(name, kind, num_units, num_dead, ends, largest, margin)
        floor = -1.0 if kind == "tanh" else 0.0
        low = float((rows < floor + FLAT).float().mean())
        high = float((rows > 1.0 - FLAT).float().mean())
        return Units(name, kind, num_units, 0, (low + high, low, high), largest)


def _extremes(value: Tensor) -> tuple[float, float]:
    """The largest magnitude, and by how many deviations all lies below 0."""
    value = value.detach()
    if not value.numel() or not value.is_floating_point():
        return 0.0, 0.0
    largest = float(value.abs().max())
    spread = float(value.float().std(unbiased=False))
    return largest, -float(value.max()) / max(spread, 1e-12 * largest, 1e-30)


def look_at_units(probe: Probe) -> dict[str, Units]:
    """The activations of the first batch in train mode, by name."""
    activations = _Activations(lambda: probe.trace)

    def call() -> None:
        with torch.no_grad(), activations:
            probe.forward(probe.fresh(probe.data.batch("train")), training=True)

    attempt(call)
    return {units.name: units for units in activations.found}


def judge_units(
    before: dict[str, Units], after: dict[str, Units], claims: Claims
) -> None:
    """Layers that were dead or saturated, and are after some steps."""
    pairs = [(before[name], units) for name, units in after.items() if name in before]
    dead = [b for b, a in pairs if a.is_dead and b.is_dead]
    died = [a for b, a in pairs if a.is_dead and not b.is_dead]
    if dead or died:
        places = [f"{u.name or 'the model'} ({u.num_units} units)" for u in dead + died]
        claims.add(
            "warn",
            "dead ReLU layers: every unit gives 0 for every sample",
            expected="units that answer to some samples",
            actual=f"{named(places)}, over the whole batch"
            + (" and after the first steps" if dead else ", since the first steps"),
            fix="What lies before them gets no gradient. Look at the biases and the "
            "scale of the weights there, lower lr, or use LeakyReLU or GELU.",
        )
    flat = [a for b, a in pairs if a.is_saturated and b.is_saturated]
    if flat:
        worst = max(flat, key=lambda units: units.largest)
        claims.add(
            "warn",
            f"saturated {worst.kind}: nearly all outputs lie in the flat ends",
            expected="inputs of the activation of about unit size",
            actual=f"{named([units.name or 'the model' for units in flat])}: "
            f"{worst.flat[0]:.1%} of the outputs at the ends, inputs up to "
            f"{worst.largest:.3g}",
            fix="Scale the data to about unit size, or make the initial weights "
            "smaller: the gradient through a flat end is 0.",
        )
    some = [(u.name, u) for _, u in pairs if u.num_dead and not u.is_dead]
    claims.show(
        (f"units at 0 in {name}", f"{u.num_dead} of {u.num_units}")
        for name, u in some[:6]
    )


def judge_dropout(probe: Probe, claims: Claims) -> None:
    """A dropout that keeps next to nothing: the share to keep was given, perhaps."""
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    heavy = [
        f"{name} (p={module.p:g})"
        for name, module in probe.model.named_modules()
        if isinstance(module, kinds) and module.p > HEAVY_DROPOUT
    ]
    if heavy:
        claims.add(
            "warn",
            "dropout drops nearly everything",
            expected="p, the share that is dropped, of at most about 0.9",
            actual=named(heavy),
            fix="p is the share to drop, not the share to keep.",
        )
