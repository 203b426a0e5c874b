"""Rules on the machine around the device: cores, memory, files, clock."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine
from nbutils.environment.rules.rule import GIB, MIB, Rule, size

__all__ = ["RULES"]

MEMORY_WARN_BYTES = 2 * GIB
SWAP_WARN_BYTES = GIB
SWAP_FREE_FRACTION = 0.25
# Containers get 64 MiB unless told otherwise; a batch of images does not fit.
SHM_WARN_BYTES = 256 * MIB
OPEN_FILES_WARN = 1024
SKEW_WARN_S = 5.0


def threads_rule(machine: Machine) -> Iterator[Advice]:
    """Torch starts no more threads than this process has cores."""
    abilities = machine.abilities
    if abilities is None or abilities.num_threads <= abilities.num_cores:
        return
    yield Advice(
        "warn",
        f"torch uses {abilities.num_threads} threads on {abilities.num_cores} cores.",
        "Threads that wait for each other make small steps many times slower.",
        f"torch.set_num_threads({abilities.num_cores})",
    )


def share_rule(machine: Machine) -> Iterator[Advice]:
    """What the system counts is what this process may use."""
    abilities = machine.abilities
    if abilities is None or machine.host_cores < 2 * abilities.num_cores:
        return
    cores = abilities.num_cores
    yield Advice(
        "info",
        f"This process may use {cores} of the host's {machine.host_cores} cores.",
        "os.cpu_count() counts them all: that many workers would stand in each "
        "other's way.",
        f"num_workers={max(1, cores - 1)} or less; nbutils itself counts the share.",
    )


def memory_rule(machine: Machine) -> Iterator[Advice]:
    """There is memory for a model and its data."""
    if machine.available_bytes < MEMORY_WARN_BYTES:
        yield Advice(
            "warn",
            f"{size(machine.available_bytes)} of memory are free; "
            f"expected {size(MEMORY_WARN_BYTES)} or more.",
            "The system ends the kernel without a message when memory runs out.",
            "Shut down other kernels (Running > Shut Down All), then restart this one.",
        )


def swap_rule(machine: Machine) -> Iterator[Advice]:
    """Memory is not being moved to disk."""
    is_short = machine.available_bytes < SWAP_FREE_FRACTION * machine.memory_bytes
    if machine.swap.used_bytes >= SWAP_WARN_BYTES and is_short:
        yield Advice(
            "warn",
            f"{size(machine.swap.used_bytes)} of memory lie in swap, and "
            f"{size(machine.available_bytes)} are free.",
            "A step that waits for the disk takes many times as long.",
            "Shut down other kernels (Running > Shut Down All); for what holds it: "
            "ps aux --sort=-rss | head",
        )


def shm_rule(machine: Machine) -> Iterator[Advice]:
    """Worker processes have shared memory to pass batches through."""
    total, free = machine.storage.shm_bytes, machine.storage.shm_free_bytes
    if total is not None and total < SHM_WARN_BYTES:
        yield Advice(
            "warn",
            f"/dev/shm holds {size(total)}.",
            "With num_workers > 0 a batch that does not fit ends in a bus error.",
            "Keep num_workers=0, or start the container with --shm-size=8g.",
        )
    elif free is not None and free < SHM_WARN_BYTES:
        yield Advice(
            "warn",
            f"{size(free)} of /dev/shm are free.",
            "With num_workers > 0 a batch that does not fit ends in a bus error.",
            "Keep num_workers=0, or remove what killed processes left: ls -la "
            "/dev/shm; rm /dev/shm/torch_*",
        )


def open_files_rule(machine: Machine) -> Iterator[Advice]:
    """Workers can open the files they pass batches through."""
    limit = machine.open_files
    if limit is not None and limit < OPEN_FILES_WARN:
        yield Advice(
            "warn",
            f"This process may hold {limit} files open.",
            "Each tensor that a worker passes on is one: 'Too many open files'.",
            "ulimit -n 4096  # before the kernel or Jupyter starts",
        )


def clock_rule(machine: Machine) -> Iterator[Advice]:
    """Files get the time that it is."""
    storage = machine.storage
    why = "Logs, uploads and certificates go by the clock."
    if storage.future_file:
        yield Advice(
            "warn",
            f"{storage.future_file} was written later than it is now.",
            f"The clock went back, or was wrong then. {why}",
            "Compare with the time of day: date -u. To set it: sudo timedatectl "
            "set-ntp true",
        )
    elif abs(storage.clock_skew_s) > SKEW_WARN_S:
        way = "ahead of" if storage.clock_skew_s > 0 else "behind"
        yield Advice(
            "warn",
            f"The disk of {storage.path} is {abs(storage.clock_skew_s):.0f} s {way} "
            "this machine's clock.",
            f"Files of a run are out of order. {why}",
            "Compare with the time of day: date -u. To set it: sudo timedatectl "
            "set-ntp true",
        )


RULES: tuple[Rule, ...] = (
    threads_rule,
    share_rule,
    memory_rule,
    swap_rule,
    shm_rule,
    open_files_rule,
    clock_rule,
)
