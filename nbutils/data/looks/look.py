"""What a look at data found, and finding the place that it looks at."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbutils.errors import ContractError

__all__ = ["DataLook", "Thumbnail", "find_path"]

MAX_BESIDE = 2000
"""Entries of a folder that are read to find a near name."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture of one sample.

    Args:
        name: File name, relative to the folder.
        label: Its class.
        uri: The picture as a ``data:`` address.
    """

    name: str
    label: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLook:
    """What was seen.

    Args:
        title: The whole in one line.
        facts: ``(label, text)``.
        remarks: Sentences on what deserves attention; each says what to do.
        num_samples: Samples that a run would have; none where that is not known.
        is_partial: Whether counting stopped before the end.
        class_counts: Samples of each class.
        split: Samples of each split.
        thumbnails: A few samples.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    num_samples: int | None = None
    is_partial: bool = False
    class_counts: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[str, int] = field(default_factory=dict)
    thumbnails: Sequence[Thumbnail] = ()


def find_path(name: str | Path) -> Path:
    """The file or folder of this name.

    Raises:
        ContractError: There is none; names those that read alike.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    there = next((parent for parent in path.parents if parent.is_dir()), Path.cwd())
    missing = path.relative_to(there).parts[0] if path.is_relative_to(there) else name
    near = _near(str(missing), there)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ContractError(
        f"{str(path)!r} does not exist (looked in {there.resolve()}).{hint} Set "
        "data_dir to a file or folder that this machine can read."
    )


def _near(name: str, folder: Path) -> list[str]:
    """Entries of a folder whose names are close to one that is not there."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAX_BESIDE)]
    except OSError:
        return []
    visible = {n.lower(): n for n in names if not n.startswith(".")}
    close = difflib.get_close_matches(name.lower(), visible, 3, 0.6)
    return [repr(str(folder / visible[key])) for key in close]
