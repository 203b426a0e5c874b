"""R17: values lie where their unit puts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.column import Column
from nbutils.preflight.probe import Probe

__all__ = ["CHECK"]

UNITS: dict[str, tuple[float, float]] = {
    "prob": (0.0, 1.0),
    "fraction": (0.0, 1.0),
    "percent": (0.0, 100.0),
    "mask": (0.0, 1.0),
    "count": (0.0, math.inf),
}
ANGLES = ("rad", "deg")
MIN_READ = 16
TURN = 2 * math.pi
SLACK = 1e-4


def run(probe: Probe, claims: Claims) -> None:
    """Judge declared units first, then names that tell theirs."""
    declared = probe.task.extras.get("units") or {}
    if not isinstance(declared, Mapping):
        claims.add(
            "warn",
            "extras['units'] is no mapping",
            expected='{"angle": "rad", "level": (-80, 0)}',
            actual=type(declared).__name__,
        )
        return
    for split in ("train", "val", "test"):
        found = probe.data.table(split) if probe.data.has(split) else None
        for path, column in (found.columns if found else {}).items():
            values = _values(column)
            if values is None:
                continue
            if path in declared:
                _judge_declared(split, path, declared[path], values, claims)
            else:
                _judge_name(split, path, values, claims)
    if declared:
        known = probe.data.table("train")
        _judge_paths(declared, list(known.columns) if known else [], claims)
    claims.add("pass", f"{len(declared)} units declared, none contradicted")


def _judge_paths(declared: Mapping[str, Any], paths: list[str], claims: Claims) -> None:
    missing = [path for path in declared if path not in paths]
    if missing and paths:
        claims.add(
            "warn",
            f"extras['units'] names '{missing[0]}', which no sample has",
            expected=f"one of {', '.join(paths[:12])}",
            actual=", ".join(missing),
            fix="Correct the path.",
        )


def _values(column: Column) -> Tensor | None:
    """Every finite number at a path, flat."""
    kept = [value.reshape(-1) for value in column.kept]
    if not kept or len(kept) < min(MIN_READ, len(column)):
        return None
    values = torch.cat([value.double() for value in kept])
    values = values[torch.isfinite(values)]
    return values if values.numel() else None


def _judge_declared(
    split: str, path: str, unit: Any, values: Tensor, claims: Claims
) -> None:
    low, high = float(values.min()), float(values.max())
    if unit in ANGLES:
        _judge_angle(split, path, unit, values, claims)
        return
    allowed = UNITS.get(unit) if isinstance(unit, str) else unit
    if allowed is None or len(allowed) != 2:
        known = ", ".join([*ANGLES, *UNITS])
        claims.add(
            "warn",
            f"extras['units']['{path}'] is no known unit",
            expected=f"one of {known}, or a pair (low, high)",
            actual=repr(unit),
        )
        return
    slack = SLACK * max(abs(low), abs(high))
    if low < allowed[0] - slack or high > allowed[1] + slack:
        claims.add(
            "fail",
            f"'{path}' of {split} leaves its declared range",
            expected=f"{allowed[0]:g} to {allowed[1]:g}"
            + (f" ({unit})" if isinstance(unit, str) else ""),
            actual=f"{low:.6g} to {high:.6g}",
            fix="Convert the values where they are read, or correct extras['units'].",
        )
        return
    claims.add("pass", f"'{path}' of {split} keeps its range")


def _judge_angle(
    split: str, path: str, unit: str, values: Tensor, claims: Claims
) -> None:
    largest = float(values.abs().max())
    is_many = len(torch.unique(values)) >= MIN_READ
    if unit == "rad" and largest > 2 * TURN:
        _note_angle(split, path, "radians", "degrees", largest, claims)
    elif unit == "deg" and 0 < largest <= TURN * (1 + SLACK) and is_many:
        _note_angle(split, path, "degrees", "radians", largest, claims)


def _note_angle(
    split: str, path: str, wanted: str, got: str, largest: float, claims: Claims
) -> None:
    call = "torch.deg2rad" if wanted == "radians" else "torch.rad2deg"
    claims.add(
        "warn",
        f"'{path}' of {split} looks like {got}, it should be {wanted}",
        expected="at most 2π in size" if wanted == "radians" else "up to 180 or 360",
        actual=f"values up to {largest:.4g} in size",
        fix=f"Convert with {call}, or declare extras={{'units': {{'{path}': "
        f"'{'deg' if got == 'degrees' else 'rad'}'}}}}.",
    )


def _judge_name(split: str, path: str, values: Tensor, claims: Claims) -> None:
    """Names that tell a unit, and values that are surely of another."""
    name = path.rpartition(".")[2].lower()
    largest = float(values.abs().max())
    if len(torch.unique(values)) < MIN_READ:
        return
    if name.endswith(("_rad", "_radians")) and 90 < largest <= 360:
        _note_angle(split, path, "radians", "degrees", largest, claims)
    elif name.endswith(("_deg", "_degrees")) and _is_turn(largest):
        _note_angle(split, path, "degrees", "radians", largest, claims)
    elif name in ("prob", "probs", "probability", "probabilities"):
        low, high = float(values.min()), float(values.max())
        if low < -SLACK or high > 1 + SLACK:
            claims.add(
                "warn",
                f"'{path}' of {split} holds no probabilities",
                expected="0 to 1",
                actual=f"{low:.4g} to {high:.4g}",
                fix="Apply softmax or sigmoid, or call the field what it is.",
            )


def _is_turn(largest: float) -> bool:
    """Whether values reach just to a half or a whole turn in radians."""
    return any(0.9 * end < largest <= end * (1 + SLACK) for end in (math.pi, TURN))


CHECK = Check(
    id="R17",
    title="Values keep their units and ranges",
    why="Degrees that are taken for radians give numbers of the right shape.",
    run=run,
    needs=("R3",),
)
