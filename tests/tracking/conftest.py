"""Reads the files of offline W&B runs: the package itself has no reader any more.

A 7-byte header, then blocks of 32 KiB with records ``[crc u32, length u16, type u8]``;
type 1 is whole, 2 to 4 are the first, middle and last part of one.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tracking.helpers_tracking import KEY
from tracking.wandb_server import WandbServer

_BLOCK, _HEADER = 32768, 7


@dataclass
class WandbFile:
    """What one process of a run wrote."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    alerts: list[Any] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    run: Any = None
    exit_code: int | None = None

    @property
    def steps(self) -> list[int]:
        """Our own step of each row of a training step."""
        return [row["step"] for row in self.rows if "train/loss" in row]


@pytest.fixture
def read_wandb() -> Callable[[Path], list[WandbFile]]:
    """The reader, as a fixture: one file for each process, in their order."""
    return read_files


@pytest.fixture
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without keys, and without what the test run itself sets; its home."""
    secrets = importlib.import_module("nbutils.environment.secrets")
    monkeypatch.setattr(secrets, "_given", {})
    monkeypatch.setattr(secrets, "_from_vault", {})
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def wandb_server(
    no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WandbServer]:
    """A W&B server of its own, which this process has a key for."""
    wandb = pytest.importorskip("wandb")
    with WandbServer().serving() as server:
        wandb.teardown()  # its settings are read once
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        wandb.teardown()


def read_files(run_dir: Path) -> list[WandbFile]:
    paths = (run_dir / "wandb").glob("*run-*/run-*.wandb")
    return [_read(path) for path in sorted(paths, key=lambda p: p.stat().st_mtime_ns)]


def _read(path: Path) -> WandbFile:
    from wandb.proto import wandb_internal_pb2

    found = WandbFile()
    for payload in _payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found.rows.append(_items(record.history.item))
        elif kind == "run":
            found.run = record.run
            found.config |= _items(record.run.config.update)
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "alert":
            found.alerts.append(record.alert)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in items
    }


def _payloads(data: bytes) -> Iterator[bytes]:
    offset, parts = _HEADER, b""
    while offset + _HEADER <= len(data):
        left_in_block = _BLOCK - offset % _BLOCK
        if left_in_block < _HEADER:
            offset += left_in_block
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + _HEADER : offset + _HEADER + length]
        offset += _HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
