"""Copies what is published to a second place, in a thread that nobody waits for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.checkpoint.fetch import TEXTS, Fetcher, failure_text
from nbutils.checkpoint.files import Loaded
from nbutils.checkpoint.store import BEST, CheckpointStore, step_of
from nbutils.checkpoint.tier import Tier
from nbutils.errors import CheckpointError
from nbutils.monitor.rundir import RunDirectory

__all__ = ["Mirror", "find_newest", "has_checkpoint", "mirrored"]

TRIES = 3
BACKOFF_S = 1.0
FINISH_S, PATIENT_S = 60.0, 2.0
SLOW_S = 600.0


class Mirror:
    """The second tier of one run.

    At most one copy is under way; of those that wait, the newest and the newest best
    stay. A failure is told once per cause, and the run goes on.

    Args:
        tier: Where copies go.
        run_dir: The run.
        keep_last: Newest copies kept there.

    Attributes:
        news: Sentences to be told, from whichever thread has them.
        fetcher: The way back.
    """

    def __init__(self, tier: Tier, run_dir: Path, keep_last: int) -> None:
        self.news: deque[Any] = deque()
        self._tier = tier
        self._folder = RunDirectory(run_dir)
        self.fetcher = Fetcher(tier, self._folder, self.news.append)
        self._keep_last = max(keep_last, 1)
        self._changed = threading.Condition()
        self._waiting: dict[str, Path] = {}
        self._current: tuple[str, Path] | None = None
        self._started_s = 0.0
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._causes: set[str] = set()
        self._is_ours = False

    @classmethod
    def of(cls, config: Any, run_dir: Path) -> Mirror | None:
        """The mirror of the run in ``run_dir``; none where the config names none.

        Raises:
            ConfigError: Nothing here can reach such a place.
        """
        place = config.checkpoint.mirror
        if place is None:
            return None
        tier = Tier(place, run_dir.absolute().name)
        return cls(tier, run_dir, config.checkpoint.keep_last)

    def offer(self, path: Path, *, is_best: bool) -> None:
        """Take a published checkpoint into care, at once."""
        with self._changed:
            self._waiting["last"] = path
            if is_best:
                self._waiting["best"] = path
            since = time.monotonic() - self._started_s
            if self._current is not None and since > SLOW_S:
                self._tell_once(
                    f"copying {self._current[1].name} to {self._tier.shown} has taken "
                    f"{since / 60:.0f} min so far; training goes on",
                    cause="slow",
                )
            self._start()

    def held(self) -> set[str]:
        """Names of checkpoints that are still to be read."""
        with self._changed:
            paths = [*self._waiting.values()]
            if self._current is not None:
                paths.append(self._current[1])
        return {path.name for path in paths}

    def finish(self, tell: Callable[[str], None], timeout_s: float = FINISH_S) -> None:
        """Copy what waits, and the small files as they are now; within a time limit.

        An interrupt ends the wait and nothing else: the run is over already.
        """
        with self._changed:
            self._waiting["texts"] = self._folder.path
            self._start()
        try:
            if not self._wait(min(PATIENT_S, timeout_s)):
                tell(
                    f"waiting up to {timeout_s:g} s for {self._tier.shown}; an "
                    "interrupt ends the wait"
                )
                self._wait(timeout_s - PATIENT_S)
        except KeyboardInterrupt:
            tell("the wait was interrupted")
        self._end.set()
        with self._changed:
            left = [self._current] if self._current else []
            left = [*left, *self._waiting.items()]
            self._waiting.clear()
        names = sorted({path.name for kind, path in left if kind != "texts"})
        if left:
            self.news.append(
                f"{self._tier.shown} did not answer in time and was left behind; "
                f"{', '.join(names) or 'the small files'} may be missing there. "
                f"{self._folder.path} is complete."
            )
        self.tell_news(tell)

    def tell_news(self, tell: Callable[[str], None]) -> None:
        """Tell what there is to be told."""
        while self.news:
            tell(str(self.news.popleft()))

    def _wait(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout_s)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: what hangs in a network must not keep the process alive.
            self._thread = threading.Thread(
                target=self._work, name="nbutils-mirror", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                kinds = [k for k in ("last", "best", "texts") if k in self._waiting]
                if not kinds:
                    self._thread = self._current = None
                    self._changed.notify_all()
                    return
                self._current = (kinds[0], self._waiting.pop(kinds[0]))
                self._started_s = time.monotonic()
            self._try(*self._current)

    def _try(self, kind: str, path: Path) -> None:
        is_down = bool(self._causes - {"slow"})
        what = "the small files" if kind == "texts" else path.name
        num_left = 1 if is_down else TRIES
        while True:
            try:
                self._copy(kind, path)
                break
            except Exception as error:  # a second tier never ends the run (law 10)
                num_left -= 1
                if not num_left:
                    self._tell_failure(f"did not take {what}", error)
                    return
            if self._end.wait(BACKOFF_S * 4 ** (TRIES - 1 - num_left)):
                return  # the run is over, and has waited long enough
            if kind in self._waiting:
                return  # a newer one takes its place
        if is_down:
            self._causes.clear()
            self.news.append(f"{self._tier.shown} works again")

    def _copy(self, kind: str, path: Path) -> None:
        self._claim()
        for name in TEXTS:
            if (self._folder.path / name).exists():
                self._tier.put_text(self._folder.path / name)
        if kind == "texts":
            return
        self._tier.put(path, BEST if kind == "best" else path.name)
        if kind == "last":
            self._tier.prune(step_of(path.name) or 0, self._keep_last)

    def _claim(self) -> None:
        """Refuse to write over another run.

        Raises:
            CheckpointError: Another run lies in this run's place.
        """
        if self._is_ours:
            return
        theirs = self._tier.read_json("run.json").get("run_id")
        ours = (self._folder.read_json("run.json") or {}).get("run_id")
        if theirs is not None and theirs != ours:
            raise CheckpointError(
                f"another run (id {theirs}) lies there; set run_name, or another mirror"
            )
        self._is_ours = True

    def _tell_failure(self, what: str, error: Exception) -> None:
        text = failure_text(self._tier, what, error)
        self._tell_once(text, cause=f"{type(error).__name__} {_errno(error)}")

    def _tell_once(self, text: str, *, cause: str) -> None:
        if cause not in self._causes:
            self._causes.add(cause)
            self.news.append(text)


def has_checkpoint(task: Any, config: Any, run_dir: Path) -> bool:
    """Whether a run can be resumed; from its mirror it is fetched for that."""
    mirror = Mirror.of(config, run_dir)
    if mirror is not None:
        mirror.fetcher.restore(task.fingerprint)
        mirror.tell_news(print)
    return bool(CheckpointStore.of(config, run_dir, print).steps())


def find_newest(store: CheckpointStore, mirror: Mirror | None) -> Loaded | None:
    """The newest whole checkpoint of a run that begins, from the mirror if need be.

    Raises:
        CheckpointError: There are checkpoints, and none is whole, there neither.
    """
    store.tidy()
    try:
        loaded = store.latest()
    except CheckpointError:
        if mirror is None or not mirror.fetcher.rescue():
            raise
        loaded = store.latest()
    if mirror is not None:
        mirror.tell_news(store.report)
    if loaded is not None and mirror is not None:
        mirror.offer(loaded.path, is_best=False)  # it may have missed the last one
    return loaded


@contextmanager
def mirrored(mirror: Mirror | None, tell: Callable[[str], None]) -> Iterator[None]:
    """A block at whose end the mirror gets some time to catch up."""
    try:
        yield
    finally:
        if mirror is not None:
            mirror.finish(tell)


def _errno(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return "" if number is None else str(number)
