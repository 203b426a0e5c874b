"""Which files go along with a run, and what is said of those that do not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nbutils.config import RunConfig
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking import uploads
from nbutils.tracking.uploads import chosen_files, upload_files


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run").create()
    (made.figures_dir / "confusion.png").write_bytes(b"p" * 1000)
    (made.path / "report.html").write_text("<td>s3://me:pass-word@h/a</td>")
    best = made.checkpoints_dir / "best"
    best.mkdir()
    (best / "model.safetensors").write_bytes(b"w" * 5000)
    made.config_path.write_text("train:\n  epochs: 3\n")
    found = {
        "metric": "val_loss",
        "value": 0.5,
        "step": 9,
        "path": f"/moved/{best.name}",
    }
    made.write_json("run.json", {"best": found})
    return made


class FakeWandb:
    """Collects what is handed over."""

    id = "r"

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def Artifact(self, name: str, type: str, metadata: Any) -> FakeWandb:
        self.files = self.made.setdefault(name, {"metadata": metadata})
        return self

    def add_file(self, path: str, name: str) -> None:
        self.files[name] = Path(path).stat().st_size

    @contextmanager
    def new_file(self, name: str, mode: str, encoding: str) -> Iterator[io.StringIO]:
        text = io.StringIO()
        yield text
        self.files[name] = text.getvalue()

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self.files["aliases"] = aliases


def upload(directory: RunDirectory, **settings: Any) -> tuple[FakeWandb, list[str]]:
    run = FakeWandb()
    return run, list(upload_files(run, RunConfig(**settings), directory))


@pytest.fixture(autouse=True)
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "artifact_of", lambda run, *args: run.Artifact(*args))


def test_upload_of_nothing_hands_nothing_over(directory: RunDirectory) -> None:
    run, told = upload(directory)
    assert (run.made, told) == ({}, [])


def test_upload_hands_over_what_was_asked_for(directory: RunDirectory) -> None:
    run, told = upload(directory, upload=["figures", "report", "model"])
    assert told == []
    assert run.made["figures-r"]["confusion.png"] == 1000
    assert run.made["report-r"]["aliases"] == ["latest"]
    assert run.made["report-r"]["report.html"] == "<td>s3://me:[redacted]@h/a</td>"
    model = run.made["model-r"]
    assert model["model.safetensors"] == 5000
    assert model["aliases"] == ["latest", "best"]
    assert model["metadata"] == {"metric": "val_loss", "value": 0.5, "step": 9}


def test_upload_leaves_out_what_is_too_large_and_says_so(
    directory: RunDirectory,
) -> None:
    run, told = upload(directory, upload="model,report", max_upload_mb=0.001)
    (text,) = told
    assert text.startswith("W&B does not get model.safetensors: it has 0.005 MB")
    assert "max_upload_mb=0.001" in text
    assert "model.safetensors" not in run.made["model-r"]
    assert "report.html" in run.made["report-r"]


def test_chosen_files_say_why_there_are_none(directory: RunDirectory) -> None:
    (directory.path / "report.html").unlink()
    assert chosen_files("report", directory) == ([], "there is no report.html")
    weights = directory.checkpoints_dir / "best" / "model.safetensors"
    weights.unlink()
    assert "holds no model.safetensors" in chosen_files("model", directory)[1]
    weights.parent.rmdir()
    assert "is not there any more" in chosen_files("model", directory)[1]
    directory.write_json("run.json", {})
    assert chosen_files("model", directory)[1] == "no checkpoint was the best yet"
    run, told = upload(directory, upload="report")
    assert (run.made, told) == ({}, ["W&B gets no report: there is no report.html."])
