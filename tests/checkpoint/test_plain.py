"""What a model keeps beside tensors: stored plainly, or refused before training."""

from __future__ import annotations

import copy
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint.plain import from_plain, refuse_extra_state, to_plain
from nbutils.checkpoint.snapshot import collect, load_weights
from nbutils.checkpoint.store import CheckpointStore

Pair = namedtuple("Pair", "left right")


class Odd:
    """No plain value."""


class Remembers(nn.Module):
    def __init__(self, memory) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.memory = memory

    def get_extra_state(self):
        return self.memory

    def set_extra_state(self, state) -> None:
        self.memory = state

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex128", "uint16"])
def test_plain_array_comes_back_as_it_was(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    back = from_plain(to_plain({"deep": [array, Pair(array[0], 1)]}))
    assert back["deep"][0].dtype == array.dtype
    assert np.array_equal(back["deep"][0], array)
    assert isinstance(back["deep"][1], Pair)
    back["deep"][0][:] = 0  # of its own, and writable


def test_store_extra_state_with_arrays_round_trip(tmp_path: Path):
    memory = {"seen": np.arange(3.0), "mean": np.float64(2.5), "names": ["a"]}
    store = CheckpointStore(tmp_path)
    store.publish(collect(1, Remembers(memory), {}))
    twin = Remembers(None)
    loaded = store.latest()
    load_weights(twin, loaded.weights, loaded.state["model_extra"])
    assert np.array_equal(twin.memory["seen"], memory["seen"])
    assert twin.memory["mean"] == 2.5
    assert twin.memory["names"] == ["a"]


def test_refuse_extra_state_names_module_and_class():
    with pytest.raises(nb.CheckpointError, match=r"'0\._extra_state'.*Odd") as caught:
        refuse_extra_state(nn.Sequential(Remembers({"odd": Odd()})))
    assert "\n" not in str(caught.value)
    refuse_extra_state(Remembers({"fine": [1, "a", None, np.ones(2)]}))


def test_train_odd_extra_state_is_refused_before_the_first_step():
    steps = []

    class Count:
        def on_step_end(self, state) -> None:
            steps.append(state.step)

    task = nb.Task(
        Remembers(Odd()),
        nn.CrossEntropyLoss(),
        (torch.randn(8, 3), torch.arange(8) % 2),
    )
    run = nb.TrainingCoordinator(task, callbacks=[Count()], preflight="skip")
    with pytest.raises(nb.CheckpointError, match="get_extra_state"):
        run.train()
    assert not steps


def test_publish_odd_optimizer_state_is_refused_in_one_line(tmp_path: Path):
    class Part:
        def state_dict(self):
            return {"odd": Odd()}

    with pytest.raises(nb.CheckpointError, match=r"an object of .*Odd") as caught:
        CheckpointStore(tmp_path).publish(collect(1, nn.Linear(1, 1), {"p": Part()}))
    assert "\n" not in str(caught.value)
    assert not CheckpointStore(tmp_path).steps()


def test_load_weights_expanded_buffer_is_written():
    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid", torch.arange(4.0).expand(3, 4))
            self.register_buffer("same", self.grid)

    model = Expanded()
    saved = collect(0, model, {})
    load_weights(model, saved.full_weights(), {})
    assert torch.equal(model.grid, torch.arange(4.0).expand(3, 4))
    assert model.same is model.grid


def test_collect_lazy_model_says_how_to_wake_it():
    with pytest.raises(nb.CheckpointError, match=r"'weight'.*lazy.*task\.forward"):
        collect(0, nn.LazyLinear(2), {})


def test_collect_copies_mutable_extra_state():
    memory = {"names": {"a"}, "odd": [1]}
    saved = collect(0, Remembers(memory), {}).state["model_extra"]
    before = copy.deepcopy(saved)
    memory["names"].add("b")
    memory["odd"].append(2)
    assert saved == before
