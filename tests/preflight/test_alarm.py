"""Time limits: a check that hangs is given up, and nothing is left behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

import nbutils as nb
from nbutils.preflight import Check, preflight, session, verdict_is_current
from nbutils.preflight.alarm import Overdue, interrupting

# pytest's own limit uses the alarm as well, which switches ours off.
pytestmark = pytest.mark.timeout(60, method="thread")


def state():
    """Who has the alarm, and whether it is set."""
    return signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)


@pytest.fixture(autouse=True)
def unchanged():
    """The alarm is as it was after each test."""
    before = state()
    yield
    assert state() == before


def hang(seconds: float = 5.0) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def call(function):
    """Run a function as the session runs a check: this package calls it."""
    check = Check(
        id="R0", title="Tries", why="w", run=lambda *_: function(), limit_s=0.2
    )
    x = torch.randn(8, 3)
    task = nb.Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, x[:, 0].long() * 0))
    return session.run_checks(task, nb.RunConfig(), [check], "standard")[0]


def test_endless_loop_is_given_up_and_named():
    start = time.perf_counter()
    finding = call(hang)
    assert time.perf_counter() - start < 3
    assert finding.severity == "warn"
    assert "given up, your code was still running" in finding.title
    assert "test_alarm.py" in finding.actual
    assert "in hang" in finding.actual


def test_code_that_survives_every_exception_is_left():
    def stubborn():
        end = time.perf_counter() + 5
        while time.perf_counter() < end:
            try:
                time.sleep(0.3)
            except Exception:  # noqa: S112
                continue

    assert call(stubborn).severity == "warn"


def test_quick_check_is_left_alone():
    assert call(lambda: time.sleep(0.01)).severity == "pass"
    time.sleep(0.5)  # nothing rings afterwards


def test_no_limit_and_none_to_come():
    for limit_s in (0.0, -1.0, float("inf")):
        with interrupting(limit_s):
            assert state()[1] == (0.0, 0.0)


def test_alarm_of_someone_else_is_left_alone():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        mine = signal.getsignal(signal.SIGALRM)
        with interrupting(0.05):
            assert signal.getsignal(signal.SIGALRM) is mine
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == []
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        with interrupting(0.05):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_other_threads_set_no_alarm():
    seen = []

    def run():
        with interrupting(0.05):
            seen.append(state())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [state()]


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        hang(0.7)
        return func(*args, **(kwargs or {}))


def test_dispatch_of_an_operation_is_never_cut_short():
    done = []

    def run():
        with _Mode():
            torch.ones(2) + 1
            done.append(1)
        hang()

    assert call(run).severity == "warn"
    assert done == [1]


def test_clean_up_of_this_package_is_never_cut_short(monkeypatch):
    from nbutils.preflight.probe import Probe

    done = []
    rewind = Probe.rewind

    def slow(probe):
        rewind(probe)
        time.sleep(0.3)
        done.append(1)

    code = slow.__code__.replace(co_filename=Probe.rewind.__code__.co_filename)
    slow.__code__ = code
    monkeypatch.setattr(Probe, "rewind", slow)
    assert call(lambda: None).severity == "pass"
    assert len(done) == 2
    held: list[Probe] = []
    check = Check(
        id="R0",
        title="Rewinds",
        why="w",
        run=lambda p, c: held[0].rewind(),
        limit_s=0.1,
    )
    x = torch.randn(8, 3)
    task = nb.Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, x[:, 0].long() * 0))
    held.append(Probe(task, nb.RunConfig()))
    found = session.run_checks(task, nb.RunConfig(), [check], "standard")
    assert found[0].severity == "pass"
    assert len(done) == 5


class Slow(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(60)
        return torch.zeros(3), 0


def test_dataset_that_sleeps_ends_the_checks_and_is_named(monkeypatch):
    monkeypatch.setattr(session, "HARD_FACTOR", {"standard": 0.05})
    task = nb.Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), Slow())
    start = time.perf_counter()
    report = preflight(task)
    assert time.perf_counter() - start < 20
    warned = [f for f in report.findings if f.severity == "warn"]
    assert "in __getitem__: time.sleep(60)" in warned[0].actual
    skipped = [f for f in report.findings if f.severity == "skip"]
    assert f"not judged, {warned[0].id} did not end" in skipped[-1].title
    assert report.verdict["fingerprint"] == ""
    assert "cut short" in verdict_is_current(task, nb.RunConfig())[1]


def test_check_after_the_budget_is_skipped_and_says_so(monkeypatch):
    monkeypatch.setattr(session, "NO_START_S", {"static": 0.0})
    x = torch.randn(8, 3)
    task = nb.Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, x[:, 0].long() * 0))
    report = preflight(task, depth="static")
    assert {f.severity for f in report.findings} == {"skip"}
    assert "not judged, the checks before it took 0 s" in report.findings[0].title


def test_overdue_is_no_plain_exception():
    assert not issubclass(Overdue, Exception)
