"""What holds for every test: its own folder, one thread, no network, no leaks."""

from __future__ import annotations

import importlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: as many threads as cores make small steps crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104 (compared)
# Set by pytest itself, or once for the life of the process by a library's import.
LIBRARY_KEYS = ("PYTEST_", "TORCHINDUCTOR_", "KINETO_", "TF_", "KMP_", "CUDA_")
# Tests that train, and that look at the training alone.
ENGINE = ("checkpoint", "conformance", "faults", "monitor", "tracking", "train")
# Seconds that threads get to end on their own after a test.
GRACE_S = 2.0


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own, so that ``runs/`` never lands here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        is_remote = isinstance(address, tuple) and address[0] not in LOCAL_HOSTS
        if is_remote:
            pytest.fail(f"a test tried to reach {address[0]}:{address[1]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_connect)


@pytest.fixture(autouse=True)
def without_preflight(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of the engine train without preflight, which has tests of its own."""
    home = Path(__file__).parent
    if request.node.get_closest_marker("gated"):
        return
    if any(home / part in request.path.parents for part in ENGINE):
        gate = importlib.import_module("nbutils.preflight.gate")
        monkeypatch.setattr(gate, "demand_verdict", lambda task, config: None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Start each test from the same random state, and give the old one back."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test that leaves a variable, a thread or a process group behind."""
    variables, threads = dict(os.environ), set(threading.enumerate())
    yield
    leaked = [f"variable {key}" for key in _changed(variables)]
    leaked += [f"thread {thread.name}" for thread in _new_threads(threads)]
    if _has_process_group():
        leaked.append("a torch.distributed process group")
    if leaked:
        pytest.fail(f"left behind: {', '.join(leaked)}")


def _changed(before: dict[str, str]) -> list[str]:
    """Variables that were added, removed or altered."""
    keys = before.keys() | os.environ.keys()
    ours = [key for key in sorted(keys) if not key.startswith(LIBRARY_KEYS)]
    return [key for key in ours if before.get(key) != os.environ.get(key)]


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that outlived the test; daemons belong to libraries."""
    deadline = time.monotonic() + GRACE_S
    while True:
        new = [
            thread
            for thread in threading.enumerate()
            if thread not in before and not thread.daemon
        ]
        if not new or time.monotonic() > deadline:
            return new
        time.sleep(0.02)


def _has_process_group() -> bool:
    """Whether torch.distributed was left initialised."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
