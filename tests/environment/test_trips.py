"""Round trips run here, and tell what broke where they do not."""

import importlib.machinery
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils.environment import trips
from nbutils.environment.trips import TRIPS, round_trips


@pytest.fixture(autouse=True)
def untried():
    round_trips.cache_clear()
    yield
    round_trips.cache_clear()


def test_round_trips_here_all_succeed():
    assert round_trips("cpu") == ()
    assert set(TRIPS) == {"numpy", "torchvision", "device"}


def test_round_trips_numpy_without_its_bridge_is_told(monkeypatch):
    def from_numpy(array):
        raise RuntimeError("Numpy is not available\nmore")

    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    [(name, problem)] = round_trips("cpu")
    assert (name, problem) == ("numpy", "RuntimeError: Numpy is not available")


def test_round_trips_numpy_that_copies_is_told(monkeypatch):
    monkeypatch.setattr(torch, "from_numpy", lambda array: torch.tensor(array))
    [(name, problem)] = round_trips("cpu")
    assert name == "numpy"
    assert "came back as" in problem


def test_round_trips_torchvision_of_another_torch_is_told(monkeypatch, tmp_path):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    spec = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    [(name, problem)] = round_trips("cpu")
    assert name == "torchvision"
    assert problem.startswith("OSError: ")


def test_round_trips_torchvision_that_is_wrong_is_told(monkeypatch):
    pytest.importorskip("torchvision")
    ops = SimpleNamespace(nms=lambda *args: torch.tensor([1]))
    monkeypatch.setattr(torch.ops, "torchvision", ops, raising=False)
    assert round_trips("cpu") == (("torchvision", "nms kept [1], not [0, 2]"),)


def test_round_trips_without_torchvision_succeed(monkeypatch):
    monkeypatch.setattr(trips.importlib.util, "find_spec", lambda name: None)
    assert round_trips("cpu") == ()


def test_round_trips_device_that_fails_is_told():
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    [(name, problem)] = round_trips("cuda")
    assert name == "device"
    assert ": " in problem


def test_round_trips_device_with_wrong_numbers_is_told(monkeypatch):
    monkeypatch.setattr(torch, "arange", lambda *a, **k: torch.zeros(4))
    assert ("device", "a product came back as [[0.0, 0.0], [0.0, 0.0]]") in (
        round_trips("cpu")
    )
    assert np.arange(2).tolist() == [0, 1]
