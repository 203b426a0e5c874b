"""Every fault of the gallery is named, and nothing is said about healthy programs."""

from __future__ import annotations

import os
import zlib

import pytest

from gallery.judge import load, look, names_it, train_epoch
from gallery.known import MAY_WARN, NOT_CAUGHT

FAULTS, HEALTHY = load()
PARTS = int(os.environ.get("NBUTILS_GALLERY_PARTS", "3"))
"""One part of all is tried; 1 tries every program, as ``make gallery`` does."""


def chosen(cases):
    """Every third program or so, always the same ones."""
    return [c for c in cases if zlib.crc32(c.name.encode()) % PARTS == 0]


BEFORE = [case for case in FAULTS if case.stage not in ("epoch", "engine")]
PAIRS = [pytest.param(case, id=case.name) for case in chosen(FAULTS)]


@pytest.mark.parametrize("case", PAIRS)
def test_fault_is_named(case):
    depth = "rehearsal" if case.stage == "rehearsal" else "standard"
    alarms = look(case.build(True), depth).alarms
    if not any(names_it(case, alarm) for alarm in alarms) and case not in BEFORE:
        alarms += train_epoch(case.build(True)).alarms
    named = [alarm for alarm in alarms if names_it(case, alarm)]
    if case.name in NOT_CAUGHT:
        assert not named, f"{case.name} is caught now: take it off the list"
        return
    assert named, f"{case.text}: only {[a.title for a in alarms]} was said"


@pytest.mark.parametrize("case", PAIRS)
def test_twin_is_left_in_peace(case):
    depth = "rehearsal" if case.stage == "rehearsal" else "standard"
    assert not _unforeseen(look(case.build(False), depth), case.name, ())


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in chosen(HEALTHY)]
)
def test_healthy_program_is_left_in_peace(case):
    assert not _unforeseen(look(case.build()), case.name, case.may_warn)


def _unforeseen(found, name, may_warn):
    """No `fail` at all, and no warning but those that were agreed to, with a reason."""
    foreseen = {*may_warn, *MAY_WARN.get(name, ())}
    return [
        (alarm.source, alarm.severity, alarm.title)
        for alarm in found.alarms
        if alarm.severity == "fail" or alarm.source not in foreseen
    ]


def test_gallery_is_as_large_as_it_claims():
    assert min(len(FAULTS), len(chosen(FAULTS))) >= 60
    assert min(len(HEALTHY), len(chosen(HEALTHY))) >= 40
    kinds = {"images", "graphs", "sequences", "text", "arrays", "dicts"}
    assert kinds <= {case.kind for case in FAULTS}
    assert len({case.name for case in (*FAULTS, *HEALTHY)}) == len(FAULTS) + len(
        HEALTHY
    )
