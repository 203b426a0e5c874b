"""S2: names that nothing reads, and arguments that nothing uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import nbutils
from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.static import consumption
from nbutils.preflight.session import run_checks

SOURCES = [p.read_text("utf-8") for p in Path(nbutils.__path__[0]).rglob("*.py")]


def look(model=None, **changes):
    x = torch.randn(8, 6)
    built = Task(model or nn.Linear(6, 3), nn.CrossEntropyLoss(), (x, x[:, 0] > 0))
    built = Task(built.model, built.loss, built.train_data, **changes)
    return run_checks(built, RunConfig(), [consumption.CHECK], "static")[0]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"declares": ["sample interact"]}, "samples interact"),
        ({"declares": ["frozen_on_purpose"]}, "frozen on purpose"),
        ({"extras": {"classnames": ["a"]}}, "class_names"),
        ({"extras": {"price_per_hr": 2.0}}, "price_per_hour"),
    ],
)
def test_name_close_to_a_known_one_is_told(given, meant):
    finding = look(**given)
    assert finding.severity == "warn"
    assert f"did you mean '{meant}'" in finding.title


@pytest.mark.parametrize(
    "given",
    [
        {"declares": list(consumption.DECLARATIONS)},
        {"declares": ["graphs are undirected"]},
        {"extras": {"author": "me", "class_names": ["a"], "notes": 3}},
    ],
)
def test_known_names_and_those_of_ones_own_pass(given):
    assert look(**given).severity == "pass"


def test_every_declaration_that_is_read_is_known():
    pattern = re.compile(r'"([a-z ]+)"\s+(?:not )?in\s+[\w.()\[\]]*declare|'
                         r'^DECLARATION = "([a-z ]+)"', re.M)  # fmt: skip
    read = {a or b for text in SOURCES for a, b in pattern.findall(text)}
    assert read - set(consumption.DECLARATIONS) == set()
    told = {name for name in consumption.DECLARATIONS if name not in read}
    assert [n for n in told if not any(f'"{n}"' in text for text in SOURCES)] == []


def test_every_extra_that_is_read_is_known():
    pattern = re.compile(r'extras(?:\[|\.get\()"([a-z_]+)"')
    read = {name for text in SOURCES for name in pattern.findall(text)}
    assert read - set(consumption.EXTRAS) == set()


class Deaf(nn.Module):
    def __init__(self, width: int = 6, dropout: float = 0.1):
        super().__init__()
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(x)


class Swallows(nn.Module):
    def __init__(self, width: int = 6, **kwargs):
        super().__init__()
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(x)


class Base(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.fc = nn.Linear(width, 3)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.fc(x)


class Same(Base):
    """Keeps the signature of its base."""

    def __init__(self, width: int = 6, dropout: float = 0.1, seed: int = 0):
        super().__init__(width, 0.0)


class Local(nn.Module):
    def __init__(self, width: int = 6, depth: int = 2):
        super().__init__()
        self.options = dict(locals())
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(x)


class Nested(nn.Module):
    def __init__(self, width: int = 6, depth: int = 2):
        super().__init__()

        def block():
            return [nn.Linear(width, width) for _ in range(depth)]

        self.fc = nn.Sequential(*block(), nn.Linear(width, 3))

    def forward(self, x):
        return self.fc(x)


def test_knob_that_a_constructor_never_reads_is_named():
    finding = look(nn.Sequential(Deaf()))
    assert finding.severity == "warn"
    assert "Deaf never reads its argument 'dropout'" in finding.title


def test_keywords_that_are_swallowed_are_told():
    finding = look(Swallows(dropuot=0.3))
    assert finding.severity == "pass"
    assert "**kwargs swallows" in str(finding.details)


@pytest.mark.parametrize("kind", [Same, Local, Nested])
def test_arguments_that_may_be_read_are_no_fault(kind):
    assert look(kind()).severity == "pass"
