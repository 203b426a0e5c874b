"""A module that was edited after it was loaded is named; others are not."""

import importlib
import os
import sys
import time

import pytest

from nbutils.environment.edits import LOADED_S, edited_modules, version_on_disk

SOURCE = '''
"""A module."""
import functools
LIMIT = 3
TABLE = {"a": 1}
TABLE["b"] = 2
NAMES = ("a",)
NAMES += ("b",)


def double(x):
    return x * 2


@functools.lru_cache(maxsize=2)
def cached(x):
    return x


class Thing:
    @property
    def size(self):
        return 1

    @staticmethod
    def plain():
        return [i for i in range(3)]
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one module, loaded."""
    folder = tmp_path / "edited_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text('__version__ = "1.0"\n')
    (folder / "part.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("edited_pkg.part")
    yield folder
    for name in ("edited_pkg", "edited_pkg.part"):
        sys.modules.pop(name, None)


def edited(folder):
    return edited_modules(sys.modules, "edited_pkg", since_s=0.0)


def test_edited_untouched_package_is_silent(package):
    assert edited(package) == []


def test_edited_touched_but_equal_file_is_silent(package):
    os.utime(package / "part.py")
    assert edited(package) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 2", "x * 3"),
        ("return 1", "return 2"),
        ("range(3)", "range(4)"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("def double", "def triple"),
        ("    return x\n", "    return -x\n"),
        ("LIMIT = 3", "LIMIT = ("),  # half saved
    ],
)
def test_edited_change_of_code_or_constant_is_named(package, old, new):
    path = package / "part.py"
    path.write_text(SOURCE.replace(old, new))
    assert edited(package) == ["edited_pkg.part"]


def test_edited_module_that_was_reloaded_is_silent(package):
    (package / "part.py").write_text(SOURCE.replace("x * 2", "x * 3"))
    module = sys.modules["edited_pkg.part"]
    exec(  # noqa: S102 (what a reload does, whatever the clock's resolution)
        compile((package / "part.py").read_text(), module.__file__, "exec"),
        vars(module),
    )
    assert edited(package) == []


def test_edited_only_files_younger_than_the_process_count(package):
    (package / "part.py").write_text(SOURCE.replace("x * 2", "x * 3"))
    old_s = LOADED_S - 60
    os.utime(package / "part.py", (old_s, old_s))
    assert edited_modules(sys.modules, "edited_pkg") == []
    now_s = time.time() + 1
    os.utime(package / "part.py", (now_s, now_s))
    assert edited_modules(sys.modules, "edited_pkg") == ["edited_pkg.part"]


def test_version_on_disk_is_what_the_file_says_now(package):
    assert version_on_disk("edited_pkg") == "1.0"
    (package / "__init__.py").write_text('__version__ = "1.1"\n')
    assert version_on_disk("edited_pkg") == "1.1"
    (package / "__init__.py").write_text("")
    assert version_on_disk("edited_pkg") is None
    assert version_on_disk("no_such_package") is None
