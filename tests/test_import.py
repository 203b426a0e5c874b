"""``import nbutils`` is light: no torch, no widgets, no pandas, and quick."""

import subprocess
import sys
from pathlib import Path

import nbutils

ROOT = Path(next(iter(nbutils.__path__))).parent
HEAVY = ("torch", "ipywidgets", "IPython", "pandas", "matplotlib", "numpy", "pydantic")
BUDGET_S = 0.06

CODE = f"""
import sys, time
start = time.perf_counter()
import nbutils
seconds = time.perf_counter() - start
print(seconds, sorted(set({HEAVY!r}) & set(sys.modules)))
"""


def fresh_import():
    """Seconds and heavy modules of an import in a new process."""
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    seconds, _, loaded = run.stdout.strip().partition(" ")
    return float(seconds), loaded


def test_import_nbutils_loads_nothing_heavy():
    assert fresh_import()[1] == "[]"


def test_import_nbutils_is_quick():
    # The best of a few: the first one may compile, and others use this machine too.
    assert min(fresh_import()[0] for _ in range(3)) < BUDGET_S


def test_import_unknown_name_is_an_attribute_error():
    assert not hasattr(nbutils, "no_such_name")
