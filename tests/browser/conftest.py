"""Tests in a real JupyterLab and a real Chromium; ``make test-browser`` runs them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from browser.lab import browser_path

MISSING = [
    name
    for name, is_there in (
        ("a chromium browser", browser_path() is not None),
        ("jupyterlab", importlib.util.find_spec("jupyterlab") is not None),
        ("playwright", importlib.util.find_spec("playwright") is not None),
    )
    if not is_there
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here; where a browser is demanded, nothing is skipped."""
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker(pytest.mark.browser)
        if MISSING and not os.environ.get("NBUTILS_NEEDS_BROWSER"):
            reason = f"not on this machine: {', '.join(MISSING)}; see make test-browser"
            item.add_marker(pytest.mark.skip(reason=reason))
