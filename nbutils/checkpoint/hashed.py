"""Files that are hashed while they are written, and synced before they count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["HashedFile", "Stated", "copy_file", "sha256_of", "sync"]

# Large enough that a thread seldom asks for the interpreter lock again.
BLOCK = 8 << 20

Stated = dict[str, Any]


class HashedFile:
    """A new file; :meth:`finish` syncs it and states its size and hash.

    Args:
        path: The file; what is there is replaced.
        check: Called before each block; what it raises ends the writing.

    Attributes:
        error: What ended the writing. Libraries that write into this file may hide
            it behind an error of their own.
    """

    def __init__(self, path: Path, check: Callable[[], None] | None = None) -> None:
        self.error: Exception | None = None
        self._file = path.open("wb", buffering=0)
        self._check = check
        self._digest = hashlib.sha256()
        self._waiting = bytearray()
        self._size = 0

    def write(self, data: Any) -> int:
        """Append ``data``, anything that lies in one piece of memory."""
        view = memoryview(data).cast("B")
        if len(view) + len(self._waiting) < BLOCK:
            self._waiting += view  # the caller may reuse its memory
            return len(view)
        self.flush()
        for start in range(0, len(view), BLOCK):
            self._put(view[start : start + BLOCK])
        return len(view)

    def flush(self) -> None:
        """Hand over what has gathered."""
        waiting, self._waiting = self._waiting, bytearray()
        if waiting:
            self._put(memoryview(waiting))

    def finish(self) -> Stated:
        """Sync and close; gives ``bytes`` and ``sha256`` of what was written."""
        self.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def _put(self, block: memoryview) -> None:
        if self.error is not None:
            raise self.error
        try:
            if self._check is not None:
                self._check()
            self._digest.update(block)
            self._size += len(block)
            while block:  # a raw file may take a part: the next one says why
                block = block[self._file.write(block) :]
        except Exception as error:
            self.error = error
            raise

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def copy_file(
    source: Path, target: Path, check: Callable[[], None] | None = None
) -> Stated:
    """Copy a file, synced; states what was read."""
    with source.open("rb", buffering=0) as file, HashedFile(target, check) as copy:
        while block := file.read(BLOCK):
            copy.write(block)
        return copy.finish()


def sha256_of(path: Path) -> str:
    """Hash of a file, read in blocks."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
