"""Small data, models and a runner of single checks for the tests of losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.preflight.check import Finding
from nbutils.preflight.checks import CATALOGUE
from nbutils.preflight.session import run_checks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(48, 6, generator=generator())
Y = (X @ torch.randn(6, 4, generator=generator(1))).argmax(1)
T = X @ torch.randn(6, generator=generator(2))
IDS = torch.randint(0, 20, (32, 12), generator=generator())


def mlp(outputs: int = 4, *last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs), *last)


def look(task: Any, check: str, **settings: Any) -> Finding:
    """The finding of one check that is run alone."""
    chosen = [replace(c, needs=()) for c in CATALOGUE if c.id == check]
    config = RunConfig().replace(**settings)
    if check == "S6":
        chosen = [c for c in CATALOGUE if c.id == "R5"] + chosen
        chosen = [replace(c, needs=()) for c in chosen]
    return next(f for f in run_checks(task, config, chosen) if f.id == check)
