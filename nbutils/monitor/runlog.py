"""``run.log``: what a run and its libraries said, in the run directory.

While a run trains, its file gets the records of the logger ``nbutils`` from INFO on,
those of all other loggers from WARNING on, what :mod:`warnings` shows, the events that
are sentences, and the traceback of what ended it. Handlers and levels of the user stay
as they are, and get the records that they would have got without a run.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.monitor.events import Event
from nbutils.monitor.loglines import log_line
from nbutils.monitor.logroutes import Routes, RunHandler, is_ours
from nbutils.monitor.redact import redact

__all__ = ["RunLog", "log_name", "run_log"]

OURS = "nbutils"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_name() -> str:
    """``run.log``; ``run.rank1.log`` of the second process of several.

    Example:
        >>> log_name()
        'run.log'
    """
    rank = os.environ.get("RANK", "0").strip()
    return "run.log" if rank in ("", "0") else f"run.rank{rank}.log"


@contextmanager
def run_log(run_dir: str | Path) -> Iterator[RunLog]:
    """The log of the run in ``run_dir``, for a block; an error of it is written too."""
    log = RunLog(Path(run_dir) / log_name())
    with log.routes:
        log.tell(logging.INFO, f"run directory {run_dir}; {_versions()}")
        try:
            yield log
        except BaseException as error:
            log.tell_error(error)
            raise
        finally:
            log.close()


class RunLog:
    """The file, and the ways into it.

    Args:
        path: The file; lines are added to what it holds.

    Attributes:
        routes: Opens the ways for a block: loggers and warnings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _File(path)
        self._logger = logging.getLogger(f"{OURS}.run")
        self._epochs = 0
        self.routes = Routes(self._file, OURS)

    def mirror(self, event: Event) -> None:
        """Write an event that is a sentence; the other ones are left out."""
        if event["kind"] == "run_start":
            self._epochs = int(event.get("epochs") or 0)
        line = log_line(event, self._epochs)
        if line is not None:
            self.tell(*line)

    def tell(self, level: int, text: str) -> None:
        """Write a sentence; handlers of the user get it where they ask for it."""
        logger = self._logger
        record = logger.makeRecord(logger.name, level, "", 0, text, (), None)
        self._file.handle(record)
        self.routes.offer(record)

    def tell_error(self, error: BaseException) -> None:
        """Write what ends the run, with its traceback; Python shows it anyway."""
        level = logging.ERROR if isinstance(error, Exception) else logging.WARNING
        logger = self._logger
        text = f"the run ends with {type(error).__name__}"
        cause = (type(error), error, error.__traceback__)
        self._file.handle(logger.makeRecord(logger.name, level, "", 0, text, (), cause))

    def attempt(self, name: str, action: Callable[[], Any]) -> None:
        """Write a view of the run; that failing is told and stops nothing."""
        try:
            action()
        except Exception as error:
            text = f"{name} could not be written: {type(error).__name__}: {error}"
            logging.getLogger(OURS).warning(text, exc_info=error)

    def close(self) -> None:
        """Close the file for good; closing twice is harmless."""
        self._file.is_over = True
        try:
            self._file.close()
        except OSError:  # what a full disk did not take is tried once more
            self._file.count_failure()


class _File(logging.FileHandler, RunHandler):
    """The file as a handler: opened with its first line, never with a secret in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter(_FORMAT))
        self.num_failures = 0
        self.is_over = False

    def filter(self, record: logging.LogRecord) -> Any:
        """INFO of ours, WARNING of others."""
        least = logging.INFO if is_ours(record, OURS) else logging.WARNING
        if self.is_over or record.levelno < least:
            return False  # a closed file would be opened again
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; a file that cannot be opened is as one that is full."""
        try:
            super().emit(record)
        except OSError:  # of opening it; the base class handles those of writing
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """One line, a traceback below it."""
        return redact(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not end the run."""
        del record
        self.count_failure()

    def count_failure(self) -> None:
        """Tell the error that is being handled if it is the first one; count it."""
        self.num_failures += 1
        if self.num_failures == 1:
            error = sys.exc_info()[1]
            sys.stderr.write(
                f"{self.baseFilename} cannot be written: {error}. The run goes on; "
                "its events are in events.jsonl.\n"
            )


def _versions() -> str:
    import nbutils

    torch = getattr(sys.modules.get("torch"), "__version__", None)
    parts = [f"nbutils {nbutils.__version__}", f"Python {platform.python_version()}"]
    parts += [f"torch {torch}"] if torch else []
    return f"{', '.join(parts)}, process {os.getpid()}"
