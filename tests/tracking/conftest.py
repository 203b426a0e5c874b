"""Reads the file of an offline W&B run: the package itself has no reader any more.

A 7-byte header, then blocks of 32 KiB with records ``[crc u32, length u16, type u8]``;
type 1 is whole, 2 to 4 are the first, middle and last part of one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_BLOCK, _HEADER = 32768, 7
WandbRun = tuple[list[dict[str, Any]], Any, dict[str, Any]]


@pytest.fixture
def read_wandb() -> Callable[[Path], WandbRun]:
    """The reader, as a fixture: test files import nothing from each other."""
    return _read_run


def _read_run(run_dir: Path) -> WandbRun:
    """History rows, the run's record and its summary, of the only offline run."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    rows, run, summary = [], None, {}
    for payload in _payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(_items(record.history.item))
        elif kind == "run":
            run = record.run
        elif kind == "summary":
            summary |= _items(record.summary.update)
    return rows, run, summary


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
