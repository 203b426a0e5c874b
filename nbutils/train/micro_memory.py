"""What earlier runs learnt about memory, on disk beside the run directories."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from nbutils.data.fingerprint import describe_model, hash_parts
from nbutils.data.task import Task
from nbutils.environment.device import capabilities
from nbutils.monitor.events import EventLog
from nbutils.train.oom import MicroBatches

__all__ = ["MicroMemory"]

FILE_NAME = ".micro_batches.json"
DEVICES = ("cuda", "mps")  # a CPU has what the rest of the machine leaves it


class MicroMemory:
    """The micro-batch that fits, by model, device and precision.

    A model is known by its code and the names, shapes and dtypes of its parameters, and
    by the switches that change what a step needs, so that nothing is taken over from
    another one. A CPU has no memory of its own, so nothing is kept of it: a limit met
    there is one of that hour, and later runs would split for it.

    Args:
        config: A ``RunConfig``; the file lies in its ``runs_dir``.
        task: What is trained.
        device: Where.
        precision: Format of the forward pass in use.
        events: Told what the user should know.
        device_name: What the device is known by; none: its product name and memory.
    """

    def __init__(
        self,
        config: Any,
        task: Task,
        device: torch.device,
        precision: str,
        events: EventLog,
        device_name: str | None = None,
    ) -> None:
        self.path = Path(config.checkpoint.runs_dir) / FILE_NAME
        self._config = config
        self._task = task
        self._device = device
        self._precision = precision
        self._events = events
        self._known_as = device_name

    def attach(self, micro: MicroBatches, *, is_new: bool) -> None:
        """Remember what ``micro`` learns; a new run starts with what is known.

        A resumed run goes on as its snapshot says, so that it ends as it would have.
        """
        if not micro.is_enabled or self._device.type not in DEVICES:
            return
        micro.on_learnt = self.remember
        if is_new:
            micro.start_at(self.recall())

    def _tell(self, level: str, text: str) -> None:
        self._events.write("message", level=level, text=text)

    def recall(self) -> int | None:
        """The micro-batch to start with; none where nothing is known."""
        if not self.path.exists():
            return None
        entry = self._read().get(self._key())
        if entry is None:
            return None
        micro_batch = _plausible(entry)
        if micro_batch is None:
            self._tell(
                "warning",
                f"{self.path} holds {entry!r:.120} for this model; a micro_batch of at "
                "least 1 below its batch_size is expected. It is ignored, and the run "
                "starts with whole batches; delete the file to be rid of it.",
            )
            return None
        if micro_batch < self._config.data.batch_size:
            self._tell(
                "info",
                f"batches are split into micro-batches of {micro_batch} from the start:"
                f" more did not fit in an earlier run of this model on "
                f"{self._device_name()} in {self._precision}. Delete {self.path} to "
                "try whole batches again.",
            )
        return micro_batch

    def remember(self, micro_batch: int, batch_size: int) -> None:
        """Write down a micro-batch that fits where a whole batch did not."""
        entries = self._read()
        entries[self._key()] = {
            "micro_batch": micro_batch,
            "batch_size": batch_size,
            "model": type(self._task.model).__name__,
            "device": self._device_name(),
            "precision": self._precision,
            "date": time.strftime("%Y-%m-%d"),
        }
        beside = self.path.with_name(f"{FILE_NAME}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            self._tell(
                "warning",
                f"the micro-batch of {micro_batch} cannot be remembered in {self.path} "
                f"({error}); the next run has to learn it again.",
            )

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
            entries = json.loads(text)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            entries, reason = None, str(error)
        else:
            reason = f"it holds {type(entries).__name__}"
        if isinstance(entries, dict):
            return entries
        self._tell(
            "warning",
            f"{self.path} cannot be read ({reason}); a JSON object is expected. What "
            "it said about micro-batches is ignored; it is written anew when needed.",
        )
        return {}

    def _key(self) -> str:
        options = self._config.model
        switches = [
            options.gradient_checkpointing,
            options.checkpoint_blocks,
            options.compile,
            options.channels_last,
        ]
        form = hash_parts(
            part for part in (*describe_model(self._task.model), repr(switches))
        )
        return f"{form} | {self._device_name()} | {self._precision}"

    def _device_name(self) -> str:
        if self._known_as is not None:
            return self._known_as
        found = capabilities(self._device)
        return f"{found.name}, {found.memory_bytes / 2**30:.0f} GiB"


def _plausible(entry: Any) -> int | None:
    if not isinstance(entry, dict):
        return None
    micro_batch, batch_size = entry.get("micro_batch"), entry.get("batch_size")
    if type(micro_batch) is not int or type(batch_size) is not int:
        return None
    return micro_batch if 1 <= micro_batch < batch_size else None
