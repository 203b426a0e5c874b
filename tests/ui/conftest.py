"""Wizards are closed after each test, and nothing from outside sets a value."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbutils.monitor import display
from nbutils.ui import wizard

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables of ours, no open wizard before or after, nothing registered."""
    for name in [name for name in os.environ if name.startswith("NBUTILS_")]:
        monkeypatch.delenv(name)
    yield
    for open_wizard in list(wizard._OPEN.values()):
        open_wizard.close()
    display.register(None, None)
