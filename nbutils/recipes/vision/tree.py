"""Image files in class folders: which there are, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nbutils.errors import ContractError
from nbutils.recipes.vision.verified import verify

__all__ = ["BadFile", "ImageTree", "list_tree", "scan"]

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
# PIL only knows that these exist: it opens them through plugins of other packages.
_STUB_FORMATS = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
_MAX_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFile:
    """An image file that cannot be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTree:
    """A class-per-folder tree whose readable files are known.

    Attributes:
        root: The folder.
        class_names: Sorted folder names; the label is the position.
        paths: Readable files, as text relative to ``root``, sorted by class.
        labels: Label of each path.
        bad_files: What could not be read.
        num_other: Files that are no images by their extension.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    bad_files: tuple[BadFile, ...]
    num_other: int


def scan(root: Path, max_bad_fraction: float) -> ImageTree:
    """List a class-per-folder tree and prove that every file decodes.

    Args:
        root: Folder with one sub-folder a class; hidden files are passed over.
        max_bad_fraction: Unreadable files tolerated, as a share of all. They are
            left out and listed; nothing stands in for them.

    Raises:
        ContractError: The folder is missing or empty, has fewer than two classes,
            a class without readable image, or more bad files than tolerated.
    """
    class_names, files, num_other = list_tree(root)
    reasons = verify(root, [name for name, _ in files])
    checked = list(zip(files, reasons, strict=True))
    bad = tuple(
        BadFile(path=name, reason=reason) for (name, _), reason in checked if reason
    )
    good = [item for item, reason in checked if not reason]
    _check_budget(root, bad, len(files), max_bad_fraction)
    _check_classes(root, class_names, {label for _, label in good}, bad)
    return ImageTree(
        root=root,
        class_names=class_names,
        paths=tuple(name for name, _ in good),
        labels=tuple(label for _, label in good),
        bad_files=bad,
        num_other=num_other,
    )


def list_tree(root: Path) -> tuple[tuple[str, ...], list[tuple[str, int]], int]:
    """Class names, ``(relative path, label)`` of each image file, and other files.

    Reads names only.

    Raises:
        ContractError: The tree has no two class folders with images.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ContractError(
            f"data_dir {str(root)!r} {what} (looked in {Path.cwd()}). Set data_dir to "
            "a folder with one sub-folder of images per class, or to 'digits'."
        )
    entries = sorted(e for e in root.iterdir() if not _is_junk(e.name))
    classes = [e for e in entries if e.is_dir()]
    _check_layout(root, entries, classes)
    extensions = _image_extensions()
    files: list[tuple[str, int]] = []
    num_other = 0
    for label, folder in enumerate(classes):
        for path in _walk(folder):
            if path.suffix.lower() in extensions:
                files.append((path.relative_to(root).as_posix(), label))
            else:
                num_other += 1
    if not files:
        raise ContractError(
            f"data_dir {str(root)!r} holds no image files in its {len(classes)} "
            f"folders ({num_other} other files). Put images such as .png or .jpg "
            "into each class folder."
        )
    names = tuple(folder.name for folder in classes)
    _check_classes(root, names, {label for _, label in files}, ())
    return names, files, num_other


def _image_extensions() -> set[str]:
    """Extensions that PIL itself can decode."""
    known = Image.registered_extensions()
    return {e for e, f in known.items() if f in Image.OPEN and f not in _STUB_FORMATS}


def _is_junk(name: str) -> bool:
    """Hidden, or what archives of a Mac leave beside the data."""
    return name.startswith(".") or name == "__MACOSX"


def _walk(folder: Path) -> Iterator[Path]:
    """All visible files below ``folder``, in an order that no machine changes."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not _is_junk(name))
        for name in sorted(names):
            if not _is_junk(name):
                yield Path(parent, name)


def _check_layout(root: Path, entries: Sequence[Path], classes: Sequence[Path]) -> None:
    """Folder names alone already tell the usual mistakes."""
    names = [folder.name for folder in classes]
    if not entries:
        raise ContractError(
            f"data_dir {str(root)!r} is empty. Put one sub-folder of images per class "
            "into it, or set data_dir='digits'."
        )
    if not classes:
        raise ContractError(
            f"data_dir {str(root)!r} holds {len(entries)} files but no class folders. "
            "Move the images into one sub-folder per class, named like the class."
        )
    if {name.lower() for name in names} <= _SPLIT_NAMES:
        raise ContractError(
            f"data_dir {str(root)!r} is split into {', '.join(names)}, which are not "
            f"classes. Set data_dir={str(root / names[0])!r}; it is split by "
            "val_fraction and test_fraction."
        )
    if len(classes) == 1:
        inner = [e for e in classes[0].iterdir() if e.is_dir() and not _is_junk(e.name)]
        fix = "Add a second class folder; one class leaves nothing to learn."
        if len(inner) > 1:
            fix = f"Did you mean data_dir={str(classes[0])!r}?"
        raise ContractError(
            f"data_dir {str(root)!r} has one class only, {names[0]!r}. {fix}"
        )


def _check_budget(
    root: Path, bad: Sequence[BadFile], total: int, max_bad_fraction: float
) -> None:
    """More bad files than tolerated end the scan, by name."""
    if len(bad) <= max_bad_fraction * total:
        return
    raise ContractError(
        f"{len(bad)} of {total} image files in {str(root)!r} cannot be read; "
        f"max_bad_fraction {max_bad_fraction:g} tolerates "
        f"{int(max_bad_fraction * total)}:{_name_some(bad)}\n"
        "Remove or replace them, or raise max_bad_fraction to leave them out."
    )


def _check_classes(
    root: Path, names: Sequence[str], seen: set[int], bad: Sequence[BadFile]
) -> None:
    """Every class folder has an image to learn from."""
    empty = [name for label, name in enumerate(names) if label not in seen]
    if not empty:
        return
    kind = "readable image" if bad else "image"
    raise ContractError(
        f"{len(empty)} of {len(names)} class folders in {str(root)!r} hold no {kind}: "
        f"{', '.join(repr(name) for name in empty[:_MAX_NAMED])}"
        f"{', …' if len(empty) > _MAX_NAMED else ''}. Add images to them or remove "
        f"the folders.{_name_some(bad)}"
    )


def _name_some(bad: Sequence[BadFile]) -> str:
    """The first bad files, a line each."""
    lines = [f"\n  - {file.path}: {file.reason}" for file in bad[:_MAX_NAMED]]
    rest = len(bad) - len(lines)
    return "".join(lines) + (f"\n  … and {rest} more" if rest else "")
