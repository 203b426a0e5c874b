"""Rules on where runs are written, and on what opens the door to services."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine
from nbutils.environment.rules.rule import GIB, MIB, Rule, size

__all__ = ["RULES"]

DISK_FAIL_BYTES = GIB // 2
DISK_WARN_BYTES = 5 * GIB
SLOW_BYTES_PER_S = 20 * MIB
# What AdamW keeps of a model of 100 million parameters: weights and two moments.
USUAL_CHECKPOINT_BYTES = 1200 * 10**6


def disk_rule(machine: Machine) -> Iterator[Advice]:
    """Runs can be written, and there is room for them."""
    storage = machine.storage
    if storage.problem:
        yield Advice(
            "fail",
            f"Nothing can be written here: {storage.problem}.",
            "Checkpoints and reports could not be saved.",
            "Set runs_dir=... to a folder of your own.",
        )
    if storage.free_bytes < DISK_WARN_BYTES:
        is_full = storage.free_bytes < DISK_FAIL_BYTES
        yield Advice(
            "fail" if is_full else "warn",
            f"{size(storage.free_bytes)} are free on the disk of {storage.path}.",
            "A checkpoint that does not fit stops the run.",
            "Delete old runs, or set runs_dir=... to a folder on a larger disk.",
        )


def speed_rule(machine: Machine) -> Iterator[Advice]:
    """A checkpoint is written in seconds."""
    speed = machine.storage.write_bytes_per_s
    if speed is None or speed >= SLOW_BYTES_PER_S:
        return
    scratch = machine.platform.scratch_dir
    yield Advice(
        "warn",
        f"The disk of {machine.storage.path} takes {speed / MIB:.1f} MiB a second.",
        "A checkpoint of 100 million parameters takes "
        f"{USUAL_CHECKPOINT_BYTES / speed / 60:.0f} minutes.",
        f"Set runs_dir={str(scratch / 'runs')!r} on a local disk, and mirror=... to "
        "the folder that is kept; or save less often: save_every_minutes=30",
    )


def persistence_rule(machine: Machine) -> Iterator[Advice]:
    """Runs outlive the session."""
    platform, storage = machine.platform, machine.storage
    name = platform.name
    if storage.is_persistent:
        yield from _shorter_lived(machine)
        return
    kept = platform.persistent_dir
    if kept is not None and not storage.path.is_relative_to(kept):
        fix = f"Set runs_dir={str(kept / 'runs')!r}."
    elif name == "colab":
        fix = "from google.colab import drive; drive.mount('/content/drive')"
    elif name == "colab-enterprise":
        fix = "Set mirror='gs://your-bucket/runs': there is no Drive here."
    else:
        fix = "Attach a volume, or set mirror=... to a folder that is kept."
    yield Advice(
        "warn",
        f"Files in {storage.path} vanish when this {name} session ends.",
        "A disconnect would cost the whole run.",
        fix,
    )


def _shorter_lived(machine: Machine) -> Iterator[Advice]:
    """Folders that outlive the session, but not by much."""
    platform, storage = machine.platform, machine.storage
    if platform.lifetime:
        why, fix = (
            "What is not copied in time is lost.",
            "Set mirror=... to a bucket or a volume of your own.",
        )
        what = f"Files in {storage.path} live {platform.lifetime}."
        yield Advice("info", what, why, fix)
    elif storage.filesystem in ("overlay", "tmpfs"):
        where = {"overlay": "a container's own layer", "tmpfs": "memory"}
        end = {"overlay": "the container is removed", "tmpfs": "the machine stops"}
        yield Advice(
            "info",
            f"{storage.path} lies in {where[storage.filesystem]}.",
            f"Its files are gone when {end[storage.filesystem]}.",
            "Set runs_dir=... to a folder on a disk or a mounted volume.",
        )


def secrets_rule(machine: Machine) -> Iterator[Advice]:
    """Credential files can be read."""
    for problem in machine.secret_problems:
        what, _, fix = problem.partition("; ")
        yield Advice("warn", f"{what}.", "Tracking would stay offline.", fix)


RULES: tuple[Rule, ...] = (disk_rule, speed_rule, persistence_rule, secrets_rule)
