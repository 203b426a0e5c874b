"""Memory, load, heat and power while the run goes on."""

from __future__ import annotations

from collections.abc import Callable

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.device_stats import DeviceStats, HostStats
from nbutils.monitor.memory import reset_peak_memory
from nbutils.monitor.sampler import Sampler
from nbutils.train.state import RunState
from nbutils.train.watchers.watcher import NEVER, Watcher

__all__ = ["DeviceMonitor"]


class DeviceMonitor(Watcher):
    """Writes ``device/…`` and ``host/…``, read at an interval by a thread of its own.

    The first reading comes with the start of the run, the last with its end. A reading
    is written at the end of the step, or of the evaluation, during which it was taken;
    ``time_s`` of the event is when that was. ``device/peak_bytes`` counts from the
    start of the run.

    Args:
        every_s: Seconds between two readings; by default ``sample_every_s``.

    Raises:
        ConfigError: ``every_s`` is not above 0, when the run starts.
    """

    call: Callable[[], None] | None = None
    """Set by a board, which then wakes when it is called."""

    def __init__(self, every_s: float | None = None) -> None:
        self._every_s = every_s
        self._sampler: Sampler | None = None
        self._samples: object = ()
        self._is_told = False

    def on_fit_start(self, state: RunState) -> None:
        self.close()
        self._is_told = False
        every_s = self._every_s or self.parts.config.display.sample_every_s or 30.0
        device = self.parts.device
        reset_peak_memory(device)
        host, accelerator = HostStats(), DeviceStats(device)
        self._sampler = Sampler(
            lambda: {**accelerator.read(), **host.read()},
            lambda: state.step,
            every_s,
            on_sample=self._on_sample,
        )
        self._samples = self._sampler.samples
        self._sampler.start()

    def on_step_end(self, state: RunState) -> None:
        if self._samples:
            self._write()
        self.wake = NEVER if self.call is not None else 0

    def on_evaluate_end(self, state: RunState) -> None:
        self._write()

    def on_epoch_end(self, state: RunState) -> None:
        self._write()

    def on_fit_end(self, state: RunState) -> None:
        self.close()
        try:
            self._write()
        except EnvironmentProblem:  # the log's own disk: what ends the run says so
            return
        finally:
            self._sampler, self._samples = None, ()

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    def _on_sample(self) -> None:
        """In the sampler's thread: ask to be called after the step under way."""
        self.wake = 0
        if self.call is not None:
            self.call()

    def _write(self) -> None:
        sampler = self._sampler
        if sampler is None:
            return
        while sampler.samples:
            sample = sampler.samples.popleft()
            self.write(sample.step, sample.values, time_s=sample.time_s)
        if sampler.error is not None and not self._is_told:
            error, self._is_told = sampler.error, True
            text = (
                f"device and host could not be read: {type(error).__name__}: {error}. "
                "The run goes on without these figures."
            )
            self.parts.events.write("message", level="warning", text=text)
