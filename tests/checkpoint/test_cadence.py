"""When a run is saved, by a simulated clock."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbutils as nb
from nbutils.checkpoint.cadence import CONTENTION, Cadence

HOUR = 3600.0


def make(*, is_epochs_asked: bool = False, **settings: Any) -> Cadence:
    section = nb.RunConfig().replace(**settings).checkpoint
    return Cadence(section, is_epochs_asked=is_epochs_asked)


@dataclass
class Simulated:
    """A run on a clock of its own: saves stop it, writes go on beside it."""

    cadence: Cadence
    step_s: float
    stall_s: float
    write_s: float
    steps_per_epoch: int
    best_epochs: frozenset[int] = frozenset()
    now: float = 0.0
    forced: int = 0
    at: list[float] = field(default_factory=list)

    def run(self, hours: float) -> Simulated:
        self.cadence.start(self.now, num_kept=0)
        step = epoch = 0
        while self.now < hours * HOUR:
            step += 1
            self.now += self.step_s
            if self.cadence.is_due(step, self.now):
                self.save()
            if step % self.steps_per_epoch == 0:
                epoch += 1
                is_new_best = epoch in self.best_epochs
                if self.cadence.is_due_at_epoch(
                    epoch, self.now, is_new_best=is_new_best
                ):
                    self.forced += is_new_best or len(self.at) < 2
                    self.save()
                else:
                    assert not is_new_best
        return self

    def save(self) -> None:
        self.at.append(self.now)
        self.now += self.stall_s
        self.cadence.saved(self.now)
        self.cadence.measured(self.stall_s, self.write_s)

    def longest_gap(self) -> float:
        times = [0.0, *self.at, self.now]
        return max(b - a for a, b in itertools.pairwise(times))

    @property
    def cost_s(self) -> float:
        return self.stall_s + CONTENTION * self.write_s


@settings(deadline=None, max_examples=50)
@given(
    step_s=st.sampled_from([0.5, 1.0, 7.0]),
    stall_s=st.floats(0.001, 20),
    write_s=st.floats(0, 60),
    epoch_s=st.sampled_from([3.0, 60.0, 1200.0, 1e6]),
    best_epochs=st.frozensets(st.integers(1, 30), max_size=5),
)
def test_saves_nobody_asked_for_cost_at_most_their_share(
    step_s: float,
    stall_s: float,
    write_s: float,
    epoch_s: float,
    best_epochs: frozenset[int],
) -> None:
    steps_per_epoch = max(1, round(epoch_s / step_s))
    run = Simulated(make(), step_s, stall_s, write_s, steps_per_epoch, best_epochs)
    run.cadence.estimate(int(stall_s * 1e9))
    run.run(hours=2)
    automatic = len(run.at) - run.forced
    # the first one is taken on an estimate of what it costs
    assert (automatic - 1) * run.cost_s <= 0.01 * run.now
    limit = max(15 * 60, 100 * run.cost_s) + run.stall_s + run.step_s
    assert run.longest_gap() <= limit


def test_short_epochs_are_not_each_saved() -> None:
    run = Simulated(make(), step_s=0.1, stall_s=0.5, write_s=2, steps_per_epoch=20)
    run.run(hours=1)
    assert len(run.at) < 45  # of 1800 epochs; 0.9 s each are at most 1 % of an hour
    assert run.longest_gap() < 120


def test_long_epochs_are_saved_inside() -> None:
    run = Simulated(make(), step_s=1, stall_s=0.3, write_s=1, steps_per_epoch=10**6)
    run.run(hours=1)
    assert len(run.at) > 50
    assert run.longest_gap() <= 60


def test_cheap_saves_are_still_half_a_minute_apart() -> None:
    run = Simulated(make(), step_s=0.1, stall_s=0, write_s=0, steps_per_epoch=10**6)
    assert run.run(hours=1).at[:3] == pytest.approx([30, 60, 90], abs=0.2)


def test_new_best_is_always_saved() -> None:
    bests = frozenset(range(1, 40))
    run = Simulated(make(), 1, 5, 10, steps_per_epoch=2, best_epochs=bests)
    run.run(hours=0.2)
    assert run.forced == 39


def test_epochs_are_saved_while_fewer_than_keep_last_are_there() -> None:
    cadence = make(keep_last=3)
    cadence.start(0, num_kept=1)
    cadence.measured(100, 0)
    for epoch in (1, 2):
        assert cadence.is_due_at_epoch(epoch, epoch, is_new_best=False)
        cadence.saved(epoch)
    assert not cadence.is_due_at_epoch(3, 3, is_new_best=False)
    assert cadence.is_due_at_epoch(4, 1e5, is_new_best=False)


def test_asked_epochs_are_kept_to_the_letter() -> None:
    cadence = make(is_epochs_asked=True, save_every_epochs=3, keep_last=1)
    cadence.start(0, num_kept=5)
    cadence.measured(1000, 0)
    due = [e for e in range(1, 10) if cadence.is_due_at_epoch(e, e, is_new_best=False)]
    assert due == [3, 6, 9]


def test_asked_steps_are_kept_to_the_letter_and_nothing_else_is_saved() -> None:
    cadence = make(save_every_steps=7)
    cadence.start(0, num_kept=5)
    cadence.measured(1000, 0)
    assert [s for s in range(1, 30) if cadence.is_due(s, 1e9 * s)] == [7, 14, 21, 28]
    assert not cadence.is_automatic


def test_asked_minutes_are_kept_to_the_letter() -> None:
    cadence = make(save_every_minutes=2)
    cadence.start(100, num_kept=5)
    cadence.measured(1000, 0)
    assert not cadence.is_due(1, 219.9)
    assert cadence.is_due(1, 220)
    cadence.saved(230)
    assert not cadence.is_due(2, 349.9)
    assert cadence.is_due(2, 350)


def test_no_epochs_asked_saves_bests_alone() -> None:
    cadence = make(is_epochs_asked=True, save_every_epochs=None, save_every_steps=10**9)
    cadence.start(0, num_kept=0)
    assert not cadence.is_due_at_epoch(1, 1e9, is_new_best=False)
    assert cadence.is_due_at_epoch(1, 1, is_new_best=True)
    assert not cadence.is_due(1, 1e12)


def test_estimate_holds_until_a_save_is_measured() -> None:
    cadence = make()
    cadence.start(0, num_kept=0)
    cadence.estimate(6 * 10**9)  # 6 s of copying, 20 s of writing beside the loop
    assert cadence.interval_s == pytest.approx(900)  # not 1000, on a guess
    cadence.measured(0.1, 1)
    assert cadence.interval_s == pytest.approx(30)
    cadence.estimate(10**12)
    assert cadence.interval_s == pytest.approx(30)


def test_share_is_the_configs() -> None:
    cadence = make(max_save_fraction=0.1)
    cadence.start(0, num_kept=0)
    cadence.measured(10, 0)
    assert cadence.interval_s == pytest.approx(100)
    assert not cadence.is_due(1, 99)
    assert cadence.is_due(1, 100)
