"""R3: batches of every size that the run will meet keep one contract."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import describe, tensors
from nbutils.data.contract import Contract
from nbutils.data.loader import OrderedLoader
from nbutils.errors import ContractError
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.data.rows import judge_rows
from nbutils.preflight.checks.data.streams import judge_repeats, judge_restart
from nbutils.preflight.data_probe import Case
from nbutils.preflight.probe import Probe, attempt

__all__ = ["CHECK"]


def run(probe: Probe, claims: Claims) -> None:
    """Read the batches, then judge their form and their values."""
    for split in ("train", "val"):
        judge_restart(probe, split, claims)
    if claims.worst == "fail":
        return  # reading would use the stream up
    batches = [
        (case, probe.data.batch(case.split, case.size, case.number))
        for case in probe.data.cases()
    ]
    _judge_form(probe, batches, claims)
    for case, batch in batches:
        if case.is_met:
            _judge_finite(probe, case, batch, claims)
    _judge_scanned(probe, claims)
    _judge_constant(batches[0][1], claims)
    judge_rows(probe, claims)
    judge_repeats(probe, claims)
    claims.add(
        "pass",
        f"batches were read: {', '.join(case.name for case, _ in batches)}",
        expected=_table(probe),
        actual=_lines(batches[0][1]),
    )


def _table(probe: Probe) -> str:
    contract = probe.facts.get("contract")
    rows = [] if contract is None else contract.table()
    return "\n".join(f"{path}: {dtype} {dims}" for path, dtype, dims in rows)


def _judge_form(probe: Probe, batches: list[tuple[Case, Any]], claims: Claims) -> None:
    """The declared contract, or one that fits all batches."""
    contract = probe.task.contract
    is_declared = contract is not None
    if contract is None:
        contract = _infer(probe, batches, claims)
    if contract is None:
        claims.show((c.name, _lines(batch)) for c, batch in batches)
        return
    probe.facts["contract"] = contract
    for path, dtype, dims in contract.table():
        claims.show([(f"expected {path}", f"{dtype} {dims}")])
    for case, batch in batches:
        claims.show([(f"actual, {case.name}", _lines(batch))])
        for problem in contract.check(batch) if case.is_met and is_declared else ():
            claims.add(
                "fail",
                f"the {case.name} breaks the contract",
                expected=_table(probe),
                actual=problem,
                fix="Change the data or the declared contract; see the tables.",
            )


def _lines(batch: Any) -> str:
    return "\n".join(f"{path}: {text}" for path, text in describe(batch).items())


def _infer(
    probe: Probe, batches: list[tuple[Case, Any]], claims: Claims
) -> Contract | None:
    """A contract that all batches keep; an odd one is worth a look, no more.

    Where the model and its loss take them all, the forms may differ: mixed labels are
    shares in training and classes in validation.
    """
    try:
        return Contract.infer([batch for _, batch in batches])
    except ContractError as error:
        is_taken = all(_survives(probe, batch) for _, batch in batches)
        claims.add(
            "pass" if is_taken else "warn",
            "batches of different splits or sizes differ in form",
            expected="the same tensors, dtypes and ranks in every batch",
            actual=str(error),
            fix="Keep the batch dimension at size 1, and the same parts in each split.",
        )
    train = [b for case, b in batches if case.split == "train" and case.is_met]
    with suppress(ContractError):
        return Contract.infer(train)
    return None


def _judge_finite(probe: Probe, case: Case, batch: Any, claims: Claims) -> None:
    for path, tensor in tensors(batch):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        bad = ~torch.isfinite(tensor)
        if not bool(bad.any()):
            continue
        rows = bad.reshape(bad.shape[0], -1).any(1).nonzero() if bad.ndim else bad
        row = int(rows.flatten()[0])
        kind = "NaN" if bool(tensor.isnan().any()) else "Inf"
        sample = _sample(probe, case, row, tensor)
        where = f"'{path}' of the {case.name}, row {row}{sample}"
        _add_not_finite(claims, _survives(probe, batch), kind, where)


def _sample(probe: Probe, case: Case, row: int, tensor: Tensor) -> str:
    """Which sample a row is, where rows are samples and their order is known."""
    loader = probe.data.loader(case.split, case.size)
    if not isinstance(loader, OrderedLoader):
        return ""
    indices = loader.indices(case.number)
    if tensor.shape[0] != len(indices):
        return ""
    return f", which is {case.split}[{indices[row]}]"


def _add_not_finite(claims: Claims, survives: bool, kind: str, where: str) -> None:
    if survives:  # a mask, or a model made for missing values
        claims.show([("the loss stays finite with", f"{kind} in {where}")])
        return
    claims.add(
        "fail",
        f"{kind} in {where}",
        expected="finite values",
        actual=f"{kind} in {where}",
        fix="Mend or leave out the sample; if missing values are meant, let the "
        'model mask them and declare "missing values".',
    )


def _survives(probe: Probe, batch: Any) -> bool:
    """Whether the loss is finite all the same, as with masks and missing values."""
    if "missing values" in probe.task.declares:
        return True
    with torch.no_grad():
        loss, error = attempt(lambda: probe.loss(batch, training=False))
    probe.rewind()
    return error is None and bool(torch.isfinite(loss))


def _judge_scanned(probe: Probe, claims: Claims) -> None:
    """Values that are not finite anywhere in the samples that were read."""
    for split in ("train", "val"):
        found = probe.data.scan(split) if probe.data.has(split) else None
        for path, indices in (found.not_finite if found else {}).items():
            if any(f"'{path}' of the {split}" in c.title for c in claims.claims):
                continue
            sample = probe.data.samples(split)[indices[0]]  # type: ignore[index]
            batch = probe.data.collate([sample, sample])
            where = f"'{path}' of {split}[{indices[0]}]"
            if len(indices) > 1:
                where += f" and {len(indices) - 1} more samples"
            _add_not_finite(claims, _survives(probe, batch), "NaN or Inf", where)


def _judge_constant(batch: Any, claims: Claims) -> None:
    floats = [
        (path, tensor)
        for path, tensor in tensors(batch)
        if tensor.is_floating_point() and tensor.numel() > 8
    ]
    others = any(
        t.ndim > 1 and not t.is_floating_point() and bool((t != t[:1]).any())
        for _, t in tensors(batch)
    )
    is_flat = all(bool((t == t.flatten()[0]).all()) for _, t in floats)
    if floats and is_flat and not others:
        path, tensor = floats[0]
        claims.add(
            "warn",
            "every float in the first batch has one value",
            expected="inputs that differ",
            actual=f"'{path}' is {float(tensor.flatten()[0]):.4g} throughout",
            fix="Look at the reader and its scaling: are these the real data?",
        )


CHECK = Check(
    id="R3",
    title="Batches keep their contract at every size",
    why="A batch of another form, the short last one above all, ends an epoch.",
    run=run,
)
