"""The ways of records into a run's log, opened for a block and closed after it."""

from __future__ import annotations

import logging
import sys
import warnings
from types import TracebackType
from typing import Any

__all__ = ["Routes", "RunHandler", "is_ours"]


class RunHandler(logging.Handler):
    """A handler of a run; every other one is the user's."""


class Routes:
    """Loggers and warnings lead into a handler while the block runs.

    The package's logger lets INFO pass meanwhile, unless the user gave it a level.
    A record that would not have passed without that reaches our file alone.

    Args:
        file: The handler of the run's file.
        name: The package's logger.
    """

    def __init__(self, file: logging.Handler, name: str) -> None:
        self._file = file
        self._logger = logging.getLogger(name)
        self._console = _Console()
        self._warnings = _Warnings(file)
        self._gate: _Gate | None = None

    def __enter__(self) -> Routes:
        root = logging.getLogger()
        root.addHandler(self._file)
        root.addHandler(self._console)
        self._warnings.open()
        if self._logger.level == logging.NOTSET and self._logger.propagate:
            self._gate = _Gate(self._file)
            self._logger.addHandler(self._gate)
            self._logger.propagate = False
            self._logger.setLevel(logging.INFO)
        elif not self._logger.propagate:  # it does not reach the root's handlers
            self._logger.addHandler(self._file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        root = logging.getLogger()
        self._warnings.close()
        if self._gate is not None:
            self._logger.removeHandler(self._gate)
            self._logger.propagate = True
            if self._logger.level == logging.INFO:  # else someone set it meanwhile
                self._logger.setLevel(logging.NOTSET)
            self._gate = None
        self._logger.removeHandler(self._file)
        root.removeHandler(self._console)
        root.removeHandler(self._file)

    def offer(self, record: logging.LogRecord) -> None:
        """Hand a record that the file has to the handlers of the user."""
        if record.levelno < _level_without(self._logger):
            return
        for handler in _handlers(logging.getLogger(record.name)):
            is_user = not isinstance(handler, RunHandler)
            if is_user and handler.level <= record.levelno:
                handler.handle(record)


def is_ours(record: logging.LogRecord, name: str) -> bool:
    """Whether a record is of the package's logger or of one below it."""
    return record.name == name or record.name.startswith(f"{name}.")


class _Gate(RunHandler):
    """Everything to the file; to the handlers above, what they got before."""

    def __init__(self, file: logging.Handler) -> None:
        super().__init__()
        self._file = file

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass the record on, without a lock of its own."""
        self._file.handle(record)
        root = logging.getLogger()
        if record.levelno < root.level:
            return True
        for handler in root.handlers:
            is_file = isinstance(handler, RunHandler) and not isinstance(
                handler, _Console
            )
            if not is_file and handler.level <= record.levelno:
                handler.handle(record)
        return True


class _Console(RunHandler):
    """Warnings on the standard error where the user has no handler: Python's own way.

    With a handler at the root, Python's last resort falls silent; this stands for it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record unless a handler of the user takes it."""
        handlers = _handlers(logging.getLogger(record.name))
        if not all(isinstance(handler, RunHandler) for handler in handlers):
            return
        first = next(h for h in logging.getLogger().handlers if isinstance(h, _Console))
        if first is self:  # of two runs at once, one prints
            text = f"{record.levelname} {record.name}: {record.getMessage()}"
            sys.stderr.write(text + "\n")


def _handlers(logger: logging.Logger | None) -> list[logging.Handler]:
    """Handlers that a logger's records reach; our gate leads on to the root."""
    found: list[logging.Handler] = []
    while logger is not None:
        found += logger.handlers
        leads_on = logger.propagate or any(
            isinstance(h, _Gate) for h in logger.handlers
        )
        logger = logger.parent if leads_on else None
    return found


def _level_without(logger: logging.Logger) -> int:
    """The level that counts for the user: of the root where our gate stands."""
    if any(isinstance(handler, _Gate) for handler in logger.handlers):
        return max(logging.getLogger().level, logging.root.manager.disable + 1)
    return max(logger.getEffectiveLevel(), logging.root.manager.disable + 1)


class _Warnings:
    """What :mod:`warnings` shows goes to the file as well, and is shown as before."""

    def __init__(self, file: logging.Handler) -> None:
        self._file = file
        self._is_open = False
        self._before: Any = None

    def open(self) -> None:
        """Stand before whoever shows warnings now."""
        self._before, self._is_open = warnings.showwarning, True
        warnings.showwarning = self._show

    def close(self) -> None:
        """Step aside; where another one stands before us, stay and only pass on."""
        self._is_open = False
        if warnings.showwarning == self._show:
            warnings.showwarning = self._before

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if self._is_open and file is None:
            text = f"{category.__name__}: {message} ({filename}:{lineno})"
            record = logging.LogRecord(
                "py.warnings", logging.WARNING, filename, lineno, text, (), None
            )
            self._file.handle(record)
        self._before(message, category, filename, lineno, file, line)
