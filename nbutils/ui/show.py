"""``show_run``: the dashboard of a run, rebuilt from what lies on disk.

The answer to a lost tab, a restarted kernel, or a second notebook that looks on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

from nbutils.config import resolve
from nbutils.environment.platform import is_interactive
from nbutils.monitor.display import TextPanel
from nbutils.monitor.follow import await_run, find_run, look_on
from nbutils.monitor.terminal import ScreenThenLines
from nbutils.ui.notebook import in_kernel
from nbutils.ui.panel import HeadlessPanel, LivePanel
from nbutils.ui.slots import StaticSlot, make_slot

__all__ = ["show_run"]

POLL_S = 1.0


def show_run(
    run_dir: str | Path | None = None,
    follow: bool = False,
    *,
    wait_s: float = 60.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run from its directory: HTML in a kernel, text elsewhere.

    Works in any kernel, while another process trains or long afterwards. A run that
    was killed is told as such.

    Args:
        run_dir: The folder of the run; by default the newest under ``runs_dir``.
        follow: Go on until the run ends or you interrupt; else show once.
        wait_s: With ``follow``, how long to wait for a run that is starting up.
        sleep: Waits between two looks.

    Raises:
        EnvironmentProblem: There is no run in that folder.
    """
    path = find_run(run_dir, resolve().checkpoint.runs_dir)
    await_run(path, wait_s if follow else 0.0, sleep=sleep, tell=_say)
    panel = _panel(path, follow=follow)
    try:
        look_on(path, panel, is_following=follow, sleep=sleep, poll_s=POLL_S)
    except KeyboardInterrupt:
        _say("Stopped looking; the run itself is not touched.")
    panel.close()


def _panel(path: Path, *, follow: bool) -> LivePanel | TextPanel:
    if not in_kernel():
        return ScreenThenLines(path)
    if follow and not is_interactive():
        return HeadlessPanel(path)
    slot = make_slot() if follow else StaticSlot()
    return LivePanel(path, slot, hint=_looking_hint(path))


def _looking_hint(path: Path) -> str:
    stop = escape(os.path.join(path, "STOP"))
    return (
        f"Stop the run and save: <code>touch {stop}</code>. Interrupting this cell "
        "only stops looking"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
