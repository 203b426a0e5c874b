"""A scratch copy of a folder to work in: reads find the originals, writes stay here.

Small files are copied; large ones, and folders of very many files, are linked and
looked at afterwards. Absolute paths are not redirected.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Overlay", "lay_over", "project_of"]

MAX_COPY_BYTES = 32 * 2**20
MAX_COPIED_BYTES = 512 * 2**20
MAX_ENTRIES = 20_000
MARKS = (".git", "pyproject.toml", "setup.py", "requirements.txt", "environment.yml")
MAX_LEVELS = 2

Stamp = tuple[int, int]


@dataclass(slots=True)
class Overlay:
    """A folder, and the scratch folder that stands for it.

    Args:
        source: The folder of the user.
        target: Its double.
        stamps: Size and time of each file in the double, when it was made.
        linked: Originals that the double links to -> their size and time.
    """

    source: Path
    target: Path
    stamps: dict[Path, Stamp] = field(default_factory=dict)
    linked: dict[Path, Stamp] = field(default_factory=dict)
    copied_bytes: int = 0
    num_entries: int = 0

    def written(self) -> list[Path]:
        """Files that are new or changed in the double, relative to it."""
        return sorted(
            path.relative_to(self.target)
            for path in _files(self.target)
            if self.stamps.get(path) != _stamp(path)
        )

    def reached(self) -> list[Path]:
        """Originals that were changed through a link: this must not happen."""
        return [path for path, stamp in self.linked.items() if _stamp(path) != stamp]


def lay_over(source: Path, target: Path) -> Overlay:
    """Make the double of a folder."""
    overlay = Overlay(source, target)
    _copy(overlay, source, target)
    overlay.stamps = {path: _stamp(path) for path in _files(target)}
    return overlay


def project_of(folder: Path) -> Path:
    """The folder, or the project around it that ``../data`` would lead into."""
    folder = folder.resolve()
    for candidate in (folder, *list(folder.parents)[:MAX_LEVELS]):
        if any((candidate / mark).exists() for mark in MARKS):
            return candidate
    return folder


def _copy(overlay: Overlay, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    with os.scandir(source) as entries:
        for entry in entries:
            overlay.num_entries += 1
            place, original = target / entry.name, Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith(".") or not _has_room(overlay, original):
                    _link(overlay, original, place)
                elif entry.name != "__pycache__":
                    _copy(overlay, original, place)
            elif entry.is_file() and _is_small(overlay, entry):
                shutil.copy2(original, place)
            elif original.exists():
                _link(overlay, original, place)


def _has_room(overlay: Overlay, folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return overlay.num_entries + sum(1 for _ in entries) <= MAX_ENTRIES


def _is_small(overlay: Overlay, entry: os.DirEntry[str]) -> bool:
    size = entry.stat().st_size
    overlay.copied_bytes += size if size <= MAX_COPY_BYTES else 0
    return size <= MAX_COPY_BYTES and overlay.copied_bytes <= MAX_COPIED_BYTES


def _link(overlay: Overlay, original: Path, place: Path) -> None:
    place.symlink_to(original.resolve(), target_is_directory=original.is_dir())
    if not original.name.startswith("."):
        overlay.linked[original] = _stamp(original)


def _files(folder: Path) -> Iterator[Path]:
    """Files of the double itself; links are not followed."""
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(base, name)
            if not path.is_symlink():
                yield path


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:  # deleted meanwhile
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)
