"""What the numbers of two groups allow to say, and what they do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.statistics import (
    Sample,
    holm,
    paired,
    seeds_for,
    welch,
)
from nbutils.monitor.runview import format_number

__all__ = ["ALPHA", "Judgement", "judge"]

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Two groups against each other.

    Args:
        a: The group that the difference counts from.
        b: The other one; the difference is its mean minus that of ``a``.
        sample: Welch's test and permutations of all values.
        pairs: The same by pairs of equal seeds, where both groups have the same ones.
        is_paired: Whether ``pairs`` decides: where so many pairs can decide at all.
        p_t: Of what decides, corrected for the number of comparisons (Holm).
        p_exact: Likewise.
        verdict: ``significant``, ``not significant``, ``too few seeds`` or
            ``no scatter known``.
        text: The same in words, with what it rests on.
    """

    a: Group
    b: Group
    sample: Sample | None
    pairs: Sample | None
    is_paired: bool = False
    p_t: float = math.nan
    p_exact: float = math.nan
    verdict: str = "no scatter known"
    text: str = ""

    @property
    def decisive(self) -> Sample | None:
        """The tests that the verdict follows; chosen by numbers of seeds alone."""
        return self.pairs if self.is_paired else self.sample


def judge(groups: Sequence[Group], better: str = "") -> list[Judgement]:
    """Every pair of groups, corrected together.

    Args:
        groups: Two or more.
        better: ``lower``, ``higher`` or nothing, for the words.
    """
    couples = list(itertools.combinations(groups, 2))
    num_tests = sum(a.n > 1 and b.n > 1 for a, b in couples)
    found = [_measure(a, b, num_tests) for a, b in couples]
    samples = [each.decisive for each in found]
    p_t = holm([math.nan if each is None else each.p_t for each in samples])
    p_exact = holm([math.nan if each is None else each.p_exact for each in samples])
    floors = [each.floor for each in samples if each is not None]
    lowest = min(1.0, min(floors, default=1.0) * num_tests)
    return [
        _worded(replace(each, p_t=t, p_exact=exact), lowest, num_tests, better)
        for each, t, exact in zip(found, p_t, p_exact, strict=True)
    ]


def _measure(a: Group, b: Group, num_tests: int) -> Judgement:
    if a.n < 2 or b.n < 2:
        return Judgement(a=a, b=b, sample=None, pairs=None)
    sample, pairs = welch(a.values, b.values), None
    if a.by_seed.keys() == b.by_seed.keys():
        pairs = paired([a.by_seed[seed] for seed in b.by_seed], b.values)
    is_paired = pairs is not None and pairs.floor * num_tests < ALPHA
    return Judgement(a=a, b=b, sample=sample, pairs=pairs, is_paired=is_paired)


def _worded(found: Judgement, lowest: float, num_tests: int, better: str) -> Judgement:
    sample = found.decisive
    if sample is None:
        return replace(found, text=_without_repeats(found))
    by_holm = f" (Holm, {num_tests} comparisons)" if num_tests > 1 else ""
    kind = "Sign-flip" if found.is_paired else "Permutation"
    t_test = "paired t-test" if found.is_paired else "Welch's t-test"
    parts = [_change(found, sample, better)]
    parts.append(f"{kind} test {_p(found.p_exact)}{by_holm};")
    if math.isnan(found.p_t):
        parts.append("no scatter between the seeds, so no t-test.")
    else:
        parts.append(f"{t_test} {_p(found.p_t)}.")
    if found.pairs is not None and not found.is_paired:
        pairs = found.pairs
        parts.append(
            f"By pairs of equal seeds: sign-flip {_p(pairs.p_exact)}, t-test "
            f"{_p(pairs.p_t)}, uncorrected."
        )
    verdict = "not significant"
    if found.p_exact < ALPHA:
        verdict = "significant"
    elif lowest >= ALPHA:
        verdict = "too few seeds"
        parts.append(_too_few(found, lowest, num_tests))
    return replace(found, verdict=verdict, text=" ".join(parts))


def _without_repeats(found: Judgement) -> str:
    few = [group for group in (found.a, found.b) if group.n < 2]
    who = " and ".join(_letter(group) for group in few)
    change = format_number(found.b.mean - found.a.mean)
    return (
        f"{_letter(found.b)} - {_letter(found.a)} = {change}. Fewer than two seeds of "
        f"{who}: how far chance moves it is not known, so this may be chance. "
        f"Repeat both with at least {seeds_for(ALPHA)} seeds."
    )


def _too_few(found: Judgement, lowest: float, num_tests: int) -> str:
    a, b = found.a, found.b
    each = f"{a.n} seeds each" if a.n == b.n else f"{a.n} and {b.n} seeds"
    among = f" among {num_tests} comparisons" if num_tests > 1 else ""
    return (
        f"{each}: no test by rearrangement can be below {_p(lowest)}{among}, "
        f"whatever the values; {seeds_for(ALPHA, num_tests=num_tests)} each can. The "
        f"t-test rests on a normal scatter, which {a.n + b.n} values cannot show."
    )


def _change(found: Judgement, sample: Sample, better: str) -> str:
    """The difference with its interval, and which group is better by it."""
    interval = ""
    if not math.isnan(sample.ci_low):
        low, high = format_number(sample.ci_low), format_number(sample.ci_high)
        interval = f" (95 % interval {low} to {high})"
    effect = ""
    if not math.isnan(sample.effect_size):
        effect = f", Hedges' g {sample.effect_size:.2f}"
    text = f"{_letter(found.b)} - {_letter(found.a)} = "
    text += f"{format_number(sample.difference)}{interval}{effect}"
    if better and sample.difference:
        is_b = (sample.difference < 0) == (better == "lower")
        text += f"; {_letter(found.b if is_b else found.a)} is better in the mean"
    return f"{text}."


def _letter(group: Group) -> str:
    return group.label.partition(":")[0]


def _p(value: float) -> str:
    if math.isnan(value):
        return "p not defined"
    return f"p = {value:.2g}" if value >= 0.0001 else "p < 0.0001"
