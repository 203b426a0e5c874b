"""The process that trains a run on its own: ``python -m nbutils.launch.detached``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbutils.launch.outcome import note_failure
from nbutils.launch.sending import receive

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Train the task in the file that comes second, in the folder that comes first."""
    run_dir, sent = Path(arguments[0]), Path(arguments[1])
    try:
        _train(run_dir, sent)
    except BaseException as error:
        note_failure(run_dir, error)
        raise
    return 0


def _train(run_dir: Path, sent: Path) -> None:
    facts, received = receive(sent)
    from nbutils.environment.device import resolve_device
    from nbutils.running import Run

    _set_torch(facts["torch"])
    task = received["task"]
    task.fingerprint = _Known(facts["fingerprint"])  # its source may not be had here
    config = received["config"]
    device, _reason = resolve_device(config.train.device)
    Run(task, config, device, run_dir, list(received["callbacks"])).train()


class _Known:
    """A fingerprint that was taken before."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self) -> str:
        return self._text


def _set_torch(settings: Mapping[str, Any]) -> None:
    """Compute as the process does that sent the task."""
    import torch

    torch.set_num_threads(settings["num_threads"])
    torch.set_float32_matmul_precision(settings["matmul"])
    torch.use_deterministic_algorithms(settings["deterministic"])
    torch.backends.cudnn.benchmark = settings["benchmark"]
    torch.set_default_dtype(getattr(torch, settings["dtype"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
