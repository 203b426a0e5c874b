"""A run in a process of its own: it outlives the cell, the kernel and Jupyter.

What it does is in its run directory. A handle can be had from any process at any
time: ``nb.attach(run_dir)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from nbutils.checkpoint.snapshot import load_weights
from nbutils.checkpoint.store import CheckpointStore
from nbutils.config import resolve
from nbutils.errors import EnvironmentProblem
from nbutils.launch.outcome import raise_failure
from nbutils.launch.sending import send
from nbutils.launch.spawn import fetch_dead, spawn
from nbutils.monitor.display import attach_panel, make_panel, show
from nbutils.monitor.follow import find_run, is_worked_on, life_of, look_on
from nbutils.monitor.process import (
    LOG_NAME,
    last_lines,
    note_process,
    process_of,
)
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.train.result import TrainResult

__all__ = ["DetachedRun", "attach", "start"]

_POLL_S = 0.5
_TOLD_BYTES = 256 * 1024**2
"""GPU memory of this process from which it is worth a sentence."""


class DetachedRun:
    """A run that another process trains.

    Args:
        run_dir: Where it lies.
        task: Whose model gets the trained weights once :meth:`wait` returns.
        config: Of the run, where ``task`` is given.
    """

    def __init__(
        self, run_dir: str | Path, task: Any = None, config: Any = None
    ) -> None:
        self.run_dir = Path(run_dir).absolute()
        self._task = task
        self._config = config
        self._asked_to_stop = False
        self._panel: Any = None

    @property
    def pid(self) -> int | None:
        """Number of the process; none where the run was not detached."""
        record = process_of(self.run_dir)
        return None if record is None else int(record["pid"])

    @property
    def alive(self) -> bool:
        """Whether a process trains in the folder, or starts up to."""
        fetch_dead()
        return bool(is_worked_on(self.run_dir))

    @property
    def log(self) -> str:
        """The last lines that the process wrote."""
        return last_lines(self.run_dir)

    def wait(
        self,
        timeout_s: float | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> TrainResult:
        """Wait until the run has ended; gives its result, as ``train()`` does.

        An interrupt ends the waiting, not the run.

        Args:
            timeout_s: Wait so long at most.
            sleep: Waits between two looks.

        Raises:
            TimeoutError: It still trains.
            EnvironmentProblem: Its process was killed; the last lines of its log stand
                in the text.
            NbutilsError: What ended the run, such as a ``SkipBudgetError``.
            RuntimeError: Any other failure of the run, with its traceback.
        """
        deadline_s = time.monotonic() + (
            float("inf") if timeout_s is None else timeout_s
        )

        def pause(seconds: float) -> None:
            fetch_dead()
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"the run in {self.run_dir} still trains after {timeout_s:g} s; "
                    "wait() again, or stop() it."
                )
            sleep(seconds)

        try:
            self._look_on(pause)
        except KeyboardInterrupt:
            show(
                f"Stopped waiting; the run in {self.run_dir} goes on. wait() or stop()."
            )
            raise
        return self._result()

    def stop(self) -> None:
        """Ask the run to finish its step, save and end; returns at once."""
        if not self.alive:
            show(f"The run in {self.run_dir} is not under way: nothing to stop.")
            return
        RunDirectory(self.run_dir).stop_file.touch()
        self._asked_to_stop = True

    def show(self) -> None:
        """Show the run in this cell, live where the notebook can."""
        self._attach()
        if self._panel is None:
            show(self)

    def _look_on(self, pause: Callable[[float], None]) -> None:
        """Show what happens until nobody trains in the folder any more."""
        if self._panel is None or not self._panel.is_open:
            self._attach()
        if self._panel is None:
            panel = make_panel(self.run_dir, self._config)
            try:
                look_on(
                    self.run_dir, panel, is_following=True, sleep=pause, poll_s=_POLL_S
                )
            finally:
                panel.close()
            return
        with self._panel.occupied():
            while self.alive:
                pause(_POLL_S)
            self._panel.join()

    def _attach(self) -> None:
        """Show the run live from now on, where that can be and is wished."""
        is_off = self._config is not None and self._config.display.panel == "off"
        self._panel = None if is_off else attach_panel(self.run_dir, self)

    def _result(self) -> TrainResult:
        if self._asked_to_stop:  # too late to be seen, it would stop the next run
            RunDirectory(self.run_dir).stop_file.unlink(missing_ok=True)
        raise_failure(self.run_dir)
        if self._task is not None:
            _bring_home(self._task, self._config, self.run_dir)
        return TrainResult.from_run(self.run_dir)

    def __repr__(self) -> str:
        return f"DetachedRun({str(self.run_dir)!r}): {self._standing()}"

    def _standing(self) -> str:
        pid = f"process {self.pid}" if self.pid else "another process"
        record = RunRecord.read(self.run_dir)
        life = life_of(self.run_dir, record.view)
        if life in ("running", "starting") and self.alive:
            return f"{pid}, {life}, step {record.view.step:,}"
        if life == "ended":
            end = record.view.end
            return f"ended, {end.get('status')}: {end.get('reason')}"
        return f"{pid} was killed, or died before the run began; see {LOG_NAME}"

    def _repr_html_(self) -> str:
        standing = self._standing()
        lines = [
            f"<strong>{escape(self.run_dir.name)}</strong> in the background: "
            f"{escape(standing)}",
            "<code>wait()</code> gives its result, <code>stop()</code> ends it and "
            "saves. It outlives this kernel: from any other, "
            f"<code>nb.attach({escape(repr(str(self.run_dir)))})</code>",
        ]
        if self.log and "killed" in standing:
            lines.append(f"<pre>{escape(self.log)}</pre>")
        return "".join(f"<div>{line}</div>" for line in lines)


def attach(run_dir: str | Path | None = None) -> DetachedRun:
    """The handle of a run that another process trains, or has trained.

    Args:
        run_dir: Its folder; by default the newest under ``runs_dir``.

    Raises:
        EnvironmentProblem: There is no run in that folder.
    """
    path = find_run(run_dir, resolve().checkpoint.runs_dir)
    if not RunDirectory(path).events_path.exists() and process_of(path) is None:
        raise EnvironmentProblem(
            f"{path} holds no run; expected a run directory, such as runs/my-run. Pass "
            "the folder that train(background=True) named."
        )
    return DetachedRun(path)


def start(
    task: Any, config: Any, run_dir: Path, callbacks: list[Any], *, shows: bool = True
) -> DetachedRun:
    """Send a task to a new process that trains it in ``run_dir``; returns at once.

    Args:
        task: Proven, or preflight was skipped: the process asks no more.
        config: Of the run.
        run_dir: Made if need be.
        callbacks: The user's.
        shows: Show the run in this cell.

    Raises:
        EnvironmentProblem: Somebody trains in that folder, or the task cannot be sent.
    """
    folder = RunDirectory(run_dir).create()
    if is_worked_on(run_dir):
        raise EnvironmentProblem(
            f"the run in {run_dir} is under way in another process; one at a time is "
            "expected. nb.attach() gives its handle: wait() for it, or stop() it."
        )
    if task.report is not None:
        task.report.save(folder.path)
    facts = {
        "fingerprint": task.fingerprint(),
        "torch": _torch_settings(),
    }
    sent = send(run_dir, task, config, callbacks, facts)
    try:
        command = ["-m", "nbutils.launch.detached", str(run_dir), str(sent)]
        pid = spawn(command, run_dir / LOG_NAME)
    except BaseException:
        sent.unlink(missing_ok=True)
        raise
    note_process(run_dir, pid)
    run = DetachedRun(run_dir, task, config)
    show(f"Training in process {pid}, in {run_dir}; it outlives this one.")
    _tell_gpu_memory()
    if shows:
        run._attach()
    return run


def _bring_home(task: Any, config: Any, run_dir: Path) -> None:
    """Load the last checkpoint into the model, which another process has trained."""
    loaded = CheckpointStore.of(config, run_dir, show).latest()
    if loaded is not None:
        load_weights(task.model, loaded.weights, loaded.state["model_extra"])


def _torch_settings() -> dict[str, Any]:
    """What a program sets in torch that changes results."""
    import torch

    return {
        "num_threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _tell_gpu_memory() -> None:
    """Say how much of the GPU this process keeps from the one that trains."""
    import torch

    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return
    torch.cuda.empty_cache()
    held = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
    if held >= _TOLD_BYTES:
        show(
            f"This process still holds {held / 1e9:.1f} GB of GPU memory, which the "
            "run cannot have. task.model.to('cpu') and torch.cuda.empty_cache() give "
            "it back, or restart the kernel: nb.attach() finds the run again."
        )
