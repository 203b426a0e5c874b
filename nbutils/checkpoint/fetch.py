"""The way back from the second tier: a run whose folder is gone, or broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nbutils.checkpoint.store import BEST, step_of
from nbutils.checkpoint.tier import Tier
from nbutils.monitor.rundir import RunDirectory

__all__ = ["TEXTS", "Fetcher", "failure_text"]

TEXTS = ("run.json", "config.yaml", "events.jsonl")
ANSWER_S = 60.0


class Fetcher:
    """Brings a run back from its mirror.

    Args:
        tier: Where its copies are.
        folder: The run directory.
        tell: Told what was fetched, and what could not be.
    """

    def __init__(
        self, tier: Tier, folder: RunDirectory, tell: Callable[[str], None]
    ) -> None:
        self._tier = tier
        self._folder = folder
        self._tell = tell

    def restore(self, fingerprint: Callable[[], str]) -> None:
        """Bring the run back, if its folder here holds no checkpoint.

        The newest whole copy comes first, then the best one. A copy of another task
        stays where it is.
        """
        folder = self._folder.checkpoints_dir
        if folder.is_dir() and any(
            step_of(p.name) is not None for p in folder.iterdir()
        ):
            return
        try:
            names, record = _within(ANSWER_S, self._look)
        except Exception as error:
            self._tell(
                failure_text(
                    self._tier, "could not be looked at; the run starts without", error
                )
            )
            return
        if not names:
            return
        ours = self._folder.read_json("run.json")
        if ours is not None:
            is_other = ours.get("run_id") != record.get("run_id")
        else:
            is_other = bool(record) and record.get("task_fingerprint") != fingerprint()
        if is_other:
            self._tell(
                f"{self._tier.shown} holds a run of another task, which is left as it "
                "is; this run starts anew. To go on from it, copy it to "
                f"{self._folder.path}."
            )
            return
        self._fetch(names)

    def rescue(self) -> bool:
        """Fetch the newest whole copy, as no checkpoint here is whole any more."""
        try:
            names, _ = _within(ANSWER_S, self._look)
        except Exception as error:
            self._tell(failure_text(self._tier, "could not be looked at", error))
            return False
        return self._fetch(names)

    def _look(self) -> tuple[list[str], dict[str, Any]]:
        return self._tier.names(), self._tier.read_json("run.json")

    def _fetch(self, names: list[str]) -> bool:
        """The newest whole one of ``names``, and the best; true if there is one."""
        folder = self._folder.checkpoints_dir
        is_done = False
        for name in [n for n in names[::-1] if n != BEST]:
            try:
                path = self._tier.fetch(name, folder)
            except Exception as error:
                self._tell(failure_text(self._tier, f"has no whole {name}", error))
                continue
            self._tell(
                f"{folder} held no whole checkpoint; {path.name} was fetched from "
                f"{self._tier.shown}"
            )
            is_done = True
            break
        if BEST in names:
            try:
                self._tier.fetch(BEST, folder)
                is_done = True
            except Exception as error:
                self._tell(failure_text(self._tier, f"has no whole {BEST}", error))
        if is_done:
            self._fetch_texts()
        return is_done

    def _fetch_texts(self) -> None:
        """Record and events of the run; what lies here already is newer."""
        for name in TEXTS:
            path = self._folder.path / name
            if not path.exists():
                self._tier.fetch_text(path)


def failure_text(tier: Tier, what: str, error: Exception) -> str:
    """What went wrong with the mirror, in a sentence."""
    reason = str(error).partition("\n")[0]
    return f"the mirror {tier.shown} {what}: {type(error).__name__}: {reason}"


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What ``call`` returns, or raises, within a time limit.

    Raises:
        TimeoutError: It took longer; it goes on in a thread that nobody waits for.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((call(), None))
        except Exception as error:
            results.append((None, error))

    thread = threading.Thread(target=run, name="nbutils-mirror-look", daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise TimeoutError(f"no answer in {seconds:g} s")
    value, error = results[0]
    if error is not None:
        raise error
    return value
