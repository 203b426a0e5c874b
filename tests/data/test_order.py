from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nbutils.data import epoch_order
from nbutils.data.order import batch_bounds, count_batches, mix
from nbutils.data.rng import RandomStream, preserved_rng, seed_rng


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_epoch_order_same_arguments_same_order_and_no_global_randomness():
    before = torch.get_rng_state()
    first = epoch_order(100, seed=3, epoch=2, shuffle=True)
    torch.rand(5)
    assert torch.equal(first, epoch_order(100, 3, 2, True))
    assert sorted(first.tolist()) == list(range(100))
    torch.set_rng_state(before)
    epoch_order(100, 3, 2, True)
    assert torch.equal(before, torch.get_rng_state())


def test_epoch_order_other_seed_or_epoch_other_order():
    orders = {
        tuple(epoch_order(20, seed, epoch, True).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_mix_stays_in_64_bits_and_depends_on_each_number():
    values = {mix(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(values) == 125
    assert all(0 <= value < 1 << 64 for value in values)


def test_count_batches_tail_counts_unless_dropped():
    assert count_batches(10, 4, drop_last=False) == 3
    assert count_batches(10, 4, drop_last=True) == 2
    assert batch_bounds(2, 4, 10) == (8, 10)


def test_preserved_rng_error_inside_restores_all():
    with preserved_rng():
        expected = draw()

    def fail() -> None:
        with preserved_rng():
            draw()
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    with preserved_rng():
        assert draw() == expected


def test_random_stream_left_and_entered_continues():
    with preserved_rng():
        seed_rng(7)
        expected = [draw(), draw()]
        outside = RandomStream(7)
        found = []
        for _ in range(2):
            draw()
            with outside:
                found.append(draw())
    assert found == expected
