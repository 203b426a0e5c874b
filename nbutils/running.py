"""A run under way: opened at its newest checkpoint, fitted, closed, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.mirror import Mirror, find_newest, mirrored
from nbutils.checkpoint.record import begin_record, recorded
from nbutils.checkpoint.rng import collect_rng, restore_rng, seed_everything
from nbutils.checkpoint.snapshot import Snapshot, collect, restore
from nbutils.checkpoint.store import CheckpointStore
from nbutils.config.sources import rehearsed
from nbutils.data.ignored import ignored_settings
from nbutils.data.loader import add_context
from nbutils.data.task import Task
from nbutils.errors import CheckpointError
from nbutils.monitor.lock import run_lock
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.views import Views, open_views
from nbutils.train.micro_memory import MicroMemory
from nbutils.train.notifier import Notifier
from nbutils.train.prepare import prepare_model
from nbutils.train.result import TrainResult
from nbutils.train.rollback import Rollback, all_finite
from nbutils.train.session import Session
from nbutils.train.state import RunState
from nbutils.train.strays import Strays

__all__ = ["Run", "restore_but_rng"]


class Run:
    """One training of a task in one folder.

    Args:
        task: What is trained.
        config: How.
        device: Where.
        path: The run directory.
        callbacks: Watchers, in their order.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        device: torch.device,
        path: Path,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.task = task
        self.config = rehearsed(config)
        self.device = device
        self.path = path
        self.callbacks = list(callbacks)
        self._session: Session | None = None

    def train(self) -> TrainResult:
        """Open the run where it stands, train it, write down how it ended.

        Raises:
            EnvironmentProblem: The folder cannot be written, or another process, or
                this one, trains in it.
        """
        mirror = Mirror.of(self.config, self.path)
        folder = RunDirectory(self.path).create()
        with run_lock(self.path):
            return self._train(folder, mirror)

    def _train(self, folder: RunDirectory, mirror: Mirror | None) -> TrainResult:
        if mirror is not None:
            mirror.fetcher.restore(self.task.fingerprint)
        record = begin_record(folder, self.config, self.task)
        with open_views(self.config, folder, record["run_id"]) as views:
            ending = recorded(folder, views.events, self._close)
            with mirrored(mirror, views.tell), ending:
                session = self._open(views, mirror, is_same=record["is_same"])
                self._fit(session, views, mirror, record["run_id"])
            result = session.result()
            views.final_html = result._repr_html_()
        return result

    def averaged(self) -> AbstractContextManager[None] | None:
        """The running average in the model for a block; none before a session."""
        return None if self._session is None else self._session.averaged()

    def _open(self, views: Views, mirror: Mirror | None, *, is_same: bool) -> Session:
        """The session, at the newest whole checkpoint if there is one."""
        for text in ignored_settings(self.task, self.config):
            views.tell(text)
        seed_everything(self.config.train.seed)
        prepare_model(self.task, self.config, self.device)
        session = self._session = Session(
            self.task, self.config, self.device, self.path, views.events
        )
        loaded = find_newest(self._store(views), mirror)
        memory = MicroMemory(
            self.config, self.task, self.device, session.precision.kind, views.events
        )
        memory.attach(session.micro, is_new=loaded is None)
        if loaded is None:
            return session
        restore(loaded.weights, loaded.state, self.task.model, session.parts)
        state = session.state
        if state.best and "path" in state.best:  # the folder may have been moved
            home = RunDirectory(self.path).checkpoints_dir
            state.best["path"] = str(home / Path(state.best["path"]).name)
        if is_same and state.finished_by:
            state.end(state.finished_by)
        views.events.write(
            "resume", step=state.step, epoch=state.epoch, checkpoint=str(loaded.path)
        )
        return session

    def _fit(
        self, session: Session, views: Views, mirror: Mirror | None, run_id: str
    ) -> None:
        store = self._store(views)
        store.ensure_space(session.checkpoint_bytes(), counts_present=True)
        saver = CheckpointCallback.of(
            self.config, store, self.task.model, session.parts, mirror
        )
        rollback = Rollback(
            self.task.model,
            session.parts,
            self.config.guard.max_rollbacks,
            views.events,
            snapshots=lambda: _whole_checkpoints(saver, store, views.tell),
            take=collect,
            restore=restore_but_rng,
        )
        watchdogs = session.watchdogs()
        own = [session.recorder(run_id), rollback, *watchdogs]
        tell = watchdogs[0].tell if watchdogs else None
        last = [Strays(self.task, session.optimizer, tell), saver]
        notify = Notifier([saver.drain, *own, *self.callbacks, *last])
        saver.notify = notify
        loop = session.loop(notify, rollback)
        saver.settle = loop.settle
        first_step = session.state.step
        try:
            loop.fit(session.state)
        except Exception as error:
            model = self.task.model
            is_new = session.state.step > first_step and loop.can_be_saved(error)
            is_new = is_new and not isinstance(error, CheckpointError)
            if is_new and all_finite(model, model.state_dict()):
                _save_after(error, saver, session.state)
            raise

    def _store(self, views: Views) -> CheckpointStore:
        return CheckpointStore.of(self.config, self.path, views.tell)

    def _close(self) -> RunState | None:
        return None if self._session is None else self._session.close()


def _save_after(error: Exception, saver: CheckpointCallback, state: RunState) -> None:
    """Save a run that ``error`` ends; that failing too must not hide ``error``."""
    try:
        saver.save(state, waits=True)
    except Exception as second:
        told = f"{type(second).__name__}: {second}"
        add_context(error, f"and the run could not be saved after it: {told}")


def _whole_checkpoints(
    saver: CheckpointCallback, store: CheckpointStore, tell: Callable[[str], None]
) -> Iterator[Any]:
    """Checkpoints from the newest to the oldest; broken ones are told and left out."""
    saver.close()  # one that is being written counts
    for path in store.steps()[::-1]:
        try:
            yield read_checkpoint(path)
        except CheckpointError as error:
            tell(f"checkpoint {path.name} is broken: {error}")


def restore_but_rng(snapshot: Any, model: nn.Module, parts: Mapping[str, Any]) -> None:
    """Model and ``parts`` as they were; random generators stay as they are."""
    is_copy = isinstance(snapshot, Snapshot)
    weights = snapshot.full_weights() if is_copy else snapshot.weights
    generators = collect_rng()
    restore(weights, snapshot.state, model, parts)
    restore_rng(generators)
