"""R17 and R19: units that values contradict, and a loader that is waited for."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.data import units
from nbutils.preflight.checks.run import throughput
from nbutils.preflight.checks.update import step as r6
from nbutils.preflight.session import run_checks

DEGREES = torch.linspace(-180, 180, 60)


def look(columns, declared=None):
    task = Task(
        nn.Linear(1, 1),
        lambda outputs, batch: outputs.square().mean(),
        columns,
        forward=lambda model, batch: model(next(iter(batch.values()))[:, None]),
        extras={"units": declared} if declared is not None else {},
    )
    return run_checks(task, RunConfig(), [units.CHECK])[0]


@pytest.mark.parametrize(
    ("values", "unit", "severity", "text"),
    [
        (DEGREES, "rad", "warn", "looks like degrees"),
        (DEGREES.deg2rad(), "rad", "pass", ""),
        (DEGREES.deg2rad(), "deg", "warn", "looks like radians"),
        (DEGREES, "deg", "pass", ""),
        (DEGREES, "prob", "fail", "leaves its declared range"),
        (DEGREES.sigmoid(), "prob", "pass", ""),
        (DEGREES, (-180, 180), "pass", ""),
        (DEGREES, (0, 180), "fail", "leaves its declared range"),
        (DEGREES, "furlong", "warn", "no known unit"),
    ],
)
def test_r17_declared_unit_is_held_against_the_values(values, unit, severity, text):
    finding = look({"angle": values}, {"angle": unit})
    assert finding.severity == severity
    assert text in finding.title


def test_r17_declarations_of_another_form_are_told():
    assert "no sample has" in look({"angle": DEGREES}, {"angel": "rad"}).title
    assert "no mapping" in look({"angle": DEGREES}, ["rad"]).title


@pytest.mark.parametrize(
    ("name", "values", "severity"),
    [
        ("theta_rad", DEGREES, "warn"),
        ("theta_rad", DEGREES.deg2rad(), "pass"),
        ("theta_deg", DEGREES.deg2rad(), "warn"),
        ("theta_deg", DEGREES, "pass"),
        ("latitude_deg", DEGREES / 90, "pass"),
        ("phase_rad", DEGREES * 10, "pass"),
        ("prob", DEGREES, "warn"),
        ("prob", DEGREES.sigmoid(), "pass"),
        ("x", DEGREES, "pass"),
    ],
)
def test_r17_names_are_hints(name, values, severity):
    assert look({name: values}).severity == severity


class Slow(Dataset):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.randn(6), index % 3


def pace(seconds: float, **settings):
    task = Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), Slow(seconds))
    config = RunConfig().replace(batch_size=8, **settings)
    found = run_checks(task, config, [r6.CHECK, throughput.CHECK])
    return next(f for f in found if f.id == "R19")


def test_r19_long_run_that_waits_for_data_warns():
    finding = pace(0.01, epochs=2000)
    assert finding.severity == "warn"
    assert "waits for data" in finding.title
    assert "num_workers=" in finding.fix
    assert pace(0.01, epochs=2).severity == "pass"


def test_r19_data_in_memory_passes():
    data = torch.randn(64, 6), torch.arange(64) % 3
    task = Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), data)
    config = RunConfig().replace(epochs=10**6)
    found = run_checks(task, config, [r6.CHECK, throughput.CHECK])
    assert next(f for f in found if f.id == "R19").severity == "pass"
