"""A look at any file or folder: tables, texts, arrays, records, and mixtures."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from nbutils.data.looks.arrays import look_at_npy, look_at_npz, look_at_safetensors
from nbutils.data.looks.look import DataLook, find_path
from nbutils.data.looks.tables import look_at_table
from nbutils.data.looks.texts import look_at_jsonl, look_at_text
from nbutils.errors import ContractError

__all__ = ["look_at"]

MAX_FILES = 50_000
MAX_SECONDS = 2.0
READERS: dict[str, Callable[[Path], DataLook]] = {
    ".csv": look_at_table,
    ".tsv": look_at_table,
    ".npy": look_at_npy,
    ".npz": look_at_npz,
    ".safetensors": look_at_safetensors,
    ".jsonl": look_at_jsonl,
    ".txt": look_at_text,
    ".md": look_at_text,
    ".py": look_at_text,
}


def look_at(name: str | Path) -> DataLook:
    """What a file or a folder holds, as far as it can be told in two seconds.

    Raises:
        ContractError: It is not there, is empty or cannot be read.
    """
    path = find_path(name)
    if path.is_dir():
        return _look_at_folder(path)
    reader = READERS.get(path.suffix.lower())
    size = path.stat().st_size
    if not size:
        raise ContractError(f"{path} is empty. Set data_dir to a file with data in it.")
    if reader is None:
        kind = path.suffix or "no extension"
        return DataLook(
            title=f"1 file, {size:,} bytes",
            facts=[("file", f"{path.name} ({kind})")],
            remarks=[f"Nothing more can be told of a file with {kind}."],
        )
    try:
        return reader(path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ContractError(
            f"{path} cannot be read: {error}. Its name says {path.suffix}; expected "
            "a file of that format. Write it again, or set data_dir to another."
        ) from error


def _look_at_folder(root: Path) -> DataLook:
    """Count files by extension, and look into the first one of the commonest kind."""
    kinds: Counter[str] = Counter()
    first: dict[str, Path] = {}
    num_bytes, is_partial = 0, False
    until = time.monotonic() + MAX_SECONDS
    for path in _walk(root):
        is_partial = kinds.total() >= MAX_FILES or time.monotonic() > until
        if is_partial:
            break
        kind = path.suffix.lower() or "no extension"
        kinds[kind] += 1
        first.setdefault(kind, path)
        num_bytes += path.stat().st_size if path.exists() else 0
    if not kinds:
        raise ContractError(
            f"{str(root)!r} holds no files. Set data_dir to a folder with data in it."
        )
    return _folder_look(root, kinds, first, num_bytes, is_partial)


def _walk(root: Path) -> Iterator[Path]:
    """All visible files, in the order of their names."""
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def _folder_look(
    root: Path,
    kinds: Counter[str],
    first: dict[str, Path],
    num_bytes: int,
    is_partial: bool,
) -> DataLook:
    total = f"{'the first ' if is_partial else ''}{kinds.total():,} files"
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(6))
    facts = [("kinds", told), ("size", f"{num_bytes / 2**20:,.1f} MiB")]
    common = kinds.most_common(1)[0][0]
    remarks: list[str] = []
    if common in READERS:
        inner = look_at(first[common])
        name = first[common].relative_to(root).as_posix()
        facts += [("first of them", f"{name}: {inner.title}"), *inner.facts]
        remarks += inner.remarks
    return DataLook(
        title=f"{total} in {root.name or root}",
        facts=facts,
        remarks=remarks,
        is_partial=is_partial,
    )
