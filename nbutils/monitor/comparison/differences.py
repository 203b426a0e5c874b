"""What differs between runs: settings, machines, model, code and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbutils.monitor.comparison.reading import ComparedRun

__all__ = ["NOT_KNOWN", "data_note", "differing", "environment", "fingerprints"]

NOT_KNOWN = "-"
"""Where a run does not say."""

_PLACE = ("runs_dir", "run_name")
_MACHINE = ("torch", "python", "platform", "processor", "threads")
_UNITED = "model, loss, data and code in one"


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: a value for each run.

    Where a run lies and what it is called differ anyway, and are left out.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return _unequal({n: [run.settings.get(n) for run in runs] for n in names}, _PLACE)


def environment(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Device, number format, versions and machine where they differ."""
    table: dict[str, list[Any]] = {
        key: [str(run.record.view.start.get(key, NOT_KNOWN)) for run in runs]
        for key in ("device", "precision", "update")
    }
    names = dict.fromkeys(name for run in runs for name in run.facts)
    for name in names:
        if name in _MACHINE or name.startswith("package "):
            table[name] = [run.facts.get(name, NOT_KNOWN) for run in runs]
    return _unequal(table)


def fingerprints(runs: Sequence[ComparedRun]) -> dict[str, bool | None]:
    """Whether each recorded part is equal in all runs; ``None``: not recorded by all.

    Parts are ``model``, ``code <function>`` and ``data <split>``. Runs that recorded
    but one hash over everything are judged by that one.
    """
    names = dict.fromkeys(n for run in runs for n in run.parts if n != "all")
    found = {name: _equal([run.parts.get(name) for run in runs]) for name in names}
    if not any(value is not None for value in found.values()):
        found[_UNITED] = _equal([run.parts.get("all") for run in runs])
    return found


def data_note(runs: Sequence[ComparedRun]) -> tuple[str, str] | None:
    """``("fail" | "warn" | "info", sentence)`` about the data; none if it is equal.

    A split that the seed draws differs between seeds and not between runs of one seed;
    anything else means that numbers of different data stand side by side.
    """
    keys = [_data_of(run) for run in runs]
    known = [key for key in keys if key]
    if len(known) < len(runs):
        return _unrecorded(runs)
    if len(set(known)) == 1:
        return None
    by_seed: dict[Any, set[Any]] = {}
    for run, key in zip(runs, keys, strict=True):
        by_seed.setdefault(run.seed, set()).add(key)
    for seed, found in by_seed.items():
        if len(found) > 1:
            return "fail", _different(runs, keys, f"runs of seed {seed} among them")
    seeds = [run.seed for run in runs]
    if all(seeds.count(seed) > 1 for seed in by_seed):
        return "info", (
            "Data differ between seeds and are equal for the same seed: the seed draws "
            "the split."
        )
    text = _different(runs, keys, "no seed is in all of them")
    return "fail", (
        f"{text} If the seed draws the split, this is expected between seeds; else the "
        "numbers cannot be compared."
    )


def _unrecorded(runs: Sequence[ComparedRun]) -> tuple[str, str]:
    whole = _equal([run.parts.get("all") for run in runs])
    if whole:
        return "info", "Model, loss, data and code are the same in all runs."
    what = "differ" if whole is False else "are not recorded"
    return "warn", (
        f"Model, loss, data or code {what}, and which cannot be told: not every run "
        " recorded its parts. Check that all were trained and judged on one data set."
    )


def _different(runs: Sequence[ComparedRun], keys: Sequence[Any], more: str) -> str:
    others = [run for run, key in zip(runs, keys, strict=True) if key != keys[0]]
    first, other = runs[0], others[0]
    splits = [
        name.removeprefix("data ")
        for name in dict.fromkeys((*first.parts, *other.parts))
        if name.startswith("data ") and first.parts.get(name) != other.parts.get(name)
    ]
    rest = f", {len(others)} runs in all" if len(others) > 1 else ""
    return (
        f"DIFFERENT DATA: {first.name} and {other.name} differ in "
        f"{' and '.join(splits)} ({more}){rest}. A better number may only mean easier "
        "data."
    )


def _data_of(run: ComparedRun) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(i for i in run.parts.items() if i[0].startswith("data")))


def _equal(values: Sequence[Any]) -> bool | None:
    if any(value is None for value in values):
        return None
    return all(value == values[0] for value in values)


def _unequal(
    table: Mapping[str, list[Any]], left_out: Sequence[str] = ()
) -> dict[str, list[Any]]:
    return {
        name: values
        for name, values in table.items()
        if name not in left_out and any(value != values[0] for value in values)
    }
