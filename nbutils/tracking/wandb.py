"""Weights & Biases: online with a key, offline without, and never in the way."""

from __future__ import annotations

import importlib
import netrc
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import show
from nbutils.monitor.events import Event
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.tracker import StepLimiter, numbers

__all__ = ["WandbTracker", "choose_mode"]

_INIT_TIMEOUT_S = 30
_DEFAULT_URL = "https://api.wandb.ai"


class WandbTracker:
    """Mirrors events into a W&B run whose files lie inside the run directory.

    The run's id is kept in ``run.json``, so that a resumed run continues the same one.
    Curves are drawn over ``step``, our own axis: W&B drops values whose own step goes
    back, which a resume does.

    Args:
        config: The run's config; its values become the W&B config.
        directory: The run directory.
        run_id: Names the W&B run when ``run.json`` has no id yet.

    Raises:
        EnvironmentProblem: The package ``wandb`` is not installed.
    """

    def __init__(self, config: Any, directory: RunDirectory, run_id: str) -> None:
        wandb = _import_wandb()
        self._directory = directory
        self._limiter = StepLimiter()
        self.mode, self.reason = choose_mode()
        known = directory.read_json("run.json") or {}
        self.id = str(known.get("wandb_id") or _usable_id(run_id))
        self._run: Any = self._start(wandb, config)
        if self._run is None:
            return
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        directory.update_json(
            "run.json", wandb_id=self.id, wandb_mode=self.mode, wandb_url=self.url
        )
        self._introduce()

    @property
    def url(self) -> str | None:
        """The run's page; none while it is offline."""
        if self._run is None or self.mode != "online":
            return None  # asking an offline run prints a warning
        return self._run.url

    def write(self, event: Event) -> None:
        """Log an event's numbers; what W&B raises is for the event log to count."""
        if self._run is None or not self._limiter.admits(event):
            return
        values = numbers(event)
        if values:
            at = {key: event[key] for key in ("step", "epoch") if key in event}
            self._run.log({**at, **values})
        kind = event["kind"]
        if kind == "checkpoint" and event.get("best"):
            self._run.summary["best_checkpoint"] = str(event.get("path"))
            self._run.summary["best_step"] = event.get("step")
        if kind == "run_end":
            self._run.summary["status"] = event.get("status")
            self._run.summary["stop_reason"] = event.get("reason")

    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run; a failure is told, not raised: the run itself is safe."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            if self._limiter.num_left_out:
                run.summary["steps_left_out"] = self._limiter.num_left_out
            run.finish(exit_code=exit_code)
        except Exception as error:
            show(
                f"W&B could not finish its run ({type(error).__name__}: {error}). "
                f"Everything is in {self._directory.path}; to upload it, run: "
                f"wandb sync {self._directory.path / 'wandb'}/*run-*"
            )

    def _start(self, wandb: Any, config: Any) -> Any:
        """The W&B run: as chosen, else offline, else none; each fall is told."""
        try:
            return self._init(wandb, config)
        except Exception as error:
            first = f"{type(error).__name__}: {error}"
        if self.mode == "online":
            self.mode, self.reason = "offline", f"going online failed ({first})"
            try:
                return self._init(wandb, config)
            except Exception as error:
                first = f"{type(error).__name__}: {error}"
        show(
            f"W&B could not start ({first}). The run goes on without it; its events "
            f"are in {self._directory.events_path}."
        )
        return None

    def _init(self, wandb: Any, config: Any) -> Any:
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=_INIT_TIMEOUT_S, save_code=False
        )
        return wandb.init(
            project=config.tracking.project,
            name=config.tracking.run_name or self._directory.path.name,
            id=self.id,
            resume="allow",
            dir=str(self._directory.path),
            config=config.leaves(),
            mode=self.mode,
            settings=settings,
            reinit="create_new",  # a run of the user's own stays as it is
        )

    def _introduce(self) -> None:
        if self.mode == "online":
            show(f"W&B: {self.url}")
        elif self.mode == "offline":
            show(
                f"W&B is offline: {self.reason}. To upload the run later: wandb sync "
                f"{self._directory.path / 'wandb'}/offline-run-*"
            )


def choose_mode() -> tuple[str, str]:
    """``online``, ``offline`` or ``disabled``, and why; never asks for a key."""
    wanted = os.environ.get("WANDB_MODE", "").strip().lower()
    if wanted in ("offline", "disabled"):
        return wanted, f"WANDB_MODE is {wanted!r}"
    if os.environ.get("WANDB_API_KEY"):
        return "online", "WANDB_API_KEY is set"
    base_url = os.environ.get("WANDB_BASE_URL", _DEFAULT_URL)
    hosts = [
        host for url in (base_url, _DEFAULT_URL) if (host := urlsplit(url).hostname)
    ]
    found, why_not = _in_netrc(hosts)
    if found:
        return "online", f"{found} has a key"
    return "offline", (
        f"no key was found (WANDB_API_KEY is not set{why_not}). To go online, set "
        "WANDB_API_KEY or run `wandb login`, then start again"
    )


def _in_netrc(hosts: list[str]) -> tuple[str, str]:
    """The netrc file with a key for one of ``hosts``, and what stood in the way."""
    names = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in names if name):
        if not path.is_file():
            continue
        try:
            entries = netrc.netrc(path)
        except (netrc.NetrcParseError, OSError) as error:
            return "", f", and {path} cannot be read: {type(error).__name__}"
        if any(host in entries.hosts for host in hosts):
            return str(path), ""
    return "", ""


def _usable_id(run_id: str) -> str:
    """W&B ids allow no slashes, spaces or the like, and 64 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:64]


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise EnvironmentProblem(
            "tracker='wandb' needs the package wandb, which cannot be imported: "
            f"{error}. Install it with: pip install wandb, or set tracker='none'."
        ) from error
