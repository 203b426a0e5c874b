"""``TrainingCoordinator``: wires task, config, loop, checkpoints and views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from nbutils.checkpoint.location import choose_run_dir, given_run_dir
from nbutils.checkpoint.record import record_test
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.weights import using_weights
from nbutils.config import RunConfig
from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.environment.device import resolve_device
from nbutils.running import Run, demand_checkpoint, lent_model
from nbutils.tracking.sync import send_summary
from nbutils.train.evaluate import evaluate, predict, told_pieces, with_test_data
from nbutils.train.measure.measure import measure_test
from nbutils.train.notifier import Notifier
from nbutils.train.oom import Pieces
from nbutils.train.precision import Precision
from nbutils.train.result import TrainResult

if TYPE_CHECKING:
    from nbutils.checkpoint.export import Exported
    from nbutils.launch.background import DetachedRun

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
        if task.config is None:
            task.smooth_labels(self.config.loss.label_smoothing)
        self.callbacks = list(callbacks)
        Notifier(self.callbacks)  # a typo in a hook's name is an error here
        self.device, self.device_reason = resolve_device(self.config.train.device)
        self._run_dir = None if run_dir is None else given_run_dir(run_dir)
        self._run: Run | None = None

    @property
    def run_dir(self) -> Path:
        """The run's folder, absolute; chosen when it is first needed."""
        if self._run_dir is None:
            self._run_dir = choose_run_dir(self.config, self.task).absolute()
        return self._run_dir

    @overload
    def train(self) -> TrainResult: ...
    @overload
    def train(self, *, background: Literal[True]) -> DetachedRun: ...

    def train(self, *, background: bool = False) -> TrainResult | DetachedRun:
        """Train until the plan is fulfilled; run again, it resumes where it stopped.

        Args:
            background: In a process that outlives this one; gives its handle, whose
                ``wait()`` gives the result and brings the weights home.

        Raises:
            PreflightError: A check failed, before anything long started.
            SkipBudgetError: Too many updates were refused; the run is saved.
            CheckpointError: The folder holds another model, or cannot hold this one.
        """
        if self.config.preflight.preflight != "skip":
            from nbutils.preflight.gate import demand_verdict  # else not loaded

            demand_verdict(self.task, self.config)
        if background:
            from nbutils.launch.background import start  # seldom used

            self._run = None  # what is learnt there is on the disk
            return start(self.task, self.config, self.run_dir, self.callbacks)
        where = self.device, self.run_dir
        self._run = Run(self.task, self.config, *where, self.callbacks)
        return self._run.train()

    def quick_train(self, steps: int) -> TrainResult:
        """Rehearse ``steps`` steps in a folder of their own; weights and RNGs stay."""
        warmup = min(self.config.schedule.warmup_steps, steps - 1)
        short = {"max_steps": steps, "epochs": steps, "warmup_steps": warmup}
        config = self.config.replace(**short, mirror=None, tracker="none")
        with lent_model(self.task, self.config, self.device):
            path = f"{self.run_dir}-quick-{time.time_ns():x}"
            rehearsal = TrainingCoordinator(
                self.task, config, callbacks=self.callbacks, run_dir=path
            )
            return rehearsal.train()

    def resume_training(self, run_dir: str | Path | None = None) -> TrainResult:
        """Continue a run from its newest whole checkpoint.

        Raises:
            CheckpointError: There is none.
        """
        if run_dir is not None:
            self._run_dir = given_run_dir(run_dir, is_resumed=True)
        demand_checkpoint(self.task, self.config, self.run_dir)
        return self.train()

    def evaluate(self, split: str = "test", *, weights: str = "last") -> dict[str, Any]:
        """Loss and metrics; of ``"test"`` with ``.intervals`` and ``.baselines``.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            weights: ``"last"``, or ``"best"`` by the monitored metric.

        Raises:
            ContractError: The task has no such data, or it is empty.
        """
        measure = measure_test if split == "test" else evaluate
        with self._weights(weights):
            metrics = measure(
                self.task,
                make_loader(self.task, split, self.config, device=self.device),
                Precision.of(self.config, self.device),
                self.device,
                loss_weights=self.config.loss.loss_weights,
                seed=self.config.train.seed,
                pieces=self._pieces(self.task),
            )
        if split == "test":
            record_test(self.run_dir, metrics, weights)
            send_summary(self.config, self.run_dir)
        return metrics

    def predict(self, data: Any, *, weights: str = "last") -> Any:
        """Outputs over ``data``, on the CPU and in its order.

        ``data`` is anything that :class:`Task` takes; ``weights`` as above.
        """
        twin = with_test_data(self.task, data)
        loader = make_loader(twin, "test", self.config, device=self.device)
        precision = Precision.of(self.config, self.device)
        seed, pieces = self.config.train.seed, self._pieces(twin, has_targets=False)
        with self._weights(weights):
            return predict(twin, loader, precision, self.device, seed, pieces)

    def export(
        self, formats: Sequence[str] = ("safetensors",), *, weights: str = "last"
    ) -> Exported:
        """Write the model to ``<run_dir>/export``, each format read back and compared.

        Args:
            formats: Of ``"safetensors"``, ``"state_dict"``, ``"onnx"`` and
                ``"torch_export"``.
            weights: ``"last"`` (their average, if the run keeps one), or ``"best"``.

        Raises:
            ConfigError: An unknown format, or one this model cannot have.
            ContractError: What was read back does not compute the same.
        """
        return self._export(self.run_dir / "export", formats, weights)

    def export_state_dict(self, path: str | Path) -> Path:
        """Write the model's ``state_dict`` to ``path``."""
        from nbutils.checkpoint.export import save_weights

        with self._weights("last"):
            return save_weights(self.task.model, Path(path))

    def publish_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        weights: str = "last",
        formats: Sequence[str] = ("safetensors",),
        token: str | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload weights, config and a model card to the Hugging Face Hub.

        Gives the address of the commit; what was uploaded stays in ``<run_dir>/hub``.

        Args:
            repo_id: ``"owner/name"``; made if it does not exist.
            private: Of a new repository; one that is public is then refused.
            weights: As for :meth:`export`, like ``formats``.
            token: Written nowhere; by default the environment's or that of ``hf``.

        Raises:
            ConfigError: ``repo_id`` or a format cannot be used.
            CheckpointError: The run has saved no weights yet.
            EnvironmentProblem: No package, token or network, or the Hub refused.
        """
        from nbutils.checkpoint.hub import Destination, Source, publish  # seldom used

        to = Destination(repo_id, private, revision, commit_message, token)
        source = Source(self.task, self.run_dir, weights, self._store().steps())
        return publish(to, source, lambda to: self._export(to, formats, weights))

    def report(self) -> Path:
        """Write ``report.html`` from what is on disk; gives its path."""
        from nbutils.monitor.report import write_report

        return write_report(self.run_dir)

    def _export(self, folder: Path, formats: Sequence[str], weights: str) -> Exported:
        from nbutils.checkpoint.export import export_task

        with self._weights(weights):
            return export_task(self.task, self.config, self.device, folder, formats)

    def _pieces(self, task: Task, *, has_targets: bool = True) -> Pieces:
        on_oom = self.config.guard.on_oom
        return told_pieces(self.device, task, on_oom=on_oom, has_targets=has_targets)

    def _store(self) -> CheckpointStore:
        return CheckpointStore.of(self.config, self.run_dir, print)

    def _weights(self, which: str) -> AbstractContextManager[None]:
        self.task.model.to(self.device)
        averaged = None if self._run is None else self._run.averaged()
        return using_weights(which, self.task.model, self._store(), averaged)
