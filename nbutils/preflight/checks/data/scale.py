"""Part of R1: inputs arrive at the first layer in a scale that it can work with."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.column import Column
from nbutils.preflight.roles import Entry
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_scale"]

HUGE = 60.0
"""Root mean square from which default learning rates no longer fit: raw bytes of
images have about 80 to 150."""
TINY = 3e-3
"""Root mean square below which outputs hardly depend on inputs at the start: pictures
that were divided by 255 twice have about 0.002."""
MAX_FEATURES = 512
CODES = (99.0, 999.0, 9999.0, 99999.0, 999999.0, 1e20, 1e30)
FAR = 20.0


def judge_scale(samples: Samples, claims: Claims) -> None:
    """Huge inputs before the first weights, codes for missing values, constants."""
    for path in samples.inputs:
        column = samples.column("train", path)
        if column is None or not column.is_float or not column.squares:
            continue
        if path in samples.targets:
            continue
        _judge_size(samples, path, column, claims)
        table = column.table
        is_row = len(column.shape or ()) == 1 and column.num_elements <= MAX_FEATURES
        if table is not None and is_row and len(table) >= 20:
            _judge_columns(path, table, claims)


def _judge_size(samples: Samples, path: str, column: Column, claims: Claims) -> None:
    rms = float(torch.stack(column.squares).mean().sqrt())
    mean = float(torch.stack(column.means).mean())
    text = f"mean {mean:.4g}, root mean square {rms:.4g}"
    claims.show([(f"scale of '{path}'", text)])
    if TINY <= rms <= HUGE or rms == 0 or (len(samples.inputs) > 1 and rms < TINY):
        return
    entry = _entry(samples, path)
    if entry is None:
        return
    if rms < TINY:
        _note_tiny(path, text, entry, claims)
        return
    claims.add(
        "warn",
        "inputs are not normalised: huge values reach the first layer",
        expected="about mean 0 and standard deviation 1, or values from 0 to 1",
        actual=f"'{path}': {text}; {entry.layer} '{entry.name}' gets "
        f"{entry.low:.4g} to {entry.high:.4g}" + _widest(column),
        fix="Scale the inputs in the dataset (x / 255, or (x - mean) / std of train), "
        "or let the model begin with a normalisation.",
    )


def _note_tiny(path: str, text: str, entry: Entry, claims: Claims) -> None:
    claims.add(
        "warn",
        "inputs nearly vanish: tiny values reach the first layer",
        expected="about mean 0 and standard deviation 1, or values from 0 to 1",
        actual=f"'{path}': {text}; {entry.layer} '{entry.name}' gets "
        f"{entry.low:.4g} to {entry.high:.4g}",
        fix="Look for a scaling that is done twice, such as x / 255 after ToTensor; "
        "else scale by the std of train.",
    )


def _widest(column: Column) -> str:
    """Which columns of a table are of which scale."""
    if column.table is None or len(column.shape or ()) != 1 or len(column) < 8:
        return ""
    scales = column.table.double().square().mean(0).sqrt()
    if len(scales) < 2 or len(scales) > MAX_FEATURES:
        return ""
    high, low = int(scales.argmax()), int(scales.argmin())
    return (
        f"; column {high} has root mean square {float(scales[high]):.3g}, "
        f"column {low} {float(scales[low]):.3g}"
    )


def _entry(samples: Samples, path: str) -> Entry | None:
    """The first layer with weights that gets these values bare; none if a norm does.

    Also none where a norm comes right after it: it takes the scale out again.
    """
    batch = dict(_flat(samples, path))
    values = batch.get(path)
    if values is None or not values.numel():
        return None
    low, high = float(values.min()), float(values.max())
    for number, entry in enumerate(samples.roles.entries):
        if not _is_near(entry.low, low) or not _is_near(entry.high, high):
            continue
        after = samples.roles.entries[number + 1 : number + 2]
        is_normed = entry.kind != "weight" or any(e.kind == "norm" for e in after)
        return None if is_normed else entry
    return None


def _flat(samples: Samples, path: str) -> list[tuple[str, Tensor]]:
    batch = samples.probe.data.batch("train")
    name = "batch" if path == "sample" else path
    return [(path, tensor) for found, tensor in tensors(batch) if found == name]


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= 0.05 * max(abs(a), abs(b), 1e-12)


def _judge_columns(path: str, table: Tensor, claims: Claims) -> None:
    values = table.double()
    constant = (values == values[:1]).all(0).nonzero().flatten().tolist()
    if constant and len(constant) < values.shape[1]:
        shown = ", ".join(map(str, constant[:8])) + (" …" if constant[8:] else "")
        claims.show([(f"columns of '{path}' that never change", shown)])
    found = [found for j in range(values.shape[1]) if (found := _code(values[:, j]))]
    if not found:
        return
    code, count = found[0]
    claims.add(
        "warn",
        f"{code:g} stands among the inputs like a code for missing values",
        expected="values of one scale in each column",
        actual=f"{len(found)} columns of '{path}' hold {code:g}, the first one in "
        f"{share_text(count, len(values))} samples, far outside of its other values",
        fix="Fill in, mask or drop missing values before scaling; no layer knows "
        "the code.",
    )


def _code(values: Tensor) -> tuple[float, int] | None:
    """A round code, repeated, far away from a column's other values."""
    for code in (sign * size for size in CODES for sign in (-1.0, 1.0)):
        count = int((values == code).sum())
        if count < 2 or count > 0.8 * len(values):
            continue
        rest = values[values != code]
        middle = rest.median()
        spread = float((rest - middle).abs().quantile(0.75)) * 1.5
        if len(torch.unique(rest)) > 4 and abs(code - float(middle)) > FAR * spread:
            return code, count
    return None
