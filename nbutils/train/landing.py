"""Landing: a decaying curve ends before ``max_hours`` does, not after it.

The number of windows that still fit is told from measured time: seconds per window,
and the pauses between passes (evaluation, saves). A plan that does not fit is
shortened: the rest of the curve is run through in fewer steps, from where it stands,
so that the learning rate never jumps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nbutils.train.loss_weights import LossWeights
from nbutils.train.plan import Plan
from nbutils.train.schedule import CurveSchedule
from nbutils.train.state import RunState

__all__ = ["Landing", "make_landing"]

LOOK_SHARE = 0.01  # of the time limit, between two looks at the clock,
LOOK_S = 30.0  # and no longer than this
NUM_LOOKS = 16  # that a measurement of the pace reaches back
SPARE_OF_REST = 0.02  # a new plan keeps free this share of the time that is left
SPARE_OF_ALL = 0.002  # and this one of all the time;
FORWARD_SHARE = 0.5  # of a window's time, that its batches take in evaluation
RESERVE_SHARE = 0.25  # of all the time, that a last evaluation may be worth
KEEP_FROM, KEEP_TO = 0.25, 3.0  # a plan that keeps so many times that stays as it is


class Landing:
    """Shortens the plan of a run when its time limit would cut it off.

    Args:
        plan: The plan without a time limit.
        cap_s: The limit over all sessions of the run, in seconds.
        schedule: Whose curve has an end.
        weights: Loss weights, whose phases are shortened as well.
        tell: Gets each new plan as an event: ``tell("replan", step=…)``.

    Attributes:
        plan: The plan in force; never longer than the given one.
        due: The step at which :meth:`look` is wanted next.
        is_short: Whether the plan in force ends for lack of time.
    """

    def __init__(
        self,
        plan: Plan,
        cap_s: float,
        schedule: CurveSchedule,
        weights: LossWeights,
        tell: Callable[..., Any],
    ) -> None:
        self.plan = plan
        self.due = 0
        self.is_short = False
        self._full = plan
        self._num_full = plan.steps or 0
        self._cap_s = cap_s
        self._schedule = schedule
        self._weights = weights
        self._tell = tell
        self._look_s = min(LOOK_SHARE * cap_s, LOOK_S)
        self._looks: deque[tuple[int, float]] = deque(maxlen=NUM_LOOKS)
        self._pauses = (0, 0.0)  # how many, and their seconds
        self._window_s = 0.0
        self._expected_windows = 0.0
        self._num_skipped = 0

    def expect_pause(self, num_windows: float) -> None:
        """Until a pass was closed, that is taken to be the forward of these windows."""
        self._expected_windows = num_windows

    def pause(self, seconds: float) -> None:
        """A pass was closed: evaluation, saves and the like took so long."""
        count, total = self._pauses
        self._pauses = (count + 1, total + seconds)

    def look(self, state: RunState) -> Plan:
        """Measure, re-plan if need be, say when to look again; the plan in force."""
        self._looks.append((state.step, state.seconds - self._pauses[1]))
        (step, busy_s), (first_step, first_s) = self._looks[-1], self._looks[0]
        if len(self._looks) == 1:
            self.due = step + 1  # the first window of a session is no measure
            return self.plan
        window_s = max((busy_s - first_s) / (step - first_step), 1e-9)
        self._window_s = window_s
        left_s = self._cap_s - state.seconds - window_s  # the clock is a window old
        if busy_s - first_s >= self._look_s:
            self._judge(state, window_s, max(left_s, 0.0))
        interval_s = min(self._look_s, left_s / 4)
        self.due = step + max(math.ceil(interval_s / window_s), 1)
        return self.plan

    def _judge(self, state: RunState, window_s: float, left_s: float) -> None:
        """Keep the plan, or make the one that fits into ``left_s``."""

        def seconds(num_windows: int) -> float:
            return num_windows * window_s + self._pauses_s(state.step, num_windows)

        spare_s = SPARE_OF_REST * left_s + SPARE_OF_ALL * self._cap_s
        free_s = left_s - seconds((self.plan.steps or 0) - state.step)
        is_roomy = free_s > KEEP_TO * spare_s and self.is_short
        if free_s >= KEEP_FROM * spare_s and not is_roomy:
            self._catch_up(state)
            return
        counts = range(1, self._num_full - state.step + 1)
        num_fit = bisect_right(counts, left_s - spare_s, key=seconds)
        end = state.step + max(num_fit, 1)
        if end == self.plan.steps or end > self._num_full:
            return
        self._replan(state, end)
        text = (
            f"{window_s:.3g} s a step, {left_s:.3g} s left of max_hours: the run ends "
            f"with step {end} of {self._num_full}"
        )
        self._tell("replan", step=state.step, planned_steps=end, reason=text)

    def has_no_time(self, state: RunState) -> bool:
        """Whether a shortened run has ended too late to be evaluated once more."""
        return self.is_short and self._cap_s - state.seconds < self._pause_s()

    def _pause_s(self) -> float:
        """Mean seconds to close a pass; before the first, what is expected."""
        count, total_s = self._pauses
        if count:
            return total_s / count
        return FORWARD_SHARE * self._expected_windows * self._window_s

    def _pauses_s(self, step: int, num_windows: int) -> float:
        """Seconds between so many more windows, and after the last one."""
        pause_s = self._pause_s()
        per_epoch = self._full.steps_per_epoch or self._num_full
        passes = (step + num_windows) / per_epoch
        is_reserved = pause_s <= RESERVE_SHARE * self._cap_s
        if not is_reserved and not self._pauses[0]:
            return 0.0  # a mere guess must not end a run early
        closed = math.ceil(passes) if is_reserved else math.floor(passes)
        return (closed - step // per_epoch) * pause_s

    def _replan(self, state: RunState, end: int) -> None:
        """Make window ``end`` the last one."""
        self._set_end(end)
        state.planned_steps = end
        self._num_skipped = state.skipped
        self._schedule.land(end - state.step)
        self._weights.land(state.step, end)

    def _catch_up(self, state: RunState) -> None:
        """Refused updates have held a shortened curve back: still end in time."""
        if self.is_short and state.skipped != self._num_skipped:
            self._num_skipped = state.skipped
            self._schedule.land((self.plan.steps or 0) - state.step)

    def _set_end(self, end: int) -> None:
        self.is_short = end < self._num_full
        short = replace(self._full, steps=end, limit=end)
        self.plan = short if self.is_short else self._full

    def state_dict(self) -> dict[str, Any]:
        """The plan in force, what it was made from, and how far curves are bent."""
        return {
            "cap_s": self._cap_s,
            "num_full": self._num_full,
            "end": self.plan.steps,
            "schedule": self._schedule.course.state_dict(),
            "weights": self._weights.course.state_dict(),
            "pauses": self._pauses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; must follow the schedule's own state.

        With another limit, or another plan, the run is back on its full plan.
        """
        if (state["cap_s"], state["num_full"]) != (self._cap_s, self._num_full):
            return
        self._set_end(state["end"])
        self._schedule.course.load_state_dict(state["schedule"])
        self._schedule.refresh()
        self._weights.course.load_state_dict(state["weights"])
        self._pauses = (state["pauses"][0], state["pauses"][1])


def make_landing(
    config: Any,
    plan: Plan,
    schedule: Any,
    weights: LossWeights,
    tell: Callable[..., Any],
) -> Landing | None:
    """The landing of a run; none without a time limit or a curve that ends."""
    hours = config.train.max_hours
    if hours is None or not config.schedule.land_before_cap or plan.steps is None:
        return None
    if not isinstance(schedule, CurveSchedule) or not schedule.is_decaying:
        return None
    return Landing(plan, hours * 3600, schedule, weights, tell)
