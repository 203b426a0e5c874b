"""A look at class folders of images: counts, sizes, unreadable files, samples."""

from __future__ import annotations

import base64
import io
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nbutils.config import RunConfig
from nbutils.data.looks import DataLook, Thumbnail, find_path
from nbutils.errors import ConfigError, ContractError
from nbutils.recipes.vision import digits, tree
from nbutils.recipes.vision.digits import BUILTIN_NAME, builtin_folder
from nbutils.recipes.vision.images import read_image, why_unreadable

__all__ = ["find_images", "look"]

MAX_FILES = 100_000
"""Files that are counted."""
MAX_SAMPLED = 160
"""Files that are opened."""
LIST_S, SAMPLE_S = 2.0, 2.0
NUM_THUMBNAILS = 12
EDGE = 56
MANY_TIMES = 10
"""Ratio of the largest class to the smallest that is worth a remark."""
FEW = 10
"""Images of a class below which its validation says little."""


@dataclass(frozen=True)
class _Files:
    """Image files by class, as far as they were counted."""

    root: Path
    by_class: dict[str, list[Path]]
    num_other: int
    is_partial: bool

    @property
    def total(self) -> int:
        return sum(map(len, self.by_class.values()))


@dataclass(frozen=True)
class _Sample:
    """What opening a few files told."""

    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    bad: list[tuple[str, str]]
    thumbnails: list[Thumbnail]


def look(config: RunConfig) -> DataLook:
    """Classes, counts, sizes, unreadable files among a sample, and thumbnails.

    Raises:
        ConfigError: ``data_dir`` is not set.
        ContractError: There is no such folder, or it has no class folders of images.
    """
    if config.data.data_dir == BUILTIN_NAME and not builtin_folder().is_dir():
        return _look_at_builtin(config)
    files = _list(_folder(config))
    sample = _open(files)
    counts = {name: len(paths) for name, paths in files.by_class.items()}
    used = min(files.total, config.data.max_samples or files.total)
    split = _split(used, config)
    start = "the first " if files.is_partial else ""
    noun = "class" if len(counts) == 1 else "classes"
    return DataLook(
        title=f"{start}{files.total:,} images in {len(counts)} {noun}",
        facts=_facts(files, sample, counts, split, config.model.image_size),
        remarks=_remarks(files, sample, counts),
        num_samples=used,
        is_partial=files.is_partial,
        class_counts=counts,
        split=split,
        thumbnails=sample.thumbnails,
    )


def find_images(config: RunConfig, count: int) -> list[Path]:
    """Paths of up to so many images, of all classes in turn; none without a folder."""
    try:
        files = _list(_folder(config))
    except (ConfigError, ContractError):
        return []
    return [path for _, path in _in_turn(files.by_class)[:count]]


def _folder(config: RunConfig) -> Path:
    """The folder that is looked at."""
    name = config.data.data_dir
    if name is None:
        raise ConfigError(
            [
                "data_dir is not set; name a folder with one sub-folder of images per "
                f"class, or {BUILTIN_NAME!r} for the built-in digits."
            ]
        )
    return builtin_folder() if name == BUILTIN_NAME else find_path(name)


def _look_at_builtin(config: RunConfig) -> DataLook:
    """The built-in digits before they are written: nothing lands on the disk."""
    images, labels = digits._load()
    counts = Counter(str(label) for label in labels)
    classes = {name: counts[name] for name in sorted(counts)}
    used = min(len(labels), config.data.max_samples or len(labels))
    first = {str(label): number for number, label in reversed([*enumerate(labels)])}
    thumbnails = [
        Thumbnail(f"digit {first[name]}", name, _uri(Image.fromarray(images[at])))
        for name, at in sorted(first.items())
    ]
    split = _split(used, config)
    height, width = images.shape[1:]
    facts = [
        ("folder", f"{builtin_folder()}, written when the task is built"),
        ("split", _split_text(split)),
        ("images per class", _spread(classes)),
        ("sizes", f"all {width} × {height} pixels"),
    ]
    return DataLook(
        title=f"{len(labels):,} images in {len(classes)} classes, built in",
        facts=facts,
        num_samples=used,
        class_counts=classes,
        split=split,
        thumbnails=thumbnails,
    )


def _split_text(split: dict[str, int]) -> str:
    parts = ", ".join(f"{n:,} {name}" for name, n in split.items() if n)
    return f"about {parts}"


def _list(root: Path) -> _Files:
    """Image files by class folder, names only, bounded in number and time."""
    if not root.is_dir():
        raise ContractError(
            f"{str(root)!r} is a file, not a folder. Set data_dir to a folder with "
            "one sub-folder of images per class."
        )
    listed = itertools.islice(root.iterdir(), MAX_FILES)
    entries = sorted(entry for entry in listed if not tree._is_junk(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    tree._check_layout(root, entries, folders)
    extensions = tree._image_extensions()
    until = time.monotonic() + LIST_S
    by_class: dict[str, list[Path]] = {folder.name: [] for folder in folders}
    num_other = num_seen = 0
    for folder in folders:
        for path in tree._walk(folder):
            num_seen += 1
            if num_seen > MAX_FILES or time.monotonic() > until:
                seen = {name: paths for name, paths in by_class.items() if paths}
                return _Files(root, seen, num_other, is_partial=True)
            if path.suffix.lower() in extensions:
                by_class[folder.name].append(path)
            else:
                num_other += 1
    if not any(by_class.values()):
        raise ContractError(
            f"{str(root)!r} holds no image files in its {len(folders)} folders "
            f"({num_other:,} other files). Put images such as .png or .jpg into each."
        )
    return _Files(root, by_class, num_other, is_partial=False)


def _open(files: _Files) -> _Sample:
    """Decode a few files of each class in turn, for as long as there is time."""
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    bad: list[tuple[str, str]] = []
    thumbnails: list[Thumbnail] = []
    until = time.monotonic() + SAMPLE_S
    for label, path in itertools.islice(_in_turn(files.by_class), MAX_SAMPLED):
        if time.monotonic() > until:
            break
        name = path.relative_to(files.root).as_posix()
        if reason := why_unreadable(path):
            bad.append((name, reason))
            continue
        with Image.open(path) as image:
            sizes[image.size] += 1
            modes[image.mode] += 1
        if len(thumbnails) < NUM_THUMBNAILS:
            thumbnails.append(Thumbnail(name, label, _uri(read_image(path))))
    return _Sample(sizes, modes, bad, thumbnails)


def _in_turn(by_class: dict[str, list[Path]]) -> list[tuple[str, Path]]:
    """The first file of each class, then files spread over the rest of it."""
    per_class = max(1, MAX_SAMPLED // max(len(by_class), 1))
    rows = []
    for label, paths in by_class.items():
        step = max(1, len(paths) // per_class)
        rows.append([(label, path) for path in paths[::step]])
    turns = itertools.zip_longest(*rows)
    return [pair for turn in turns for pair in turn if pair is not None]


def _uri(image: Image.Image) -> str:
    """A picture of at most 56 pixels as a ``data:`` address."""
    image.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _split(total: int, config: RunConfig) -> dict[str, int]:
    """Images of each part, to within rounding per class."""
    val = round(total * config.data.val_fraction)
    test = round(total * config.data.test_fraction)
    return {"training": max(0, total - val - test), "validation": val, "test": test}


def _facts(
    files: _Files,
    sample: _Sample,
    counts: dict[str, int],
    split: dict[str, int],
    edge: int | None,
) -> list[tuple[str, str]]:
    facts = [("folder", str(files.root)), ("split", _split_text(split))]
    facts.append(("images per class", _spread(counts)))
    if sample.sizes:
        opened = sum(sample.sizes.values())
        fed = f"; fed to the model as {edge} × {edge}" if edge else ""
        facts.append(("sizes", f"{_sizes(sample.sizes)} (of {opened} opened){fed}"))
        told = ", ".join(f"{n} {_MODES.get(m, m)}" for m, n in sample.modes.items())
        facts.append(("colours", told))
    bad = len(sample.bad)
    tried = bad + sum(sample.sizes.values())
    facts.append(("unreadable", f"{bad or 'none'} of {tried} opened"))
    if files.num_other:
        facts.append(("other files", f"{files.num_other:,}, not used"))
    return facts


_MODES = {"L": "grey", "RGB": "RGB", "RGBA": "with transparency", "P": "palette"}


def _spread(counts: dict[str, int]) -> str:
    low, high = min(counts.values()), max(counts.values())
    if low == high:
        return f"{low:,} each"
    return f"{low:,} to {high:,}"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    (width, height), _ = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all {width} × {height} pixels"
    low = min(sizes, key=lambda size: size[0] * size[1])
    high = max(sizes, key=lambda size: size[0] * size[1])
    return (
        f"{low[0]} × {low[1]} to {high[0]} × {high[1]} pixels, "
        f"most often {width} × {height}"
    )


def _remarks(files: _Files, sample: _Sample, counts: dict[str, int]) -> list[str]:
    remarks: list[str] = []
    if files.is_partial:
        remarks.append(
            f"Only the first {files.total:,} images were counted; the run itself reads "
            "all of them."
        )
    if empty := [name for name, n in counts.items() if not n]:
        remarks.append(
            f"No image in {_names(empty)}: add some, or remove the folder. The run "
            "would stop here."
        )
    filled = {name: n for name, n in counts.items() if n}
    rare = min(filled, key=lambda name: filled[name])
    most = max(filled, key=lambda name: filled[name])
    if filled[most] >= MANY_TIMES * filled[rare] and not files.is_partial:
        remarks.append(
            f"The classes are uneven: {filled[most]:,} images of {most!r}, "
            f"{filled[rare]:,} of {rare!r}. Accuracy will mostly tell about the large "
            "ones; look at the worst classes too."
        )
    few = [name for name, n in filled.items() if n < FEW]
    if few and not files.is_partial:
        remarks.append(
            f"Fewer than {FEW} images in {_names(few)}: too few to validate on."
        )
    if sample.bad:
        told = "; ".join(f"{name}: {reason}" for name, reason in sample.bad[:3])
        remarks.append(f"Unreadable: {told}. Replace or remove them.")
    return remarks


def _names(names: Sequence[str]) -> str:
    told = ", ".join(repr(name) for name in names[:5])
    return f"{told} and {len(names) - 5} more" if len(names) > 5 else told
