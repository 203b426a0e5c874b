"""Folders are tried, not believed."""

import os
from pathlib import Path

import pytest

from nbutils.environment import storage as storage_module
from nbutils.environment.platform import Platform
from nbutils.environment.storage import free_bytes, inspect_storage, write_problem


def on(persistent_dir, name="runpod"):
    return Platform(
        name=name,
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


def test_storage_in_the_containers_own_layer_of_a_pod_does_not_persist(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(storage_module, "filesystem_of", lambda path: "overlay")
    assert not inspect_storage(tmp_path, on(tmp_path)).is_persistent
    assert inspect_storage(tmp_path, on(tmp_path, "lightning")).is_persistent
    assert inspect_storage(tmp_path, on(Path("."), "local")).is_persistent


def test_storage_is_measured_and_left_as_it_was(tmp_path):
    found = inspect_storage(tmp_path / "runs", on(tmp_path))
    assert found.write_bytes_per_s > 0
    assert found.filesystem
    assert found.future_file == ""
    assert list(tmp_path.iterdir()) == []


def test_storage_with_a_quota_that_a_checkpoint_would_meet_is_a_problem(
    tmp_path, monkeypatch
):
    def refuse(folder):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(storage_module, "try_disk", refuse)
    found = inspect_storage(tmp_path, on(tmp_path))
    assert found.problem == f"{tmp_path}: Disk quota exceeded"
    assert found.write_bytes_per_s is None
