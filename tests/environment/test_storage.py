"""Folders are tried, not believed."""

import os
from pathlib import Path

import pytest

from nbutils.environment.platform import Platform
from nbutils.environment.storage import free_bytes, inspect_storage, write_problem


def on(persistent_dir):
    return Platform(
        name="runpod",
        is_headless=True,
        persistent_dir=persistent_dir,
        scratch_dir=Path("/tmp"),
        reason="test",
    )


def test_write_problem_writable_folder_has_none_and_leaves_nothing(tmp_path):
    assert write_problem(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_write_problem_folder_to_be_made_is_judged_by_its_parent(tmp_path):
    assert write_problem(tmp_path / "runs" / "night") == ""
    assert list(tmp_path.iterdir()) == []


def test_write_problem_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    assert (
        write_problem(tmp_path / "runs") == f"{tmp_path}/runs is a file, not a folder"
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_write_problem_refusal_is_the_systems_own_word():
    # A folder that refuses even the superuser.
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    assert write_problem(Path("/proc/self")).startswith("/proc/self: ")


def test_free_bytes_of_a_folder_to_be_made(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_storage_inside_the_persistent_folder_persists(tmp_path):
    assert inspect_storage(tmp_path / "runs", on(tmp_path)).is_persistent
    assert inspect_storage(tmp_path, on(Path("."))).is_persistent


def test_storage_outside_the_persistent_folder_does_not(tmp_path):
    assert not inspect_storage(tmp_path, on(tmp_path / "kept")).is_persistent
    assert not inspect_storage(tmp_path, on(None)).is_persistent
