"""Part of R3: the token that pads is not the one that ends a text."""

from __future__ import annotations

from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.data.kept import Collated, is_row

__all__ = ["judge_end_token"]

IGNORED = -100


def judge_end_token(split: str, groups: list[Collated], claims: Claims) -> bool:
    """Whether labels of real tokens are masked since they look like padding."""
    found = [_masked_ends(group) for group in groups]
    if not found or not all(found):
        return False
    token, count, size = found[0] or (0, 0, 0)
    claims.add(
        "warn",
        "the end token is masked as padding: it is never learned",
        expected="a padding token of its own, or labels masked by length",
        actual=f"{count} of {size} {split} texts end in token {token}, which pads as "
        f"well; its labels are {IGNORED} also where it ends a text",
        fix="Build the mask from the lengths, before padding; pad_token = eos_token "
        "hides the end from the loss.",
    )
    return True


def _masked_ends(group: Collated) -> tuple[int, int, int] | None:
    """The token, texts that end in it, and texts."""
    for values in group.columns.values():
        sizes = [len(v) for v in values if v.ndim == 1]
        if len(sizes) < len(values) or len(set(sizes)) < 2:
            continue
        for ids in group.fields.values():
            token = _padding(ids, values, sizes)
            if token is None:
                continue
            ends = [int(v[-1]) == token for v in values]
            if sum(ends) <= len(ends) / 2:
                continue
            for labels in group.fields.values():
                if labels.shape == ids.shape and _hides(labels, ids, sizes, token):
                    return token, sum(ends), len(ends)
    return None


def _padding(ids: Tensor, values: list[Tensor], sizes: list[int]) -> int | None:
    """The one number after the end of each sample, where rows are samples in order."""
    is_field = ids.ndim == 2 and len(ids) == len(values) and not ids.is_floating_point()
    if not is_field or ids.shape[1] != max(sizes):
        return None
    pairs = list(zip(ids, values, strict=True))
    if not all(is_row(row, value) for row, value in pairs):
        return None
    tails = {int(n) for row, v in pairs for n in row[len(v) :].unique()}
    return tails.pop() if len(tails) == 1 else None


def _hides(labels: Tensor, ids: Tensor, sizes: list[int], token: int) -> bool:
    """Whether labels are ignored at the token, inside of the samples as well."""
    inside = [labels[i, size - 1] for i, size in enumerate(sizes)]
    ends = [ids[i, size - 1] for i, size in enumerate(sizes)]
    hidden = [x == IGNORED for x, e in zip(inside, ends, strict=True) if e == token]
    return bool(hidden) and all(hidden) and bool((labels != IGNORED).any())
