"""The store: publish whole, then prune; find the newest that is whole."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nbutils.checkpoint.files import (
    Loaded,
    copy_checkpoint,
    prove_readable,
    read_checkpoint,
    verify,
    write_files,
)
from nbutils.checkpoint.hashed import sync
from nbutils.checkpoint.snapshot import Snapshot
from nbutils.errors import CheckpointError
from nbutils.monitor.rundir import RunDirectory

__all__ = ["BEST", "CheckpointStore", "step_of", "swap"]

NAME = re.compile(r"step-(\d{8,})")
BEST = "best"
HEADROOM = 1.05
UNWRITABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
    pickle.PicklingError,
    AttributeError,
    TypeError,
)
# Held while folders change their names, and while they are read: a reader in the
# loop's thread never meets a half-done swap of the writer's.
_RENAMES = threading.RLock()


class CheckpointStore:
    """Checkpoints ``step-00001800`` of one run, and a copy of the best.

    Args:
        folder: Where they lie.
        keep_last: Newest ones kept, at least 1.
        report: Told, in a sentence, what did not go as planned.

    Attributes:
        report: As given; whoever publishes from another thread sets one for it.
        held: Names that are not pruned yet, as someone still reads them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        report: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        self.keep_last = max(keep_last, 1)
        self.held: Callable[[], set[str]] = set
        self.report = report
        self._was_read_back = False

    @classmethod
    def of(
        cls, config: Any, run_dir: Path, report: Callable[[str], None]
    ) -> CheckpointStore:
        """The store of the run in ``run_dir``, as its config wants it."""
        folder = RunDirectory(run_dir).checkpoints_dir
        return cls(folder, keep_last=config.checkpoint.keep_last, report=report)

    def steps(self) -> list[Path]:
        """Published checkpoints, oldest step first."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if step_of(p.name) is not None]
        return sorted(found, key=lambda path: step_of(path.name) or 0)

    def tidy(self) -> None:
        """Remove what a killed process left unfinished; at a run's start only."""
        with _RENAMES:
            _heal(self.folder)
            for left in [*self.folder.glob(".*.partial"), *self.folder.glob(".*.gone")]:
                shutil.rmtree(left)

    def ensure_space(self, num_bytes: int, *, counts_present: bool = False) -> None:
        """Refuse to start writing what the disk cannot hold.

        Args:
            num_bytes: Bytes that will be written.
            counts_present: Those of present checkpoints are among them.

        Raises:
            CheckpointError: Fewer bytes are free than ``num_bytes`` and 5 % more.
        """
        place, free = self._free()
        needed = int(num_bytes * HEADROOM)
        if free + (self._num_bytes() if counts_present else 0) < needed:
            raise CheckpointError(
                f"{place} has {free / 1e9:.3f} GB free; the checkpoint needs "
                f"{needed / 1e9:.3f} GB. Free some space, lower keep_last, or set "
                "runs_dir to a larger disk. Nothing was deleted."
            )

    def publish(
        self,
        snapshot: Snapshot,
        *,
        is_best: bool = False,
        check: Callable[[], None] | None = None,
    ) -> Path:
        """Write, verify, rename, then prune.

        Args:
            check: Called before each block; what it raises ends the writing.

        Raises:
            CheckpointError: It cannot be written; older ones are untouched.
        """
        num_bytes = snapshot.num_bytes() * (2 if is_best else 1)
        self.ensure_space(num_bytes)
        target = self.folder / f"step-{snapshot.step:08d}"
        partial = self.folder / f".{target.name}.partial"
        try:
            _clear(partial)
            write_files(snapshot, partial, check)
            self._check(partial)
            swap(partial, target)
            if is_best:
                self._copy_to_best(target, check)
        except UNWRITABLE as error:
            raise self._cannot_save(snapshot.step, num_bytes, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()
        return target

    def latest(self) -> Loaded | None:
        """The newest checkpoint that is whole; broken ones are named and set aside.

        Raises:
            CheckpointError: There are checkpoints, and none is whole.
        """
        with _RENAMES:
            return self._latest()

    def _latest(self) -> Loaded | None:
        _heal(self.folder)
        broken: list[str] = []
        candidates = self.steps()[::-1]
        best = self.folder / BEST
        for path in [*candidates, *([best] if best.exists() else [])]:
            try:
                loaded = read_checkpoint(path)
            except CheckpointError as error:
                broken.append(f"{path.name}: {error}")
                self.report(f"checkpoint {path.name} is broken: {error}")
                continue
            _set_aside(candidates, loaded.step)
            if broken:
                self.report(f"falling back to {path.name} (step {loaded.step})")
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
            CheckpointError: None was saved, or it is damaged.
        """
        path = self.folder / BEST
        with _RENAMES:
            _heal(self.folder)
            if path.exists():
                return read_checkpoint(path)
        raise CheckpointError(
            f"{path} does not exist: no evaluation has set a best yet. Train with "
            'validation data, or use weights="last".'
        )

    def _check(self, partial: Path) -> None:
        """Sizes, as hashes were taken on the way; once per run a read-back."""
        if self._was_read_back:
            verify(partial, reads=False)
            return
        try:
            prove_readable(partial)
        except CheckpointError as error:
            raise CheckpointError(
                f"this run's state cannot be loaded back safely: {error} Keep plain "
                "tensors, numbers, strings, lists and dicts in optimizer, schedule and "
                "extra state."
            ) from error
        self._was_read_back = True

    def _prune(self) -> None:
        held = self.held()
        for stale in self.steps()[: -self.keep_last]:
            if stale.name in held:
                continue
            try:
                _remove(stale)
            except OSError as error:
                self.report(f"{stale} is no longer needed and stays: {error}")

    def _copy_to_best(self, source: Path, check: Callable[[], None] | None) -> None:
        partial = self.folder / f".{BEST}.partial"
        _clear(partial)
        try:
            copy_checkpoint(source, partial, check)
            verify(partial, reads=False)
            swap(partial, self.folder / BEST)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _free(self) -> tuple[Path, int]:
        place = next(p for p in [self.folder, *self.folder.parents] if p.exists())
        return place, shutil.disk_usage(place).free

    def _num_bytes(self) -> int:
        folders = [*self.steps(), self.folder / BEST]
        files = [file for folder in folders for file in folder.glob("*")]
        return sum(file.stat().st_size for file in files)

    def _cannot_save(
        self, step: int, num_bytes: int, error: Exception
    ) -> CheckpointError:
        place, free = self._free()
        return CheckpointError(
            f"step {step} could not be saved in {self.folder}: {error}. "
            f"{place} has {free / 1e9:.3f} GB free; the save needs "
            f"{num_bytes / 1e9:.3f} GB. Earlier checkpoints are untouched; free space "
            "or set another runs_dir, then train again: it resumes from them."
        )


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name; none if it is no such name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def swap(partial: Path, target: Path) -> None:
    """Put a finished folder in place; readers see the old one or the new one."""
    old = target.with_name(f".{target.name}.old")
    with _RENAMES:
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        os.replace(partial, target)
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def _clear(folder: Path) -> None:
    """An empty folder of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; it leaves its name at once, so nobody meets a part of it."""
    gone = folder.with_name(f".{folder.name}.gone")
    with _RENAMES:
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
    shutil.rmtree(gone)


def _heal(folder: Path) -> None:
    """Put back what a kill between the two renames of a swap left aside."""
    for old in folder.glob(".*.old"):
        target = folder / old.name[1 : -len(".old")]
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)


def _set_aside(candidates: list[Path], step: int) -> None:
    """Rename what is newer than the step that the run goes on from."""
    for path in candidates:
        if (step_of(path.name) or 0) > step:
            shutil.rmtree(path.with_name(f"broken-{path.name}"), ignore_errors=True)
            path.rename(path.with_name(f"broken-{path.name}"))
