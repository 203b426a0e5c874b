"""Files that go along with a run: figures, report, best model; within a size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbutils.monitor.events import read_events
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.describe import clean_text

__all__ = ["artifact_of", "chosen_files", "upload_files"]

_WEIGHTS = ("model.safetensors",)
_TEXTS = (".html", ".yaml")


def upload_files(run: Any, config: Any, directory: RunDirectory) -> Iterator[str]:
    """Hand the files that ``upload`` names to W&B as artifacts.

    Yields:
        A sentence for each file that was left out, with the reason.
    """
    section = config.tracking
    if not section.upload:
        return
    left_bytes = section.max_upload_mb * 1e6
    for kind in section.upload:
        paths, absent = chosen_files(kind, directory)
        if absent:
            yield f"W&B gets no {kind}: {absent}."
        fitting: list[Path] = []
        for path in paths:
            size = path.stat().st_size
            if size > left_bytes:
                yield _too_large(path, size, left_bytes, section.max_upload_mb)
                continue
            left_bytes -= size
            fitting.append(path)
        if fitting:
            known = _best_of(directory) if kind == "model" else {}
            artifact = artifact_of(run, f"{kind}-{run.id}", kind, known)
            for path in fitting:
                _add(artifact, path)
            run.log_artifact(artifact, aliases=["latest", *_aliases(kind)])


def chosen_files(kind: str, directory: RunDirectory) -> tuple[Sequence[Path], str]:
    """Files of one kind, and why there are none.

    Args:
        kind: ``"figures"``, ``"report"`` or ``"model"``.
        directory: The run directory.
    """
    if kind == "report":
        path = directory.path / "report.html"
        return ([path], "") if path.is_file() else ([], "there is no report.html")
    if kind == "figures":
        _draw_curves(directory)
        return sorted(directory.figures_dir.glob("*.png")), ""
    best = RunRecord.read(directory.path).best
    if not best.get("path"):
        return [], "no checkpoint was the best yet"
    folder = directory.checkpoints_dir / Path(best["path"]).name
    if not folder.is_dir():
        return [], f"{folder} is not there any more"
    paths = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not paths:
        return [], f"{folder} holds no {' or '.join(_WEIGHTS)}"
    return [*paths, directory.config_path], ""


def _draw_curves(directory: RunDirectory) -> None:
    """Draw the curves, as ``result.plot()`` will."""
    from nbutils.monitor.figures import plot_history, save_figure

    record = RunRecord.read(directory.path)
    if record.view.rows:
        figure = plot_history(record.view.rows, read_events(directory.events_path))
        save_figure(figure, directory.figures_dir / "curves.png")


def artifact_of(run: Any, name: str, kind: str, metadata: dict[str, Any]) -> Any:
    """An empty artifact for ``run``."""
    del run
    return importlib.import_module("wandb").Artifact(name, type=kind, metadata=metadata)


def _add(artifact: Any, path: Path) -> None:
    """Add a file; a text without the passwords that a setting may hold."""
    if path.suffix not in _TEXTS:
        artifact.add_file(str(path), name=path.name)
        return
    with artifact.new_file(path.name, mode="w", encoding="utf-8") as file:
        file.write(clean_text(path.read_text(encoding="utf-8")))


def _best_of(directory: RunDirectory) -> dict[str, Any]:
    best = RunRecord.read(directory.path).best
    return {name: best[name] for name in ("metric", "value", "step") if name in best}


def _aliases(kind: str) -> list[str]:
    return ["best"] if kind == "model" else []


def _too_large(path: Path, size: int, left_bytes: float, max_mb: float) -> str:
    return (
        f"W&B does not get {path.name}: it has {size / 1e6:.3g} MB, and "
        f"{left_bytes / 1e6:.3g} of max_upload_mb={max_mb:g} are left. Raise "
        "max_upload_mb, or upload it yourself."
    )
