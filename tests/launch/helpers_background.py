"""Callbacks that another process can import."""

from __future__ import annotations

import time
from typing import Any

import nbutils as nb


class Slow(nb.Callback):
    """A step takes a while."""

    def on_step_end(self, state: Any) -> None:
        time.sleep(0.1)


class Fails(nb.Callback):
    """Raises at step 3."""

    def on_step_end(self, state: Any) -> None:
        if state.step == 3:
            raise ValueError("the disk of my own <b>code</b>")
