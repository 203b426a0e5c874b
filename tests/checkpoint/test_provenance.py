"""What a run writes down about where it comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from nbutils.checkpoint import provenance as module
from nbutils.checkpoint.provenance import code_revision, machine_line, provenance
from nbutils.errors import ConfigError
from nbutils.testing import make_task


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder, as nobody in particular."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(  # a fixed command
        ["git", *who, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_code_revision_names_the_commit_and_changes_since(tmp_path: Path) -> None:
    assert code_revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert code_revision(tmp_path) is None  # no commit yet
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    found = code_revision(tmp_path)
    assert found is not None
    assert len(found["commit"]) == 40
    assert found["is_dirty"] is False
    (tmp_path / "a.py").write_text("2")
    changed = code_revision(tmp_path)
    assert changed is not None
    assert changed["is_dirty"] is True


@pytest.mark.parametrize(
    "error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 3)]
)
def test_code_revision_without_git_or_with_a_slow_one_is_none(
    error: Exception, tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module.subprocess, "run", fail)
    assert code_revision(tmp_path) is None


def test_machine_line_names_machine_and_versions_and_no_folder() -> None:
    facts = {
        "platform": "runpod (RUNPOD_POD_ID is set)",
        "device": "cuda (auto: a CUDA device is available)",
        "processor": "NVIDIA L4; fast formats: bf16",
        "python": "3.12.3 on Linux 6.8 (x86_64)",
        "torch": "2.15.0",
        "persistent folder": "/home/someone",
    }
    line = "runpod, cuda, NVIDIA L4, Python 3.12.3, torch 2.15.0"
    assert machine_line(facts) == line
    assert machine_line({}) == ""


def test_provenance_keeps_earlier_processes_and_counts_data(monkeypatch: Any) -> None:
    monkeypatch.setenv("NBUTILS_PRICE_PER_HOUR", "0.4")
    task = make_task(40, extras={"bad_files": [("a", "torn")]})
    state = torch.get_rng_state()
    first = provenance(task, {}, {}, 1.0)
    again = provenance(task, {}, first, 2.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert [item["time_s"] for item in again["sessions"]] == [1.0, 2.0]
    assert first["samples"] == {"train": 40, "val": 16, "test": None}
    assert first["data_fingerprints"] == again["data_fingerprints"]
    assert set(first["data_fingerprints"]) == {"train", "val"}
    assert first["left_out"] == 1
    assert first["price_per_hour"] == 0.4


def test_provenance_with_a_price_that_is_no_number_raises(monkeypatch: Any) -> None:
    monkeypatch.setenv("NBUTILS_PRICE_PER_HOUR", "cheap")
    with pytest.raises(ConfigError, match="the price of an hour is 'cheap'"):
        provenance(make_task(8), {}, {}, 1.0)
