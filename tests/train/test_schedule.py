"""Law 7: schedules end where the run ends, and move only when the optimizer did."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.testing import make_task
from nbutils.train.curves import Course, lr_factor
from nbutils.train.landing import Landing, make_landing
from nbutils.train.loss_weights import LossWeights
from nbutils.train.plan import Plan, make_plan
from nbutils.train.schedule import Schedule, build_schedule
from nbutils.train.state import RunState

KINDS = ["constant", "onecycle", "cosine", "linear", "plateau"]
DECAYING = ["onecycle", "cosine", "linear"]
SETTINGS: dict[str, Any] = {"batch_size": 8, "preflight": "skip"}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


def make_schedule(kind: str, planned: int | None, **settings: Any) -> Schedule:
    config = nb.RunConfig(schedule=kind, lr=1.0, **settings)
    return build_schedule(optimizer(), config, planned)


def curve_of(schedule: Schedule, steps: int) -> list[float]:
    found: list[float] = []
    for _ in range(steps):
        found.append(schedule.lr())
        schedule.advance()
    return found


@settings(deadline=None)
@given(
    kind=st.sampled_from(DECAYING),
    batches=st.integers(1, 9),
    accumulation=st.integers(1, 4),
    epochs=st.integers(1, 4),
    max_steps=st.none() | st.integers(2, 40),
    floor=st.sampled_from([0.0, 0.01]),
    data=st.data(),
)
def test_schedule_last_update_of_any_run_is_at_the_curves_end(
    kind: str,
    batches: int,
    accumulation: int,
    epochs: int,
    max_steps: int | None,
    floor: float,
    data: st.DataObject,
) -> None:
    settings = {"epochs": epochs, "accumulation": accumulation, "max_steps": max_steps}
    planned = make_plan(nb.RunConfig(**settings), batches).steps
    assert planned is not None
    warmup = data.draw(st.integers(0, planned - 1))
    shape = {"warmup_steps": warmup, "min_lr": floor}
    curve = curve_of(make_schedule(kind, planned, **shape), planned)
    end = max(floor, 1e-4 / 25) if kind == "onecycle" else floor
    assert curve[-1] == pytest.approx(1.0 if planned == 1 else end)
    assert max(curve) <= 1.0
    top = warmup or (0.3 * (planned - 1) if kind == "onecycle" else 0)
    before = [lr for i, lr in enumerate(curve) if i <= top and i < planned - 1]
    after = [lr for i, lr in enumerate(curve) if i >= top]
    assert before == sorted(before)
    assert after == sorted(after, reverse=True)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    planned=st.integers(2, 30),
    refused=st.sets(st.integers(0, 29)),
    late=st.integers(0, 2),
    cut=st.integers(0, 30),
    metrics=st.lists(st.sampled_from([1.0, 0.5, math.nan]), min_size=30, max_size=30),
    warmup=st.integers(0, 1),
)
def test_schedule_resumed_anywhere_goes_on_bit_for_bit(
    kind: str,
    planned: int,
    refused: set[int],
    late: int,
    cut: int,
    metrics: list[float],
    warmup: int,
) -> None:
    """Refusals may become known ``late`` windows after they happened."""

    def drive(schedule: Schedule, first: int, last: int) -> list[float]:
        found: list[float] = []
        for step in range(first, last):
            found.append(schedule.lr())
            if step - late in refused:
                schedule.hold()
            schedule.advance()
            schedule.observe(metrics[step])
        return found

    settings = {"warmup_steps": warmup, "min_lr": 1e-3}
    cut = min(cut, planned)
    whole = drive(make_schedule(kind, planned, **settings), 0, planned)
    first = make_schedule(kind, planned, **settings)
    before = drive(first, 0, cut)
    second = make_schedule(kind, planned, **settings)
    second.load_state_dict(first.state_dict())
    assert before + drive(second, cut, planned) == whole


@settings(deadline=None)
@given(refused=st.sets(st.integers(0, 19)), kind=st.sampled_from(DECAYING))
def test_schedule_rate_is_a_function_of_applied_updates(
    refused: set[int], kind: str
) -> None:
    schedule, applied = make_schedule(kind, 20), 0
    for step in range(20):
        assert schedule.lr() == lr_factor(kind, applied, 20)
        if step in refused:
            schedule.hold()
        else:
            applied += 1
        schedule.advance()


def test_schedule_warmup_rises_to_peak() -> None:
    curve = [lr_factor("cosine", i, 20, warmup=4) for i in range(5)]
    assert curve == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_schedule_warmup_of_onecycle_is_its_rise() -> None:
    curve = curve_of(make_schedule("onecycle", 40, warmup_steps=5), 40)
    assert curve.index(max(curve)) == 5
    assert curve[0] == pytest.approx(1 / 25)
    usual = curve_of(make_schedule("onecycle", 41), 41)
    assert usual.index(max(usual)) == 12


def test_schedule_refused_update_stands_still() -> None:
    schedule = make_schedule("linear", 11)
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.9)
    schedule.hold()
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.9)
    schedule.advance()
    assert schedule.lr() == pytest.approx(0.8)


def test_schedule_without_a_known_end_raises() -> None:
    with pytest.raises(nb.ConfigError, match="set max_steps"):
        make_schedule("cosine", None)


@pytest.mark.parametrize("kind", KINDS)
def test_schedule_warmup_as_long_as_the_run_raises(kind: str) -> None:
    with pytest.raises(nb.ConfigError, match="warmup_steps is 8, and the run has 8"):
        make_schedule(kind, 8, warmup_steps=8)
    assert curve_of(make_schedule(kind, 8, warmup_steps=7), 8)


def test_schedule_rate_in_a_tensor_is_moved_in_place() -> None:
    rate = torch.tensor(1.0)
    own = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=rate, foreach=True)
    schedule = build_schedule(own, nb.RunConfig(schedule="linear", lr=1.0), 11)
    schedule.advance()
    assert rate.item() == pytest.approx(0.9)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_lowers_as_torch_does(mode: str) -> None:
    values = [3.0, 2.0, 2.0, 2.5, math.nan, 2.0, 1.99999, 1.0, *[1.5] * 9]
    twin = optimizer()
    theirs = ReduceLROnPlateau(twin, mode=mode, patience=2, min_lr=1e-4)  # type: ignore[arg-type]
    ours = make_schedule("plateau", 99, mode=mode, min_lr=1e-4)
    for value in values:
        theirs.step(value)
        ours.observe(value)
        assert ours.lr() == pytest.approx(twin.param_groups[0]["lr"])


def test_plateau_warms_up_first_and_then_listens() -> None:
    schedule = make_schedule("plateau", 9, warmup_steps=3)
    rates: list[float] = []
    for _ in range(3):
        rates.append(schedule.lr())
        schedule.observe(1.0)
        schedule.advance()
    assert rates == pytest.approx([0.25, 0.5, 0.75])
    for _ in range(4):
        assert schedule.lr() == 1.0
        schedule.observe(1.0)
    assert schedule.lr() == pytest.approx(0.1)


@settings(deadline=None)
@given(
    start=st.integers(0, 50),
    num_left=st.integers(1, 50),
    again=st.integers(0, 20),
    longer=st.integers(1, 60),
)
def test_course_bent_twice_neither_jumps_nor_turns(
    start: int, num_left: int, again: int, longer: int
) -> None:
    course = Course(100)
    course.bend(start, start + num_left)
    middle = min(start + again, start + num_left)
    place = course.at(middle)
    course.bend(middle, middle + longer)
    assert course.at(middle) == place
    places = [course.at(i) for i in range(middle, middle + longer + 1)]
    assert places == sorted(places)
    assert places[-1] == 100
    twin = Course(100)
    twin.load_state_dict(course.state_dict())
    assert [twin.at(i) for i in range(middle, middle + longer + 1)] == places


class Flight:
    """A run without its work: windows and evaluations cost what they are said to."""

    def __init__(
        self,
        cap_s: float,
        planned: int,
        kind: str = "cosine",
        per_epoch: int = 100,
        phases: Any = None,
    ) -> None:
        self.config = nb.RunConfig(schedule=kind, lr=1.0, max_hours=cap_s / 3600)
        self.state = RunState()
        self.events: list[dict[str, Any]] = []
        self.plan = Plan(planned, per_epoch, None)
        self.schedule = build_schedule(optimizer(), self.config, planned)
        self.weights = LossWeights({}, phases or {}, planned)
        landing = make_landing(
            self.config, self.plan, self.schedule, self.weights, self.tell
        )
        assert landing is not None
        self.landing: Landing = landing
        self.rates: list[float] = []

    def tell(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})

    def fly(self, window_s: Any, pause_s: float = 0.0, until: int = 10**9) -> Flight:
        """Windows, each after a look at the clock, as the loop has them."""
        state, cap_s = self.state, self.config.train.max_hours * 3600
        elapsed = state.seconds
        while state.step < min(self.landing.plan.steps or 0, until):
            state.seconds = elapsed
            if elapsed >= cap_s:
                break
            self.rates.append(self.schedule.lr())
            self.weights.move(state.step)
            state.step += 1
            elapsed += window_s(state.step) if callable(window_s) else window_s
            self.schedule.advance()
            if state.step >= self.landing.due:
                self.landing.look(state)
            is_closed = state.step % (self.plan.steps_per_epoch or 1) == 0
            if pause_s and is_closed:
                elapsed += pause_s
                self.landing.pause(pause_s)
        state.seconds = elapsed
        if not is_closed and not self.landing.has_no_time(state):
            state.seconds += pause_s
        return self


def jitter(step: int) -> float:
    """Seconds of a window: a slow start, noise, and now and then a hiccup."""
    noise = 0.2 * math.sin(12.9898 * step * step)
    return 1.0 + noise + (30.0 if step < 3 else 0.0) + (5.0 if step % 97 == 0 else 0.0)


@pytest.mark.parametrize("kind", DECAYING)
@pytest.mark.parametrize(
    ("window_s", "pause_s"),
    [(1.0, 0.0), (1.0, 40.0), (jitter, 25.0), (lambda i: 1 + i / 1000, 10.0)],
)
def test_landing_reaches_the_floor_just_before_the_cap(
    kind: str, window_s: Any, pause_s: float
) -> None:
    flight = Flight(3600.0, 10_000, kind).fly(window_s, pause_s)
    assert 0.96 * 3600 < flight.state.seconds <= 3600
    assert flight.rates[-1] == pytest.approx(0.0, abs=1e-5)
    assert flight.state.step < 10_000
    assert flight.landing.is_short
    steps = [abs(b - a) for a, b in zip(flight.rates, flight.rates[1:], strict=False)]
    assert max(steps) < 0.02
    assert 1 <= len(flight.events) <= 60
    last = flight.events[-1]
    assert last["planned_steps"] == flight.state.step == flight.state.planned_steps
    assert "left of max_hours" in last["reason"]


def test_landing_steady_pace_replans_rarely() -> None:
    flight = Flight(3600.0, 10_000).fly(lambda i: 1.0 + 0.05 * math.sin(i))
    assert len(flight.events) <= 8


def test_landing_short_cap_lands_as_well() -> None:
    flight = Flight(2.0, 10_000).fly(lambda i: 0.002 + 0.0005 * math.sin(i))
    assert 1.8 < flight.state.seconds <= 2.0
    assert flight.rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_landing_plan_that_fits_is_left_alone() -> None:
    flight = Flight(3600.0, 2000).fly(1.0, 40.0)
    assert flight.events == []
    assert not flight.landing.is_short
    assert flight.rates == [lr_factor("cosine", i, 2000) for i in range(2000)]


def test_landing_is_never_stretched_beyond_the_plan() -> None:
    def slow_then_fast(step: int) -> float:
        return 5.0 if step < 200 else 0.5

    flight = Flight(3600.0, 3000).fly(slow_then_fast)
    assert flight.events[0]["planned_steps"] < 1000
    assert flight.events[-1]["planned_steps"] == 3000
    assert flight.state.step == 3000
    assert not flight.landing.is_short
    assert flight.rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_landing_evaluation_longer_than_what_is_left_is_not_waited_for() -> None:
    flight = Flight(1000.0, 10_000).fly(1.0, 600.0)
    assert 190 <= flight.state.step < 200
    assert flight.state.seconds <= 1000
    assert flight.rates[-1] == pytest.approx(0.0, abs=1e-5)


def test_landing_first_evaluation_is_expected_before_it_was_seen() -> None:
    flight = Flight(1000.0, 10_000, per_epoch=5000)
    flight.landing.expect_pause(300)
    flight.fly(1.0, 120.0)
    assert 950 < flight.state.seconds <= 1000
    late = Flight(1000.0, 10_000, per_epoch=5000)
    late.landing.expect_pause(2000)  # never fits, and is left out
    late.fly(1.0, 1500.0)
    assert 950 < late.state.seconds <= 1000


def test_landing_refused_updates_still_end_at_the_floor() -> None:
    flight = Flight(1000.0, 10_000).fly(1.0, until=600)
    for _ in range(5):
        flight.schedule.hold()
        flight.state.skipped += 1
    flight.fly(1.0)
    assert flight.rates[-1] == pytest.approx(0.0, abs=1e-5)


def test_landing_phases_are_run_through_as_well() -> None:
    flight = Flight(1000.0, 10_000, phases={"kl": [(0.0, 0.0), (1.0, 1.0)]}).fly(1.0)
    assert flight.weights.current["kl"] == pytest.approx(1.0, abs=0.01)


def test_landing_state_continues_the_same_curve() -> None:
    flight = Flight(1000.0, 10_000, phases={"kl": [(0.0, 0.0), (1.0, 1.0)]})
    flight.fly(1.0, until=500)
    twin = Flight(1000.0, 10_000, phases={"kl": [(0.0, 0.0), (1.0, 1.0)]})
    twin.schedule.load_state_dict(flight.schedule.state_dict())
    twin.landing.load_state_dict(flight.landing.state_dict())
    assert twin.landing.plan == flight.landing.plan
    assert twin.landing.plan.steps != 10_000
    for _ in range(100):
        assert twin.schedule.lr() == flight.schedule.lr()
        for one in (flight, twin):
            one.schedule.advance()
            one.weights.move(one.schedule.position)
        assert twin.weights.current == flight.weights.current


def test_landing_resumed_with_more_time_is_back_on_its_plan() -> None:
    flight = Flight(1000.0, 10_000).fly(1.0)
    twin = Flight(2000.0, 10_000)
    twin.schedule.load_state_dict(flight.schedule.state_dict())
    twin.landing.load_state_dict(flight.landing.state_dict())
    assert not twin.landing.is_short
    assert twin.schedule.lr() == lr_factor("cosine", flight.state.step, 10_000)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cosine"},
        {"schedule": "cosine", "max_hours": 1.0, "land_before_cap": False},
        {"schedule": "constant", "max_hours": 1.0},
        {"schedule": "plateau", "max_hours": 1.0},
    ],
)
def test_landing_is_absent_where_nothing_can_land(settings: Any) -> None:
    config = nb.RunConfig(**settings)
    schedule = build_schedule(optimizer(), config, 10)
    weights = LossWeights({}, {}, 10)
    assert make_landing(config, Plan(10, 5, 2), schedule, weights, print) is None


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Tick(nb.Callback):
    """Each window takes so long by the clock."""

    def __init__(self, clock: Clock, window_s: float) -> None:
        self.clock = clock
        self.window_s = window_s
        self.rates: list[float] = []

    def on_step_end(self, state: Any) -> None:
        self.clock.now += self.window_s
        self.rates.append(state.lr)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("nbutils.train.stop.time.monotonic", fake)
    return fake


def test_landing_run_ends_with_time_evaluated_and_resumes_to_nothing(
    clock: Clock,
) -> None:
    options = {**SETTINGS, "schedule": "cosine", "lr": 0.1, "epochs": 400}
    options |= {"max_hours": 0.1, "save_every_epochs": None}
    tick = Tick(clock, 1.0)
    first = nb.TrainingCoordinator(
        make_task(), run_dir="a", callbacks=[tick], **options
    )
    result = first.train()
    assert result.stop_reason == "time"
    assert 340 < result.steps <= 360
    assert result.seconds <= 360
    assert tick.rates[-1] == pytest.approx(0.0, abs=1e-6)
    assert result.history["step"].iloc[-1] == result.steps
    events = read_events("a/events.jsonl")
    replans = [e for e in events if e["kind"] == "replan"]
    assert replans[-1]["planned_steps"] == result.steps
    again = nb.TrainingCoordinator(make_task(), run_dir="a", **options).train()
    assert (again.stop_reason, again.steps) == ("time", result.steps)


def test_landing_unwanted_run_stops_at_the_cap_with_its_rate_high(
    clock: Clock,
) -> None:
    options = {**SETTINGS, "schedule": "cosine", "lr": 0.1, "epochs": 400}
    tick = Tick(clock, 1.0)
    result = nb.TrainingCoordinator(
        make_task(),
        run_dir="a",
        callbacks=[tick],
        max_hours=0.05,
        land_before_cap=False,
        **options,
    ).train()
    assert result.stop_reason == "time"
    assert tick.rates[-1] > 0.09
