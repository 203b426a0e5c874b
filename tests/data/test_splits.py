"""Splits: disjoint, complete, deterministic, every class in each part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.data.splits import stratified_split, stratified_subset
from nbutils.errors import ContractError

FRACTIONS = (0.7, 0.15, 0.15)


@given(
    sizes=st.lists(st.integers(3, 60), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_stratified_split_any_classes_partitions_with_every_class(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = stratified_split(labels, FRACTIONS, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert set(labels[part]) == set(range(len(sizes)))


def test_stratified_split_large_classes_keeps_shares():
    labels = np.repeat([0, 1, 2], [1000, 400, 100])
    train, val, test = stratified_split(labels, FRACTIONS, seed=3)
    assert np.bincount(labels[train]).tolist() == [700, 280, 70]
    assert np.bincount(labels[val]).tolist() == [150, 60, 15]
    assert np.bincount(labels[test]).tolist() == [150, 60, 15]


def test_stratified_split_same_seed_gives_same_parts_and_another_does_not():
    labels = ["a", "b"] * 20
    first, again, other = (stratified_split(labels, (0.5, 0.5), s) for s in (1, 1, 2))
    assert all((x == y).all() for x, y in zip(first, again, strict=True))
    assert any((x != y).any() for x, y in zip(first, other, strict=True))


def test_stratified_split_is_not_sorted_by_class():
    labels = np.repeat([0, 1], 50)
    train, _ = stratified_split(labels, (0.8, 0.2), seed=0)
    assert np.abs(np.diff(labels[train])).sum() > 5


def test_stratified_split_small_class_raises_and_names_it():
    labels = ["cat"] * 10 + ["yeti"] * 2
    with pytest.raises(ContractError, match=r"1 of 2 classes .*: 'yeti' \(2\)"):
        stratified_split(labels, FRACTIONS, seed=0)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.2, -0.2), (1.0, 0.0)])
def test_stratified_split_wrong_fractions_raises(fractions):
    with pytest.raises(ContractError, match="their sum must be 1"):
        stratified_split([0, 1] * 5, fractions, seed=0)


def test_stratified_subset_fewer_keeps_every_class():
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    chosen = stratified_subset(labels, 20, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [16, 3, 1]
    assert (chosen == stratified_subset(labels, 20, seed=0)).all()


def test_stratified_subset_more_than_there_is_gives_all():
    assert stratified_subset([0, 1, 1], 9, seed=0).tolist() == [0, 1, 2]


def test_stratified_subset_below_class_count_raises():
    with pytest.raises(ContractError, match="max_samples is 2, but there are 3"):
        stratified_subset([0, 1, 2, 2], 2, seed=0)
