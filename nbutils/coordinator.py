"""``TrainingCoordinator``: wires task, config, loop, checkpoints and views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.export import Exported, export_model, save_weights
from nbutils.checkpoint.location import choose_run_dir, identity_of
from nbutils.checkpoint.record import begin_record, recorded
from nbutils.checkpoint.rng import seed_everything
from nbutils.checkpoint.snapshot import collect, restore
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.weights import using_weights
from nbutils.config import RunConfig
from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.environment.device import resolve_device
from nbutils.errors import CheckpointError, NonFiniteStepError
from nbutils.monitor.report import write_report
from nbutils.monitor.rundir import RunDirectory
from nbutils.preflight.gate import demand_verdict
from nbutils.tracking.views import Views, open_views
from nbutils.train.evaluate import evaluate, evaluating, predict, with_test_data
from nbutils.train.notifier import Notifier
from nbutils.train.precision import Precision
from nbutils.train.prepare import example_inputs, prepare_model
from nbutils.train.result import TrainResult
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["TrainingCoordinator"]


class TrainingCoordinator:
    """Trains a task, exactly and resumably.

    Args:
        task: What is trained.
        config: How; by default the config the task was built from.
        callbacks: Watchers with any of the hooks of :class:`Callback`.
        run_dir: Where the run lives; by default a folder under ``runs_dir``.
        **overrides: Config leaves, such as ``epochs=3``.

    Raises:
        ConfigError: An override or a callback's hook that does not exist.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig | None = None,
        *,
        callbacks: Sequence[Any] = (),
        run_dir: str | Path | None = None,
        **overrides: Any,
    ) -> None:
        base = config or task.config or RunConfig()
        self.task = task
        self.config: RunConfig = base.replace(**overrides) if overrides else base
        self.callbacks = list(callbacks)
        Notifier(self.callbacks)  # a typo in a hook's name is an error here
        self.device, self.device_reason = resolve_device(self.config.train.device)
        self._run_dir = None if run_dir is None else Path(run_dir)
        self._session: Session | None = None

    @property
    def run_dir(self) -> Path:
        """The run's folder; chosen when it is first needed."""
        if self._run_dir is None:
            identity = identity_of(self.task, self.config)
            is_stable = bool(self.task.config and self.config.recipe)
            self._run_dir = choose_run_dir(
                self.config, self.task.name, identity, is_stable=is_stable
            )
        return self._run_dir

    def train(self) -> TrainResult:
        """Train until the plan is fulfilled; run again, it resumes where it stopped.

        Raises:
            PreflightError: A check failed, before anything long started.
            SkipBudgetError: Too many updates were refused; the run is saved.
            CheckpointError: The folder holds another model, or cannot hold this one.
        """
        demand_verdict(self.task, self.config)
        folder = RunDirectory(self.run_dir).create()
        record = begin_record(folder, self.config, self.task)
        self._session = None
        with open_views(self.config, folder, record["run_id"]) as views:
            with recorded(folder, views.events, self._close):
                session = self._open(views, is_same=record["is_same"])
                self._fit(session, views, record["run_id"])
            result = session.result()
            views.final_html = result._repr_html_()
        return result

    def quick_train(self, steps: int) -> TrainResult:
        """Rehearse ``steps`` optimizer steps in a folder of their own.

        Weights and random generators are then given back, for a later :meth:`train`.
        """
        prepare_model(self.task, self.config, self.device)
        before = collect(0, self.task.model, {})
        rehearsal = TrainingCoordinator(
            self.task,
            self.config.replace(max_steps=steps, epochs=steps),
            callbacks=self.callbacks,
            run_dir=f"{self.run_dir}-quick-{time.time_ns():x}",
        )
        try:
            return rehearsal.train()
        finally:
            restore(before.full_weights(), before.state, self.task.model, {})

    def resume_training(self, run_dir: str | Path | None = None) -> TrainResult:
        """Continue a run from its newest whole checkpoint.

        Raises:
            CheckpointError: There is none.
        """
        if run_dir is not None:
            self._run_dir = Path(run_dir)
        if not self._store(print).steps():
            raise CheckpointError(
                f"{self.run_dir} holds no checkpoint to resume from. Pass the run's "
                "folder, or call train() to start it."
            )
        return self.train()

    def evaluate(self, split: str = "test", *, weights: str = "last") -> dict[str, Any]:
        """Loss and metrics of a split; those of ``"test"`` also go to the report.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            weights: ``"last"``, or ``"best"`` by the monitored metric.

        Raises:
            ContractError: The task has no such data, or it is empty.
        """
        with self._weights(weights):
            metrics = evaluate(
                self.task,
                make_loader(self.task, split, self.config, device=self.device),
                Precision.of(self.config, self.device),
                self.device,
                loss_weights=self.config.loss.loss_weights,
                seed=self.config.train.seed,
            )
        folder = RunDirectory(self.run_dir)
        if split == "test" and folder.events_path.exists():
            folder.update_json("run.json", test_metrics=metrics, test_weights=weights)
        return metrics

    def predict(self, data: Any, *, weights: str = "last") -> Any:
        """Outputs over ``data``, on the CPU and in its order.

        ``data`` is anything that :class:`Task` takes; ``weights`` as above.
        """
        twin = with_test_data(self.task, data)
        loader = make_loader(twin, "test", self.config, device=self.device)
        precision = Precision.of(self.config, self.device)
        with self._weights(weights):
            return predict(twin, loader, precision, self.device, self.config.train.seed)

    def export(
        self, formats: Sequence[str] = ("safetensors",), *, weights: str = "last"
    ) -> Exported:
        """Write the model to ``<run_dir>/export``, each format read back and compared.

        Raises:
            ConfigError: An unknown format, or one this model cannot have.
        """
        model = self.task.model
        inputs = example_inputs(self.task, self.config)
        with self._weights(weights), evaluating(model, self.device):
            model.cpu()
            try:
                return export_model(model, inputs, self.run_dir / "export", formats)
            finally:
                model.to(self.device)

    def export_state_dict(self, path: str | Path) -> Path:
        """Write the model's ``state_dict`` to ``path``."""
        with self._weights("last"):
            return save_weights(self.task.model, Path(path))

    def report(self) -> Path:
        """Write ``report.html`` from what is on disk; gives its path."""
        return write_report(self.run_dir)

    def _open(self, views: Views, *, is_same: bool) -> Session:
        """The session, at the newest whole checkpoint if there is one."""
        seed_everything(self.config.train.seed)
        prepare_model(self.task, self.config, self.device)
        session = self._session = Session(
            self.task, self.config, self.device, self.run_dir, views.events
        )
        loaded = self._store(views.tell).latest()
        if loaded is None:
            return session
        restore(loaded.weights, loaded.state, self.task.model, session.parts)
        state = session.state
        if is_same and state.finished_by:
            state.end(state.finished_by)
        views.events.write(
            "resume", step=state.step, epoch=state.epoch, checkpoint=str(loaded.path)
        )
        return session

    def _fit(self, session: Session, views: Views, run_id: str) -> None:
        store = self._store(views.tell)
        store.ensure_space(session.checkpoint_bytes())
        saver = CheckpointCallback(
            store, self.config.checkpoint, self.task.model, session.parts
        )
        notify = Notifier([session.recorder(run_id), *self.callbacks, saver])
        saver.notify = notify
        try:
            session.loop(notify).fit(session.state)
        except NonFiniteStepError:
            saver.save(session.state)  # refused before the weights changed: worth it
            raise

    def _close(self) -> RunState | None:
        return None if self._session is None else self._session.close()

    def _store(self, tell: Any) -> CheckpointStore:
        return CheckpointStore.of(self.config, self.run_dir, tell)

    def _weights(self, which: str) -> AbstractContextManager[None]:
        self.task.model.to(self.device)
        averaged = None if self._session is None else self._session.averaged()
        return using_weights(which, self.task.model, self._store(print), averaged)
