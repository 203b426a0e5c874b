"""The store: publish whole, then prune; find the newest that is whole."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbutils.checkpoint.files import Loaded, read_checkpoint, verify, write_files
from nbutils.checkpoint.snapshot import Snapshot
from nbutils.errors import CheckpointError
from nbutils.monitor.rundir import RunDirectory

__all__ = ["CheckpointStore"]

NAME = re.compile(r"step-(\d{8,})")
BEST = "best"
HEADROOM = 1.05


class CheckpointStore:
    """Checkpoints ``step-00001800`` of one run, and a copy of the best.

    Args:
        folder: Where they lie.
        keep_last: Newest ones kept, at least 1.
        report: Told, in a sentence, what did not go as planned.
        mirror: Second folder that gets a verified copy of each.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        report: Callable[[str], None] = print,
        mirror: Path | None = None,
    ) -> None:
        self.folder = folder
        self._keep_last = max(keep_last, 1)
        self._report = report
        self._mirror = mirror
        self._was_read_back = False

    @classmethod
    def of(
        cls, config: Any, run_dir: Path, report: Callable[[str], None]
    ) -> CheckpointStore:
        """The store of the run in ``run_dir``, as its config wants it."""
        section = config.checkpoint
        return cls(
            RunDirectory(run_dir).checkpoints_dir,
            keep_last=section.keep_last,
            report=report,
            mirror=None if section.mirror is None else Path(section.mirror),
        )

    def steps(self) -> list[Path]:
        """Published checkpoints, oldest step first."""
        return _published(self.folder)

    def ensure_space(self, num_bytes: int) -> None:
        """Refuse to start writing what the disk cannot hold.

        Raises:
            CheckpointError: Fewer bytes are free than ``num_bytes`` and 5 % more.
        """
        place = next(p for p in [self.folder, *self.folder.parents] if p.exists())
        free = shutil.disk_usage(place).free
        needed = int(num_bytes * HEADROOM)
        if free < needed:
            raise CheckpointError(
                f"{place} has {free / 1e9:.3f} GB free; the checkpoint needs "
                f"{needed / 1e9:.3f} GB. Free some space, lower keep_last, or set "
                "runs_dir to a larger disk. Nothing was deleted."
            )

    def publish(self, snapshot: Snapshot, *, is_best: bool = False) -> Path:
        """Write, verify, rename, then prune.

        Raises:
            CheckpointError: It cannot be written; older ones are untouched.
        """
        self.ensure_space(snapshot.num_bytes())
        target = self.folder / f"step-{snapshot.step:08d}"
        partial = self.folder / f".{target.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_files(snapshot, partial)
            self._check(partial)
            _swap(partial, target)
            if is_best:
                self._copy(target, self.folder / BEST)
        except (OSError, pickle.PicklingError, AttributeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"step {snapshot.step} could not be saved in {self.folder}: {error}. "
                "Earlier checkpoints are untouched; free space or set another runs_dir."
            ) from error
        self._prune(self.folder)
        self._copy_to_mirror(target)
        return target

    def latest(self) -> Loaded | None:
        """The newest checkpoint that is whole; broken ones are named and set aside.

        Raises:
            CheckpointError: There are checkpoints, and none is whole.
        """
        _heal(self.folder)
        broken: list[str] = []
        candidates = self.steps()[::-1]
        best = self.folder / BEST
        for path in [*candidates, *([best] if best.exists() else [])]:
            try:
                loaded = read_checkpoint(path)
            except CheckpointError as error:
                broken.append(f"{path.name}: {error}")
                self._report(f"checkpoint {path.name} is broken: {error}")
                continue
            self._set_aside(candidates, loaded)
            if broken:
                self._report(f"falling back to {path.name} (step {loaded.step})")
            return loaded
        if broken:
            lines = "".join(f"\n  - {text}" for text in broken)
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole:{lines}\n"
                "Restore a copy (mirror), or start anew in another run_dir."
            )
        return None

    def best(self) -> Loaded:
        """The best checkpoint.

        Raises:
            CheckpointError: None was saved.
        """
        _heal(self.folder)
        path = self.folder / BEST
        if not path.exists():
            raise CheckpointError(
                f"{path} does not exist: no evaluation has set a best yet. Train with "
                'validation data, or use weights="last".'
            )
        return read_checkpoint(path)

    def _check(self, partial: Path) -> None:
        """Sizes and hashes; once per run also a full read, as a resume would."""
        if self._was_read_back:
            verify(partial)
            return
        try:
            read_checkpoint(partial)
        except CheckpointError as error:
            raise CheckpointError(
                f"this run's state cannot be loaded back safely: {error} Keep plain "
                "tensors, numbers, strings, lists and dicts in optimizer, schedule and "
                "extra state."
            ) from error
        self._was_read_back = True

    def _set_aside(self, candidates: list[Path], loaded: Loaded) -> None:
        for path in candidates:
            if int(path.name.split("-")[1]) > loaded.step:
                shutil.rmtree(path.with_name(f"broken-{path.name}"), ignore_errors=True)
                path.rename(path.with_name(f"broken-{path.name}"))

    def _prune(self, folder: Path) -> None:
        for stale in _published(folder)[: -self._keep_last]:
            shutil.rmtree(stale)

    def _copy(self, source: Path, target: Path) -> None:
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        verify(partial)
        _swap(partial, target)

    def _copy_to_mirror(self, source: Path) -> None:
        if self._mirror is None:
            return
        folder = self._mirror / self.folder.parent.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._copy(source, folder / source.name)
            self._prune(folder)
        except (OSError, CheckpointError) as error:
            self._report(f"the copy of {source.name} to {folder} failed: {error}")


def _published(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def _heal(folder: Path) -> None:
    """Put back what a kill between the two renames of a swap left aside."""
    for old in folder.glob(".*.old"):
        target = folder / old.name[1 : -len(".old")]
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)


def _swap(partial: Path, target: Path) -> None:
    """Put a finished folder in place; readers see the old one or the new one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
