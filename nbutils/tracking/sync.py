"""Sends a run's event log to a tracking service after the fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.config import RunConfig
from nbutils.environment.secrets import Secret
from nbutils.errors import ConfigError, EnvironmentProblem, NbutilsError
from nbutils.monitor.display import show
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.lock import run_lock
from nbutils.monitor.redact import redact
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.access import HOW_TO_GO_ONLINE, Access, choose_access
from nbutils.tracking.factory import tracker_names
from nbutils.tracking.link import TrackerLink

__all__ = ["Synced", "send_summary", "sync_run"]

_EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1}
_KILLED = 255
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a service has now.

    Args:
        to: The service.
        num_events: Events in the log.
        num_new: Those of them that the service had not got yet.
        where: The run's page, or the folder of its files.
    """

    to: str
    num_events: int
    num_new: int
    where: str

    def __str__(self) -> str:
        return (
            f"{self.to}: {self.num_new:,} of {self.num_events:,} events were new; "
            f"{self.where}"
        )


def sync_run(
    run_dir: str | Path,
    to: str | Sequence[str] = (),
    *,
    key: str = "",
    tick: Tick = lambda: None,
    tell: Callable[[str], None] = print,
) -> list[Synced]:
    """Replay the events of a run into W&B or TensorBoard; killed runs are welcome.

    May be called as often as one likes: W&B says itself what it has, and only the rest
    is sent; TensorBoard's files are written anew.

    Args:
        run_dir: The run directory.
        to: ``"wandb"``, ``"tensorboard"``, or both; by default those of its config.
        key: A W&B key; by default as training finds it. It is written nowhere.
        tick: Called once for each event.
        tell: Gets a sentence for each file that is left out of an upload.

    Raises:
        EnvironmentProblem: No run there, it is under way, no key, no network.
        ConfigError: No such service, or none was named.
    """
    directory = RunDirectory(run_dir)
    events = read_events(directory.events_path)
    if not events:
        raise EnvironmentProblem(
            f"{directory.path} holds no events of a run; expected a run directory with "
            "events.jsonl in it. Pass the folder that the run printed."
        )
    config = _config_of(directory)
    names = _services(to, config)
    with run_lock(directory.path):
        return [
            _send(name, directory, config, events, key, tick, tell) for name in names
        ]


def send_summary(config: Any, run_dir: str | Path) -> None:
    """Bring W&B up to date with a run that has ended, as after a test.

    Does nothing for a run that W&B does not know. What fails is shown, not raised.
    """
    directory = RunDirectory(run_dir)
    record = directory.read_json("run.json") or {}
    if "wandb" not in tracker_names(config) or not record.get("wandb_id"):
        return
    from nbutils.tracking.wandb import WandbTracker

    tracker = WandbTracker(config, directory, str(record["wandb_id"]))
    tracker.link.tell = show
    try:
        tracker.replay(read_events(directory.events_path), lambda: None)
        tracker.finish(_exit_code(record))
    except Exception as error:
        show(redact(f"W&B did not get the test: {type(error).__name__}: {error}"))


def _services(to: str | Sequence[str], config: RunConfig) -> tuple[str, ...]:
    asked = to if isinstance(to, str) else ",".join(to)
    chosen = config.replace(tracker=asked) if asked else config
    names = tracker_names(chosen)
    if not names:
        raise ConfigError(
            [
                "tracker is 'none' in this run's config, so there is no service to "
                "send it to; name one: --to wandb, or --to tensorboard."
            ]
        )
    return names


def _send(
    name: str,
    directory: RunDirectory,
    config: RunConfig,
    events: list[Event],
    key: str,
    tick: Tick,
    tell: Callable[[str], None],
) -> Synced:
    if name == "tensorboard":
        from nbutils.tracking.tensorboard import TensorBoardTracker

        where = str(TensorBoardTracker(directory).rebuild(events, tick))
        return Synced(to=name, num_events=len(events), num_new=len(events), where=where)
    return _send_to_wandb(directory, config, events, key, tick, tell)


def _send_to_wandb(
    directory: RunDirectory,
    config: RunConfig,
    events: list[Event],
    key: str,
    tick: Tick,
    tell: Callable[[str], None],
) -> Synced:
    from nbutils.tracking.wandb import WandbTracker

    access = _online(key)
    record = directory.read_json("run.json") or {}
    link = TrackerLink()
    link.tell = tell
    run_id = str(record.get("run_id") or directory.path.resolve().name)
    tracker = WandbTracker(config, directory, run_id, link, access)
    try:
        num_new = tracker.replay(events, tick)
        where = str(tracker.url)
    except NbutilsError:
        raise
    except Exception as error:
        tracker.finish(_KILLED)
        raise EnvironmentProblem(
            f"W&B took only a part of the events ({type(error).__name__}: {error}). "
            "They stay in the log; run nbutils sync again, it goes on from there."
        ) from error
    tracker.finish(_exit_code(record))
    return Synced(to="wandb", num_events=len(events), num_new=num_new, where=where)


def _exit_code(record: dict[str, Any]) -> int:
    return _EXIT_CODES.get(str(record.get("status")), _KILLED)


def _online(key: str) -> Access:
    """Access with a key; what is sent after the fact must arrive somewhere."""
    if key.strip():
        return Access("online", "the key handed in", Secret(key.strip(), "an argument"))
    access = choose_access("online")
    if access.mode != "online":
        raise EnvironmentProblem(
            f"W&B cannot be reached: {access.reason}; a key is needed to send the run. "
            f"To go online, {HOW_TO_GO_ONLINE}, then run nbutils sync again."
        )
    return access


def _config_of(directory: RunDirectory) -> Any:
    """The run's config; the defaults where the run kept none."""
    if not directory.config_path.exists():
        return RunConfig()
    return RunConfig.load(directory.config_path)
