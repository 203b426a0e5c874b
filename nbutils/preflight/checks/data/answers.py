"""Part of R1: the answer is not among the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples

__all__ = ["judge_answers"]

MIN_READ = 32
MAX_FEATURES = 512
MAX_CLASSES = 50
EQUAL = 0.99999
FIX = "Leave that part out of the inputs: it will not be there when it is to be told."


def judge_answers(samples: Samples, claims: Claims) -> None:
    """Columns of a table, and fields of a sample, that give the target away.

    Targets that are inputs as a whole are left alone: autoencoders and language models
    have them. So are targets made from one column of unrelated ones, as in sketches:
    the task must remain one without the column.
    """
    for target in samples.targets:
        column = samples.column("train", target)
        table = column.table if column else None
        if table is None or len(table) < MIN_READ:
            continue
        if table.shape[1] != 1:
            _judge_window(samples, target, table, claims)
            continue
        values = table[:, 0].double()
        if len(torch.unique(values)) < 2 or not bool(torch.isfinite(values).all()):
            continue
        is_class = target == samples.label
        for path in samples.inputs:
            if path != target:
                _judge_path(samples, path, values, is_class, claims)


def _judge_window(
    samples: Samples, target: str, answers: Tensor, claims: Claims
) -> None:
    """A target of several numbers that stands, number by number, in the input.

    An input as long as the target is an autoencoder's; ids are copied on purpose.
    """
    for path in samples.inputs:
        column = samples.column("train", path)
        if path == target or column is None or column.table is None:
            continue
        if not column.is_float or column.num_elements <= answers.shape[1]:
            continue
        inputs = column.table
        if len(inputs) != len(answers) or inputs.shape[1] > MAX_FEATURES:
            continue
        if inputs.dtype != answers.dtype or len(answers[:, 0].unique()) < MIN_READ / 2:
            continue
        known = {
            bytes(c.contiguous().numpy().tobytes()): i for i, c in enumerate(inputs.T)
        }
        places = [known.get(bytes(c.contiguous().numpy().tobytes())) for c in answers.T]
        if None in places:
            continue
        claims.add(
            "warn",
            f"the target '{target}' lies inside the input '{path}': a leak",
            expected="a target that is not among the inputs",
            actual=f"its {answers.shape[1]} numbers equal the input's columns "
            f"{places[0]} to {places[-1]} in all {len(answers)} samples that were read",
            fix="Let the target begin after the last input, as in series[t + 1:].",
        )
        return


def _judge_path(
    samples: Samples, path: str, target: Tensor, is_class: bool, claims: Claims
) -> None:
    column = samples.column("train", path)
    if column is None or column.table is None or len(column.shape or ()) > 1:
        return
    if column.num_elements == 1:
        if is_class and len(samples.inputs) > 1 and _tells(column.table[:, 0], target):
            _note(path, "", target, claims)
        return
    if not column.is_float or column.num_elements > MAX_FEATURES:
        return
    inputs = column.table.double()
    if not bool(torch.isfinite(inputs).all()):
        return
    for number in _suspects(inputs, target, is_class):
        rest = torch.cat([inputs[:, :number], inputs[:, number + 1 :]], dim=1)
        if _is_task(rest, target, is_class):
            _note(path, f", column {number}", target, claims)
            return
    columns = _indicators(inputs, target) if is_class else []
    keep = [j for j in range(inputs.shape[1]) if j not in columns]
    if columns and keep and _is_task(inputs[:, keep], target, is_class):
        shown = ", ".join(map(str, columns[:8]))
        _note(path, f", columns {shown}", target, claims)


def _suspects(inputs: Tensor, target: Tensor, is_class: bool) -> list[int]:
    """Columns that follow the target exactly."""
    x = inputs - inputs.mean(0)
    y = target - target.mean()
    scale = x.norm(dim=0) * y.norm()
    follows = ((x * y[:, None]).sum(0) / scale.clamp(min=1e-300)).abs() > EQUAL
    found = (follows & (scale > 0)).nonzero().flatten().tolist()
    if not is_class or len(torch.unique(target)) < 3:
        return found
    others = [j for j in range(inputs.shape[1]) if j not in found]
    return found + [j for j in others if _tells(inputs[:, j], target)]


def _indicators(inputs: Tensor, target: Tensor) -> list[int]:
    """Columns that together are the class as 0 and 1, one for each class but one."""
    classes = torch.unique(target)
    if not 3 <= len(classes) <= MAX_CLASSES:
        return []
    found: dict[int, int] = {}
    for number in range(inputs.shape[1]):
        high = inputs[:, number] == inputs[:, number].max()
        if len(torch.unique(inputs[:, number])) != 2:
            continue
        for name, members in enumerate(target == c for c in classes):
            if bool((high == members).all()):
                found.setdefault(name, number)
    return list(found.values()) if len(found) >= len(classes) - 1 else []


def _tells(values: Tensor, target: Tensor) -> bool:
    """Whether each value goes with one target and each target with one value."""
    pairs = set(zip(values.tolist(), target.tolist(), strict=True))
    num_values, num_targets = len(torch.unique(values)), len(torch.unique(target))
    return len(pairs) == num_values == num_targets <= len(target) / 4


def _is_task(rest: Tensor, target: Tensor, is_class: bool) -> bool:
    """Whether the other columns would be inputs of a task of their own.

    Classes need varied ones. For numbers they must tell something of the target, and
    not all of it: a linear fit well above what as many random columns reach.
    """
    varied = [len(torch.unique(rest[:, j])) > 0.3 * len(rest) for j in _ends(rest)]
    if not any(varied):
        return False
    if is_class:
        return True
    keep = (rest - rest.mean(0)).norm(dim=0) > 0
    num, width = len(rest), int(keep.sum())
    if num < 2 * width + 10:
        return False
    x = torch.cat([rest[:, keep], torch.ones(num, 1, dtype=rest.dtype)], dim=1)
    fit = x @ torch.linalg.lstsq(x, target[:, None]).solution
    left = float((target - fit[:, 0]).square().sum())
    whole = float((target - target.mean()).square().sum())
    explained = 1 - left / whole
    noise = width / num
    return explained > noise + 6 * (2 * max(width, 1)) ** 0.5 / num + 0.02


def _ends(rest: Tensor) -> list[int]:
    """Some columns: all of them where they are few."""
    return list(range(min(rest.shape[1], 64)))


def _note(path: str, column: str, target: Tensor, claims: Claims) -> None:
    claims.add(
        "warn",
        f"the answer is among the inputs: '{path}'{column}",
        expected="inputs that do not hold the target",
        actual=f"'{path}'{column} follows the target exactly in all {len(target)} "
        "samples that were read",
        fix=FIX,
    )
