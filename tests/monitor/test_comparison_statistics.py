"""The numbers behind a verdict, against published and hand-made values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.judging import judge
from nbutils.monitor.comparison.statistics import (
    exact_floor,
    holm,
    paired,
    seeds_for,
    welch,
)

# Student's sleep data (Biometrika 6, 1908), as in R's `sleep`.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def group(name: str, values: list[float], first_seed: int = 0) -> Group:
    by_seed = {first_seed + at: value for at, value in enumerate(values)}
    return Group(label=f"{name}: x", runs=[], by_seed=by_seed)


def test_welch_gives_what_r_prints_for_the_sleep_data() -> None:
    found = welch(SLEEP_2, SLEEP_1)  # R: t = -1.8608, df = 17.776, p-value = 0.07939
    assert found.p_t == pytest.approx(0.07939, abs=5e-6)
    assert found.ci_low == pytest.approx(-3.3654832, abs=1e-6)
    assert found.ci_high == pytest.approx(0.2054832, abs=1e-6)
    assert found.difference == pytest.approx(-1.58)


def test_paired_gives_what_r_prints_for_the_sleep_data() -> None:
    found = paired(SLEEP_2, SLEEP_1)  # R: t = -4.0621, df = 9, p-value = 0.002833
    assert found.p_t == pytest.approx(0.002833, abs=5e-7)
    assert found.ci_low == pytest.approx(-2.4598858, abs=1e-6)
    assert found.ci_high == pytest.approx(-0.7001142, abs=1e-6)


def test_permutation_counts_every_way_to_deal_the_values() -> None:
    a, b = [0.1, 0.5, 0.3, 0.9], [0.6, 0.8, 1.1]
    both, observed = np.array(a + b), abs(np.mean(a) - np.mean(b))
    as_far = total = 0
    for chosen in itertools.combinations(range(7), 4):
        rest = [at for at in range(7) if at not in chosen]
        distance = abs(both[list(chosen)].mean() - both[rest].mean())
        as_far += distance >= observed - 1e-12
        total += 1
    assert welch(a, b).p_exact == pytest.approx(as_far / total)


def test_sign_flips_count_every_way_to_swap_pairs() -> None:
    a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.5, 2.2, 3.9, 4.0])
    change, as_far = b - a, 0
    for signs in itertools.product([1, -1], repeat=4):
        as_far += abs((change * signs).mean()) >= abs(change.mean()) - 1e-12
    assert paired(list(a), list(b)).p_exact == pytest.approx(as_far / 16)


@pytest.mark.parametrize(("num_a", "num_b"), [(2, 2), (3, 3), (2, 3), (4, 4)])
def test_floor_is_the_p_of_groups_that_do_not_touch(num_a: int, num_b: int) -> None:
    rng = np.random.default_rng(0)
    a, b = list(rng.random(num_a)), list(10 + rng.random(num_b))
    assert welch(a, b).p_exact == pytest.approx(exact_floor(num_a, num_b))


def test_floor_of_pairs_is_the_p_of_changes_of_one_sign() -> None:
    found = paired([1.0, 2.0, 3.0], [1.5, 2.7, 3.1])
    assert found.p_exact == found.floor == 0.25


def test_seeds_for_is_the_first_number_that_can_reach_the_limit() -> None:
    for is_paired in (False, True):
        needed = seeds_for(0.05, is_paired=is_paired)
        assert exact_floor(needed, needed, is_paired=is_paired) < 0.05
        assert exact_floor(needed - 1, needed - 1, is_paired=is_paired) >= 0.05
    assert seeds_for(0.05, num_tests=3) == 5


def test_hedges_g_of_known_samples() -> None:
    # d = 2 / 1 with 4 degrees of freedom; J(4) = 0.7979 (Hedges 1981, table).
    assert welch([1.0, 2, 3], [3.0, 4, 5]).effect_size == pytest.approx(1.5958, 1e-4)


def test_holm_is_monotone_and_keeps_what_is_no_test() -> None:
    assert holm([0.01, math.nan, 0.02]) == pytest.approx(
        [0.02, math.nan, 0.02], nan_ok=True
    )
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def test_values_without_scatter_have_no_t_test() -> None:
    for found in (welch([0.5, 0.5], [0.7, 0.7]), paired([0.5, 0.6], [0.7, 0.8])):
        assert math.isnan(found.p_t)
        assert math.isnan(found.ci_low)
        assert found.difference == pytest.approx(0.2)


def test_one_sample_without_scatter_is_tested_and_warns_of_nothing() -> None:
    found = welch([0.5, 0.5, 0.5], [0.7, 0.8, 0.6])
    assert found.p_t == pytest.approx(0.0742, abs=1e-4)  # t = 3.464 with df = 2
    assert math.isfinite(found.ci_low)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(200):
        a, b = rng.normal(size=5).tolist(), rng.normal(size=5).tolist()
        found = judge([group("A", a), group("B", b, first_seed=9)])[0]
        wrong += found.verdict == "significant"
    assert wrong / 200 < 0.09  # 0.05 promised; 3.5 standard errors above is 0.104


def test_two_seeds_each_cannot_be_significant_and_it_says_so() -> None:
    found = judge([group("A", [0.1, 0.11]), group("B", [0.9, 0.91])], "higher")[0]
    assert found.verdict == "too few seeds"
    assert "2 seeds each: no test by rearrangement can be below p = 0.33" in found.text
    assert "4 each can" in found.text
    assert "B is better in the mean" in found.text
    assert found.p_t < 0.01  # which alone would have been called significant


def test_many_seeds_far_apart_are_significant() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 8).tolist(), rng.normal(4, 1, 8).tolist()
    found = judge([group("A", a), group("B", b)], "lower")[0]
    assert found.verdict == "significant"
    assert found.is_paired  # eight pairs can decide
    assert "A is better in the mean" in found.text
    assert "Sign-flip test p = 0.0078" in found.text


def test_pairs_find_what_scatter_between_seeds_hides() -> None:
    seeds = np.array([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    noise = np.array([0.1, -0.2, 0.3, 0.0, -0.1, 0.2, 0.1])
    found = judge([group("A", list(seeds)), group("B", list(seeds + 1 + noise))])[0]
    assert found.verdict == "significant"
    assert found.sample is not None
    assert found.sample.p_t > 0.5


def test_other_seeds_are_no_pairs() -> None:
    found = judge([group("A", [1.0, 2, 3]), group("B", [2.0, 3, 4], first_seed=7)])[0]
    assert found.pairs is None


def test_equal_seeds_in_another_order_are_the_same_pairs() -> None:
    a = Group(label="A: x", runs=[], by_seed={0: 1.0, 1: 2.0, 2: 4.0})
    b = Group(label="B: x", runs=[], by_seed={2: 4.5, 1: 2.5, 0: 1.6})
    found = judge([a, b])[0]
    assert found.pairs is not None
    assert found.pairs.p_t == pytest.approx(paired([1, 2, 4], [1.6, 2.5, 4.5]).p_t)


def test_three_settings_are_corrected_together() -> None:
    rng = np.random.default_rng(3)
    groups = [
        group(name, rng.normal(shift, 1, 5).tolist(), first_seed=10 * at)
        for at, (name, shift) in enumerate((("A", 0), ("B", 0), ("C", 9)))
    ]
    found = judge(groups)
    assert [(each.a.label[0], each.b.label[0]) for each in found] == [
        ("A", "B"),
        ("A", "C"),
        ("B", "C"),
    ]
    assert [each.verdict for each in found][1:] == ["significant", "significant"]
    assert found[1].sample is not None
    assert found[1].p_exact == pytest.approx(3 * found[1].sample.p_exact)
    assert "(Holm, 3 comparisons)" in found[1].text


def test_many_settings_of_few_seeds_cannot_be_told_apart() -> None:
    groups = [
        group(name, [at, at + 0.01, at + 0.02, at + 0.03])
        for at, name in enumerate("ABCDEF")
    ]
    found = judge(groups)
    assert {each.verdict for each in found} == {"too few seeds"}
    assert "among 15 comparisons" in found[0].text


def test_one_seed_says_that_nothing_can_be_said() -> None:
    found = judge([group("A", [0.5]), group("B", [0.4, 0.3])])[0]
    assert found.verdict == "no scatter known"
    assert found.decisive is None
    assert "Fewer than two seeds of A" in found.text
    assert "Repeat both with at least 4 seeds" in found.text
