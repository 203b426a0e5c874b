"""Sending a task to another process: a file that only we may read, and only once.

The task that preflight has proven is pickled and sent, not built anew: nothing else
than that is ever trained. ``cloudpickle`` is needed for what a notebook defines.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nbutils.errors import EnvironmentProblem

__all__ = ["receive", "send"]

_PARTS = (
    *("model", "loss", "train_data", "val_data", "test_data", "forward_function"),
    *("collate", "metrics", "count_targets", "make_optimizer", "make_schedule"),
    *("oracle", "baselines", "extras"),
)
_NAMES = {"forward_function": "forward"}
"""Names of a task's parts as they are given, where they are kept under another."""

_WHY_NOT = (pickle.PicklingError, TypeError, AttributeError, NotImplementedError)
_WHY_NOT += (ValueError, RuntimeError, RecursionError)


def send(
    folder: Path, task: Any, config: Any, callbacks: list[Any], facts: dict[str, Any]
) -> Path:
    """Write task, config and callbacks to a new file in ``folder``; gives its path.

    Args:
        folder: The run directory.
        task: Its report stays here; everything else goes.
        config: Of the run.
        callbacks: The user's.
        facts: Plain values that go before: they are read without unpickling.

    Raises:
        EnvironmentProblem: Something cannot be sent; each such part is named.
    """
    sent = copy.copy(task)
    sent.report = None
    header = {**facts, "sys_path": sys.path}
    number, name = tempfile.mkstemp(prefix=".task-", suffix=".pickle", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(number, "wb") as file:  # mkstemp made it for us alone: 0600
            file.write(json.dumps(header).encode() + b"\n")
            sending = {"task": sent, "config": config, "callbacks": callbacks}
            _pickler(file).dump(sending)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise EnvironmentProblem(
                f"the task cannot be written to {folder}: {error}. Expected room for "
                "the model and the data in memory. Free some, or choose another "
                "runs_dir."
            ) from error
        if not isinstance(error, _WHY_NOT):
            raise
        raise _not_sent(sent, callbacks, error) from error
    return path


def receive(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What :func:`send` wrote: the facts, and task, config and callbacks.

    The file is removed first. Only a file of our own user is read: a pickle runs code.

    Raises:
        EnvironmentProblem: The file belongs to somebody else.
    """
    with path.open("rb") as file:
        if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
            raise EnvironmentProblem(
                f"{path} belongs to another user; expected a file of our own. It is "
                "not opened: start the run yourself."
            )
        path.unlink()
        facts = json.loads(file.readline())
        sys.path += [entry for entry in facts["sys_path"] if entry not in sys.path]
        return facts, pickle.load(file)  # noqa: S301 (ours, checked above)


def _pickler(file: BinaryIO) -> Any:
    if importlib.util.find_spec("cloudpickle") is not None:
        import cloudpickle

        return cloudpickle.Pickler(file, protocol=5)
    return _PlainPickler(file, protocol=5)


class _PlainPickler(pickle.Pickler):
    """Refuses what a notebook defines: another process could not find it."""

    def reducer_override(self, obj: Any) -> Any:
        """Look at every class and function; all others take the usual way."""
        is_code = isinstance(obj, type) or hasattr(obj, "__code__")
        if is_code and getattr(obj, "__module__", None) == "__main__":
            name = getattr(obj, "__qualname__", obj)
            raise pickle.PicklingError(
                f"{name} is defined in this notebook or script; to send it, "
                "pip install cloudpickle, or move it to a .py file and import it"
            )
        return NotImplemented


def _not_sent(task: Any, callbacks: list[Any], error: BaseException) -> Exception:
    """The error that names each part that cannot be sent, and why."""
    problems = list(_problems(task, callbacks)) or [f"  - {_reason(error)}"]
    return EnvironmentProblem(
        "the task cannot be sent to a process of its own:\n"
        + "\n".join(problems)
        + "\nExpected parts that can be pickled. Change these, or train here: train() "
        "without background=True."
    )


def _problems(task: Any, callbacks: list[Any]) -> Iterator[str]:
    parts = {_NAMES.get(name, name): getattr(task, name, None) for name in _PARTS}
    parts |= {f"callback {type(callback).__name__}": callback for callback in callbacks}
    for name, part in parts.items():
        try:
            _pickler(io.BytesIO()).dump(part)
        except _WHY_NOT as error:
            yield f"  - {name} ({type(part).__name__}): {_reason(error)}"


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
