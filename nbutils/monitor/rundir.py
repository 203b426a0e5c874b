"""The run directory: where everything that a run leaves behind has its place."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.jsontext import dumps, loads

__all__ = ["RunDirectory", "write_atomic"]


class RunDirectory:
    """Paths of one run and atomic writes into it.

    Args:
        path: The folder; :meth:`create` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def events_path(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def config_path(self) -> Path:
        """The effective configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints_dir(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures_dir(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"

    @property
    def stop_file(self) -> Path:
        """A file of this name stops the run at the next window."""
        return self.path / "STOP"

    def create(self) -> RunDirectory:
        """Make the folders and prove that they can be written.

        Raises:
            EnvironmentProblem: They cannot; the text says why and what to do.
        """
        try:
            for folder in (self.path, self.checkpoints_dir, self.figures_dir):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            raise _cannot_create(self.path, error) from error
        return self

    def write_json(self, name: str, value: object) -> Path:
        """Replace ``name`` with ``value`` as JSON, whole or not at all."""
        return self.write_text(name, dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in ``name``; ``None`` when there is no such file.

        Raises:
            EnvironmentProblem: The file is there, but holds no JSON object.
        """
        path = self.path / name
        try:
            value = loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _not_an_object(path, str(error)) from error
        if not isinstance(value, dict):
            raise _not_an_object(path, f"it holds a {type(value).__name__}")
        return value

    def update_json(self, name: str, **fields: object) -> Path:
        """Set some keys of the object in ``name`` and keep the others."""
        return self.write_json(name, {**(self.read_json(name) or {}), **fields})

    def write_text(self, name: str, text: str) -> Path:
        """Replace ``name`` with ``text`` in UTF-8, whole or not at all."""
        return write_atomic(self.path / name, text.encode("utf-8"))

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"


def write_atomic(path: Path, data: bytes) -> Path:
    """Write beside ``path``, sync, then replace: readers see old or new, never half.

    Raises:
        EnvironmentProblem: The folder cannot be written; the old file is intact.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True) if unfinished.parent.is_dir() else None
        raise EnvironmentProblem(
            f"{path} cannot be written: {_reason(error)}. Expected a writable folder "
            f"with free space. {_advice(error)}"
        ) from error
    return path


def _cannot_create(path: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"The run directory {path} cannot be used: {_reason(error)}. Expected a "
        f"folder that can be made and written. {_advice(error)}"
    )


def _reason(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _advice(error: OSError) -> str:
    """What to do next, by what the system said."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "A file is in the way: rename it, or choose another runs_dir."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, or set runs_dir to a disk that has some."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Set runs_dir to a folder you own, for example in your home."
    return "Check the disk, or set runs_dir to another folder."


def _not_an_object(path: Path, reason: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{path} cannot be read: {reason}. Expected one JSON object. Restore it from "
        "a copy, or remove it to start the record anew."
    )
