"""Every view folds the same events to the same state."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nbutils.monitor.runview import RunView, Series, format_duration, format_number


def event(kind: str, time_s: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"time_s": time_s, "kind": kind, **fields}


def epochs(*numbers: int) -> list[dict[str, Any]]:
    return [event("epoch", epoch=n, step=10 * n, val_loss=1 / n) for n in numbers]


def test_view_after_resume_drops_rows_and_points_done_again() -> None:
    steps = [event("step", step=s, loss=float(s), lr=0.1) for s in range(1, 31)]
    view = RunView.from_events([*steps, *epochs(1, 2, 3)])
    view.apply(event("resume", step=15, epoch=1))
    assert [row["epoch"] for row in view.rows] == [1]
    assert (view.step, view.loss.points[-1], view.num_resumes) == (15, (15, 15.0), 1)
    for again in epochs(2, 3):
        view.apply(again)
    assert [row["epoch"] for row in view.rows] == [1, 2, 3]


def test_view_of_a_run_begun_anew_forgets_the_first_attempt() -> None:
    best = event("checkpoint", step=10, best=True, path="a")
    view = RunView.from_events(
        [*epochs(1), best, event("stop", step=10, reason="interrupt")]
    )
    view.apply(event("run_start", step=0, epoch=0))
    assert (view.rows, view.step, view.stop, view.best_checkpoint) == ([], 0, {}, {})


def test_view_eta_counts_from_the_resume() -> None:
    view = RunView.from_events(
        [
            event("run_start", 0, planned_steps=100),
            event("step", 50, step=50),
            event("resume", 1000, step=50, epoch=0),
            event("step", 1010, step=60),
        ]
    )
    assert view.eta_s() == pytest.approx(40)


def test_view_of_a_step_not_read_back_yet_has_no_point() -> None:
    view = RunView.from_events([event("step", step=1, loss=None, lr=None)])
    assert (view.loss.points, view.lr.points, view.step) == ([], [], 1)


@pytest.mark.parametrize("kind", ["epoch", "evaluate", "checkpoint", "stop", "run_end"])
def test_view_step_follows_events_between_logged_steps(kind: str) -> None:
    view = RunView.from_events([event("run_start"), event("step", step=10)])
    view.apply(event(kind, step=13, epoch=1))
    assert view.step == 13
    view.apply(event("message", text="without a step"))
    assert view.step == 13
    view.apply(event("resume", step=10, epoch=0))
    assert view.step == 10


def test_view_without_a_plan_has_no_eta() -> None:
    assert math.isnan(RunView.from_events([event("step", 1, step=1)]).eta_s())


def test_view_counts_refusals_once() -> None:
    view = RunView()
    view.apply(event("refused", step=1))
    view.apply(event("step", step=2, refused=1))
    view.apply(event("refused", step=3))
    assert view.num_refused == 2


def test_view_keeps_notable_events_and_the_best_checkpoint() -> None:
    view = RunView.from_events(
        [
            event("checkpoint", step=1, path="a", best=False),
            event("checkpoint", step=2, path="b", best=True),
            event("some_future_kind", step=3),
        ]
    )
    assert [found["path"] for found in view.notable] == ["b"]
    assert view.best_checkpoint["path"] == "b"


def test_view_shows_validation_numbers_not_test_ones() -> None:
    view = RunView()
    view.apply(event("evaluate", split="val", metrics={"val_loss": 0.5, "m": [[1]]}))
    view.apply(event("evaluate", split="test", metrics={"test_loss": 0.7}))
    assert view.metrics == {"val_loss": 0.5}


def test_series_stays_bounded_and_spans_the_run() -> None:
    series = Series(max_points=64)
    for x in range(100_000):
        series.append(x, 0.0)
    assert 16 <= len(series.points) < 64
    assert series.points[0][0] == 0
    assert series.points[-1][0] > 95_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [(math.nan, "nan"), (0.0, "0"), (True, "True"), ("a", "a"), (12345.6, "12,345.6")],
)
def test_format_number_of_odd_values(value: object, expected: str) -> None:
    assert format_number(value) == expected


def test_format_duration_rounds_to_seconds() -> None:
    assert [format_duration(s) for s in (59.7, 3599.9, -1)] == [
        "1:00",
        "1:00:00",
        "0:00",
    ]


def test_view_eta_leaves_the_start_up_out_once_it_can() -> None:
    view = RunView.from_events([event("run_start", 0, planned_steps=100)])
    for step in range(1, 4):
        view.apply(event("step", 60 + step, step=step))
    assert view.eta_s() == pytest.approx(97 * 63 / 3)
    for step in range(4, 7):
        view.apply(event("step", 60 + step, step=step))
    assert view.eta_s() == pytest.approx(94)


def test_view_keeps_numbers_of_a_cadence_of_their_own() -> None:
    view = RunView()
    for step in range(5):
        values = {"host/rss_bytes": 10.0 * step, "loader/wait_fraction": None}
        view.apply(event("monitor", step=step, values=values))
    assert view.monitor == {"host/rss_bytes": 40.0}
    assert view.monitored["host/rss_bytes"].points[-1] == (4, 40.0)
    view.apply(event("resume", step=2, epoch=0))
    assert view.monitored["host/rss_bytes"].points[-1] == (2, 20.0)


def test_view_of_endless_names_stays_bounded() -> None:
    view = RunView()
    for number in range(500):
        view.apply(event("monitor", step=1, values={f"gradients/share/{number}": 1}))
    assert len(view.monitored) == len(view.monitor) == 64


def test_view_has_each_validation_once_per_step() -> None:
    view = RunView()
    for step in (10, 20):
        view.apply(event("evaluate", step=step, metrics={"val_loss": 1 / step}))
        view.apply(event("epoch", step=step, epoch=step // 10, val_loss=1 / step))
    view.apply(event("epoch", step=30, epoch=3, val_f1=0.5))
    assert [x for x, _ in view.checked["val_loss"].points] == [10, 20]
    assert view.checked["val_f1"].points == [(30, 0.5)]


def test_view_counts_events_by_kind() -> None:
    view = RunView.from_events([event("oom", step=1), event("oom", step=2)])
    assert view.counts["oom"] == 2
    assert view.last_checkpoint == {}
    view.apply(event("checkpoint", step=3, path="a"))
    assert view.last_checkpoint["step"] == 3
