"""Healthy tasks of many kinds: preflight finds no fault in any of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from nbutils.preflight import preflight
from nbutils.preflight.checks import CATALOGUE

_SPEC = importlib.util.spec_from_file_location(
    "preflight_tasks", Path(__file__).with_name("tasks.py")
)
tasks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tasks)

MAY_WARN = {
    "multi_term": {"R4"},  # samples its code in eval mode too
    "lazy": {"R4"},
    "tied": {"R5"},  # N(0, 1) embeddings as the head start high
    "missing_values": {"R3"},
    "stochastic_data": {"R2"},
    "single": {"R5"},  # one target says little
}


@pytest.mark.parametrize("name", tasks.HEALTHY)
def test_preflight_healthy_task_passes(name):
    report = preflight(tasks.HEALTHY[name](), on_failure="return")
    assert report.passed, report.text
    warned = {f.id for f in report.findings if f.severity == "warn"} - {"S1"}
    assert warned <= MAY_WARN.get(name, set()), report.text


@pytest.mark.parametrize("seed", range(8))
def test_preflight_plain_task_passes_whatever_the_weights(seed):
    torch.manual_seed(seed)
    assert preflight(tasks.plain(), seed=seed).passed


def test_preflight_every_check_reports_once():
    report = preflight(tasks.plain())
    ids = [finding.id for finding in report.findings]
    wanted = {check.id for check in CATALOGUE if check.depth != "rehearsal"}
    assert len(ids) == len(set(ids))
    assert set(ids) == wanted - {"S8"}  # the real model ran
    assert {
        f"R{number}" for number in (1, 2, 3, 4, 5, 6, 7, 10, 14, 15, 17, 19)
    } <= wanted


def test_preflight_same_seed_gives_same_findings():
    def told():
        report = preflight(task, on_failure="return")
        measured = ("S1", "R14", "R19")  # free memory and seconds are in their details
        rest = [f for f in report.findings if f.id not in measured]
        return [(f.id, f.severity, f.details) for f in rest]

    task = tasks.multi_term()
    assert told() == told()


def test_preflight_static_reads_no_data():
    class Unread:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index):
            raise AssertionError("a sample was read")

    task = tasks.Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), Unread())
    report = preflight(task, depth="static")
    wanted = {check.id for check in CATALOGUE if check.depth == "static"}
    assert {f.id for f in report.findings} == wanted
    assert wanted >= {"S1", "S2", "S3", "S5", "S8", "R14"}


def test_preflight_shapes_of_every_tensor_are_on_the_card():
    report = preflight(tasks.dict_batches(), batch_size=8)
    for text in ("float32 (B, 6)", "int64 (B,)", "float32 (8, 6)", "float32 (8, 3)"):
        assert text in report.html


def test_r4_shows_the_form_of_the_outputs_beside_their_shapes():
    report = preflight(tasks.HEALTHY["plain"]())
    finding = next(f for f in report.findings if f.id == "R4")
    assert "(B, " in finding.expected
    assert "float32" in finding.actual
