"""The files of a checkpoint: what they hold, what they cost, how they are checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import nbutils as nb
from nbutils.checkpoint.files import (
    copy_checkpoint,
    prove_readable,
    read_checkpoint,
    verify,
    write_files,
)
from nbutils.checkpoint.hashed import BLOCK, HashedFile, copy_file, sha256_of
from nbutils.checkpoint.snapshot import Snapshot, collect
from nbutils.checkpoint.tensorfile import NAMES, is_storable, write_tensors

STATE = {"parts": {}, "rng": {}, "model_extra": {}}


def write(folder: Path, weights: dict[str, torch.Tensor], **state: object) -> Path:
    folder.mkdir()
    write_files(Snapshot(7, weights, {}, {**STATE, **state}), folder)
    return folder


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    def flat(value: torch.Tensor) -> torch.Tensor:
        return value.contiguous().reshape(-1).view(torch.uint8)

    return left.shape == right.shape and torch.equal(flat(left), flat(right))


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_tensor_file_is_read_by_its_own_library(tmp_path: Path, dtype) -> None:
    tensors = {
        "two": (torch.rand(3, 5) * 3).to(dtype),
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.empty(0, 4, dtype=dtype),
        "transposed": (torch.rand(4, 3) * 3).to(dtype).t(),
        'naïve "name"': torch.ones(1, dtype=dtype),
        "odd bytes": torch.ones(3, dtype=torch.uint8),
    }
    with HashedFile(tmp_path / "a") as file:
        write_tensors(tensors, file)
        stated = file.finish()
    back = load_file(tmp_path / "a")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert same_bits(back[name], tensor)
    assert stated == {
        "bytes": (tmp_path / "a").stat().st_size,
        "sha256": sha256_of(tmp_path / "a"),
    }


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_weights_that_the_format_does_not_know_are_kept_beside(tmp_path: Path) -> None:
    weights = {
        "plain": torch.randn(2, 3),
        "complex": torch.randn(3, dtype=torch.complex128),
        "sparse": torch.eye(3).to_sparse(),
    }
    assert [name for name in weights if is_storable(weights[name])] == ["plain"]
    loaded = read_checkpoint(write(tmp_path / "a", weights))
    assert loaded.weights.keys() == weights.keys()
    assert torch.equal(loaded.weights["complex"], weights["complex"])
    assert torch.equal(loaded.weights["sparse"].to_dense(), torch.eye(3))
    assert loaded.step == 7
    assert set(loaded.state) == set(STATE)


def test_channels_last_weights_round_trip(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    taken = collect(1, model, {})
    (tmp_path / "a").mkdir()
    write_files(taken, tmp_path / "a")
    assert torch.equal(read_checkpoint(tmp_path / "a").weights["weight"], model.weight)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_hashed_file_states_what_it_wrote(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    with HashedFile(tmp_path / "a") as file:
        for start in range(0, size, 3_000_001):
            file.write(data[start : start + 3_000_001])
        stated = file.finish()
    assert (tmp_path / "a").read_bytes() == data
    assert stated == {"bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
    assert copy_file(tmp_path / "a", tmp_path / "b") == stated
    assert sha256_of(tmp_path / "b") == stated["sha256"]


def test_hashed_file_that_was_stopped_stays_so(tmp_path: Path) -> None:
    def stop() -> None:
        raise nb.CheckpointError("enough")

    with HashedFile(tmp_path / "a", stop) as file:
        for _ in range(2):
            with pytest.raises(nb.CheckpointError, match="enough"):
                file.write(bytes(BLOCK))
        assert isinstance(file.error, nb.CheckpointError)


def test_copy_of_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a", {"w": torch.ones(4)})
    path = source / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (tmp_path / "b").mkdir()
    with pytest.raises(nb.CheckpointError, match="is damaged: its hash differs"):
        copy_checkpoint(source, tmp_path / "b")
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_verify_by_size_reads_no_content(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"w": torch.ones(4)})
    path = folder / "state.pt"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    verify(folder, reads=False)
    with pytest.raises(nb.CheckpointError, match="its hash differs"):
        verify(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(nb.CheckpointError, match="is truncated"):
        verify(folder, reads=False)


def test_writing_and_proving_take_no_further_copy(tmp_path: Path) -> None:
    size = 64 << 20
    weights = {"w": torch.ones(size // 8)}
    moments = {"parts": {"m": torch.ones(size // 8)}}
    process = psutil.Process()
    before = process.memory_info().rss
    folder = write(tmp_path / "a", weights, **moments)
    prove_readable(folder)
    assert process.memory_info().rss - before < size // 3
