"""A tracked training in a process of its own.

``child.py FOLDER [interrupt|kill|abort STEP] [key=value ...]``
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import yaml

import nbutils as nb
from nbutils.testing import make_task


class EndAt(nb.Callback):
    """Ends the process's training at a step: politely, at once, or with -9."""

    def __init__(self, how: str, step: int) -> None:
        self.how, self.step = how, step

    def on_step_end(self, state: Any) -> None:
        if state.step != self.step:
            return
        number = signal.SIGKILL if self.how == "kill" else signal.SIGINT
        for _ in range(2 if self.how == "abort" else 1):
            os.kill(os.getpid(), number)


def train(folder: str, *callbacks: Any, **settings: Any) -> nb.TrainResult:
    chosen = {"epochs": 3, "batch_size": 8, "log_every_steps": 1, **settings}
    chosen = {"tracker": "wandb", "panel": "off", "preflight": "skip", **chosen}
    task = make_task()
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=list(callbacks), **chosen
    ).train()


if __name__ == "__main__":
    words = sys.argv[2:]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    how, *at = [word for word in words if "=" not in word] or [""]
    watchers = [EndAt(how, int(at[0]))] if at else []
    chosen = {name: yaml.safe_load(text) for name, text in settings.items()}
    reason = train(sys.argv[1], *watchers, **chosen).stop_reason
    sys.stdout.write(f"{reason}\n")
