"""Proof that image files decode; of large trees it is remembered between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import show
from nbutils.monitor.rundir import write_atomic
from nbutils.recipes.vision.images import why_unreadable

__all__ = ["verify"]

_REMEMBER_FROM = 5000  # files; fewer are decoded again in a few seconds
_Stamp = tuple[int, int]


def verify(root: Path, names: Sequence[str]) -> list[str]:
    """Why each file cannot be decoded, in the order given; empty when it can.

    Of a large tree, the answers are kept in the user's cache folder. A file is
    decoded again when its size or its time of change differs.
    """
    if len(names) < _REMEMBER_FROM:
        return _decode(root, names)
    stamps = {name: _stamp(root / name) for name in names}
    known = _recall(root)
    answers = {n: known[n, s] for n, s in stamps.items() if (n, s) in known}
    new = [name for name in names if name not in answers]
    if new:
        show(f"Checking that {len(new):,} image files decode; this is done once.")
    answers.update(zip(new, _decode(root, new), strict=True))
    if new:
        _remember(root, [(name, stamps[name], answers[name]) for name in names])
    return [answers[name] for name in names]


def _decode(root: Path, names: Sequence[str]) -> list[str]:
    """Decode all files on a few threads; PIL's decoders run outside the lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(why_unreadable, (root / name for name in names)))


def _stamp(path: Path) -> _Stamp:
    """Size and time of change; zeros of a link that leads nowhere."""
    if not path.exists():
        return (0, 0)
    status = path.stat()
    return (status.st_size, status.st_mtime_ns)


def _memory_path(root: Path) -> Path:
    """One file per tree and version of PIL, since another decoder may differ."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    key = f"{root.resolve()}\0{PIL.__version__}".encode()
    name = hashlib.sha256(key).hexdigest()[:16]
    return Path(cache) / "nbutils" / "image-trees" / f"{name}.json"


def _recall(root: Path) -> dict[tuple[str, _Stamp], str]:
    """Earlier answers by name and stamp; none if there is no readable record."""
    try:
        rows = json.loads(_memory_path(root).read_text("utf-8"))
        return {(name, (size, time)): why for name, size, time, why in rows}
    except (OSError, ValueError, TypeError):
        return {}  # without a record everything is decoded: slower, never wrong


def _remember(root: Path, rows: Sequence[tuple[str, _Stamp, str]]) -> None:
    """Keep the answers; where that is not possible, the next run decodes again."""
    text = json.dumps([[name, *stamp, why] for name, stamp, why in rows])
    try:
        write_atomic(_memory_path(root), text.encode())
    except EnvironmentProblem as error:
        show(f"The check of the image files is not remembered: {error}")
