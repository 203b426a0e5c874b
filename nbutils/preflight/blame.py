"""An exception from the user's code, told in one line with the place it came from."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
import types
from pathlib import Path

from nbutils.errors import NbutilsError

__all__ = ["is_ours", "is_own", "own_frame", "place_of", "quote"]

_PACKAGE = str(Path(__file__).parents[1])
_STDLIB = sysconfig.get_paths()["stdlib"]


def own_frame(error: BaseException) -> str:
    """``file:line in function: source`` of the last frame that is the user's own.

    Frames of this package, of installed packages and of Python itself are not; empty
    when there is no other.
    """
    found = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if is_own(frame.f_code.co_filename):
            found = place_of(frame.f_code, number)
    return found


def place_of(code: types.CodeType, number: int) -> str:
    """``file:line in function: source`` of a line."""
    line = linecache.getline(code.co_filename, number).strip()
    name = Path(code.co_filename).name
    return f"{name}:{number} in {code.co_name}: {line}".rstrip(": ")


def is_ours(error: BaseException) -> bool:
    """Whether a check itself is at fault: nothing of the user's was running.

    The user's objects are called through :class:`Task` and the loaders, so that the
    last frame of this package is theirs then, or a frame of the user's own follows.
    """
    if isinstance(error, NbutilsError):
        return False
    paths = [f.f_code.co_filename for f, _ in traceback.walk_tb(error.__traceback__)]
    mine = [i for i, path in enumerate(paths) if path.startswith(_PACKAGE)]
    if not mine or any(is_own(path) for path in paths[mine[-1] :]):
        return False
    return paths[mine[-1]].startswith(str(Path(__file__).parent))


def quote(error: BaseException) -> str:
    """The error's type, its message and where the user's code raised it."""
    kind = "" if isinstance(error, NbutilsError) else f"{type(error).__name__}: "
    text = f"{kind}{error}".strip()
    place = own_frame(error)
    return f"{text}\nat {place}" if place else text


def is_own(path: str) -> bool:
    """Whether a file is the user's: not of Python, of a package, or of this one."""
    if path.startswith("<frozen") or path in ("<string>", "<__array_function__>"):
        return False
    if "site-packages" in path or "dist-packages" in path:
        return False
    return not path.startswith((_PACKAGE, _STDLIB))
