"""Checkpoints in a second place: a folder, or anything fsspec has a URL for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from nbutils.checkpoint.files import MANIFEST, read_manifest, verify
from nbutils.checkpoint.hashed import sha256_of, sync
from nbutils.checkpoint.store import BEST, step_of, swap
from nbutils.errors import CheckpointError, ConfigError

__all__ = ["Tier"]

# A remote copy up to this size is read back; of a larger one the size is compared.
READ_BACK_BYTES = 64 << 20
SECRET = re.compile(r"://[^/@]*:[^/@]*@")


class Tier:
    """A run directory at another place, with the layout of a run directory.

    In a folder a checkpoint appears whole, by a rename. Elsewhere its manifest is
    written last: what has none does not count.

    Args:
        place: The folder or URL under which runs lie.
        run_name: Name of this run's folder there.

    Raises:
        ConfigError: Nothing here can reach such a place.
    """

    def __init__(self, place: str, run_name: str) -> None:
        self.shown = f"{place.rstrip('/')}/{run_name}"
        self._fs, root = _open_place(place)
        self._root = f"{root.rstrip('/')}/{run_name}"
        self._is_folder = "file" in _protocols(self._fs)

    def names(self) -> list[str]:
        """Checkpoints there, oldest step first, then ``best``; some may be broken."""
        self._fs.invalidate_cache()
        try:
            paths = self._fs.ls(f"{self._root}/checkpoints", detail=False)
        except FileNotFoundError:
            return []
        found = [str(path).rstrip("/").rpartition("/")[2] for path in paths]
        steps = sorted((n for n in found if step_of(n) is not None), key=_number)
        return [*steps, *([BEST] if BEST in found else [])]

    def put(self, source: Path, name: str) -> None:
        """Copy the checkpoint in ``source``, unless it is there; verified.

        Raises:
            CheckpointError: What arrived is not what was sent.
        """
        manifest = read_manifest(source)
        target = f"{self._root}/checkpoints/{name}"
        if self._read(f"{target}/{MANIFEST}") == (source / MANIFEST).read_bytes():
            return
        partial = f"{self._root}/checkpoints/.{name}.partial"
        place = partial if self._is_folder else target
        self._remove(place)
        self._fs.makedirs(place, exist_ok=True)
        for file, stated in manifest["files"].items():
            self._fs.put_file(str(source / file), f"{place}/{file}")
            self._check(f"{place}/{file}", stated["bytes"], stated["sha256"])
        self._fs.put_file(str(source / MANIFEST), f"{place}/{MANIFEST}")
        size = (source / MANIFEST).stat().st_size
        self._check(f"{place}/{MANIFEST}", size, sha256_of(source / MANIFEST))
        if self._is_folder:
            sync(Path(place))
            swap(Path(place), Path(target))

    def prune(self, newest: int, keep_last: int) -> None:
        """Keep the newest copies up to step ``newest``; later ones were rewound."""
        names = [name for name in self.names() if name != BEST]
        kept = [name for name in names if _number(name) <= newest][-keep_last:]
        for name in names:
            if name not in kept:
                self._remove(f"{self._root}/checkpoints/{name}")

    def fetch(self, name: str, folder: Path) -> Path:
        """Bring a checkpoint into ``folder``, whole or not at all.

        Raises:
            CheckpointError: It is damaged or unfinished.
        """
        partial = folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        source = f"{self._root}/checkpoints/{name}"
        try:
            for path in self._fs.ls(source, detail=False):
                file = str(path).rpartition("/")[2]
                self._fs.get_file(f"{source}/{file}", str(partial / file))
            verify(partial)
            swap(partial, folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder / name

    def put_text(self, path: Path) -> None:
        """Copy one of a run's small files."""
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.put_file(str(path), f"{self._root}/{path.name}")

    def fetch_text(self, path: Path) -> None:
        """Bring back one of a run's small files, if it is there."""
        content = self._read(f"{self._root}/{path.name}")
        if content is not None:
            path.write_bytes(content)

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a small file; empty where there is none."""
        content = self._read(f"{self._root}/{name}")
        value = json.loads(content) if content else {}
        return value if isinstance(value, dict) else {}

    def _read(self, path: str) -> bytes | None:
        try:
            return self._fs.cat_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _remove(self, path: str) -> None:
        if not self._fs.exists(path):
            return
        if self._fs.exists(f"{path}/{MANIFEST}"):
            self._fs.rm_file(f"{path}/{MANIFEST}")  # first: from now on it is none
        self._fs.rm(path, recursive=True)

    def _check(self, path: str, size: int, sha256: str) -> None:
        if self._is_folder:
            sync(Path(path))
        found = self._fs.info(path)["size"]
        if found != size:
            raise CheckpointError(f"{path} has {found} bytes there, {size} here.")
        reads = self._is_folder or size <= READ_BACK_BYTES
        if reads and _hash(self._fs, path) != sha256:
            raise CheckpointError(f"{path} was altered on its way there.")


def _hash(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_place(place: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    if SECRET.search(place):
        raise ConfigError(
            [
                "mirror holds a password, and settings are written to files; set it "
                "in the environment, or in fsspec's own configuration."
            ]
        )
    try:
        return url_to_fs(place if "://" in place else str(Path(place).absolute()))
    except (ImportError, ValueError) as error:
        raise ConfigError(
            [f"mirror is {place!r}, which cannot be reached from here: {error}"]
        ) from error


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _number(name: str) -> int:
    return step_of(name) or 0
