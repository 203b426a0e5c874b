"""A run under way: opened at its newest checkpoint, fitted, closed, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.files import read_checkpoint
from nbutils.checkpoint.mirror import Mirror, find_newest, has_checkpoint, mirrored
from nbutils.checkpoint.record import begin_record, recorded
from nbutils.checkpoint.rng import collect_rng, restore_rng, seed_everything
from nbutils.checkpoint.snapshot import Snapshot, collect, restore
from nbutils.checkpoint.store import CheckpointStore
from nbutils.config.sources import rehearsed
from nbutils.data.identity import task_parts
from nbutils.data.ignored import ignored_settings
from nbutils.data.loader import add_context
from nbutils.data.task import Task
from nbutils.errors import CheckpointError
from nbutils.monitor.digest import write_digest
from nbutils.monitor.lock import run_lock
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runlog import RunLog, run_log
from nbutils.recipes.detect import detect_model_type
from nbutils.tracking.factory import check_packages
from nbutils.tracking.views import Views, open_views
from nbutils.train.micro_memory import MicroMemory
from nbutils.train.notifier import Notifier
from nbutils.train.prepare import prepare_model
from nbutils.train.result import TrainResult
from nbutils.train.rollback import Rollback, all_finite
from nbutils.train.session import Session
from nbutils.train.state import RunState
from nbutils.train.strays import Strays

__all__ = ["Run", "demand_checkpoint", "lent_model", "restore_but_rng"]


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
                this one, trains in it; or a tracker's package is missing.
        """
        check_packages(self.config)
        mirror = Mirror.of(self.config, self.path)
        folder = RunDirectory(self.path).create()
        with run_lock(self.path), run_log(self.path) as log:
            try:
                return self._train(folder, mirror, log)
            finally:
                log.attempt("summary.json", lambda: write_digest(self.path))

    def _train(
        self, folder: RunDirectory, mirror: Mirror | None, log: RunLog
    ) -> TrainResult:
        if mirror is not None:
            mirror.fetcher.restore(self.task.fingerprint)
        record = begin_record(folder, self.config, self.task)
        if not (record["verdict"] or {}).get("parts"):  # else preflight has them
            folder.update_json("run.json", parts=task_parts(self.task))
        with open_views(self.config, folder, record["run_id"]) as views:
            views.events.subscribe(log.mirror, log.path.name)
            ending = recorded(folder, views.events, self._close)
            with mirrored(mirror, views.tell), ending:
                session = self._open(views, mirror, is_same=record["is_same"])
                self._fit(session, views, mirror, record["run_id"])
            return session.result()

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
        session.parts["tracking"] = views.link
        views.describe(self.task.model, detect_model_type)
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
        watchers = session.watchers(self.callbacks)
        own = [session.recorder(run_id), rollback, *watchdogs, watchers]
        tell = watchdogs[0].tell if watchdogs else None
        last = [Strays(self.task, session.optimizer, tell), saver]
        notify = Notifier([saver.drain, views.link, *own, *self.callbacks, *last])
        saver.notify = notify
        loop = session.loop(notify, rollback)
        session.taps.install(loop)
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
        if 0 < first_step == session.state.step:
            _tell_finished(views, session.state)

    def _store(self, views: Views) -> CheckpointStore:
        return CheckpointStore.of(self.config, self.path, views.tell)

    def _close(self) -> RunState | None:
        return None if self._session is None else self._session.close()


def _tell_finished(views: Views, state: RunState) -> None:
    """Say that a run which was started again had ended before."""
    if state.stop_reason in ("completed", "target", "patience"):
        text = (
            "this run is finished: nothing was left to train. Raise epochs to go on, "
            "or set run_name=... to start another one."
        )
        views.events.write("message", level="info", text=text)


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


def demand_checkpoint(task: Task, config: Any, path: Path) -> None:
    """See that the run in ``path`` can be resumed.

    Raises:
        CheckpointError: There is no checkpoint, there or in its mirror.
    """
    if not has_checkpoint(task, config, path):
        raise CheckpointError(
            f"{path} holds no checkpoint to resume from. Pass the run's folder, or "
            "call train() to start it."
        )


@contextmanager
def lent_model(task: Task, config: Any, device: torch.device) -> Iterator[None]:
    """Weights and random generators for a block to use, then as they were."""
    prepare_model(task, config, device)
    before = collect(0, task.model, {})
    try:
        yield
    finally:
        restore(before.full_weights(), before.state, task.model, {})
