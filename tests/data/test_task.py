from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from helpers_data import Noisy, Stream, make_task
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch_geometric.data import Data

from nbutils.data import Contract, Task
from nbutils.data.sources import DictDataset
from nbutils.errors import ConfigError, ContractError

X, Y = torch.randn(6, 3), torch.randint(2, (6,))


def mean_loss(outputs, batch):
    return functional.cross_entropy(outputs, batch[1])


def with_loss(result):
    return Task(nn.Linear(3, 2), lambda outputs, batch: result, (X, Y))


@pytest.mark.parametrize(
    ("data", "kind", "length"),
    [
        ((X, Y), TensorDataset, 6),
        ([X, Y], TensorDataset, 6),
        (X, TensorDataset, 6),
        ({"x": X, "y": Y}, DictDataset, 6),
        ([X, X, X], list, 3),
        ([(X[0], 1), (X[1], 0)], list, 2),
        ([Data(x=X)], list, 1),
        (Noisy(3), Noisy, 3),
    ],
)
def test_task_data_forms_are_accepted(data, kind, length):
    kept = make_task(data).dataset("train")
    assert type(kept) is kind
    assert len(kept) == length


def test_task_streams_and_loaders_are_kept():
    stream, loader = Stream(3), DataLoader(Noisy(3))
    task = make_task(stream, val_data=loader)
    assert task.dataset("train") is stream
    assert task.dataset("val") is loader


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "train_data is empty"),
        ((X[:0], Y[:0]), "train_data is empty"),
        ({}, "train_data is empty"),
        (DataLoader(TensorDataset(X[:0])), "train_data is empty"),
        ((X, Y[:4]), r"different lengths \(0: 6, 1: 4\)"),
        ({"x": X, "y": np.ones(6)}, r"train_data\['y'\] is ndarray"),
        ((np.ones(3), np.ones(3)), r"train_data\[0\] is ndarray; .*from_numpy"),
        ("images/", "train_data is str; it must be a Dataset"),
        (None, "train_data is NoneType"),
        (5, "train_data is int"),
    ],
)
def test_task_data_that_cannot_be_read_raises(data, told):
    with pytest.raises(ConfigError, match=told):
        make_task(data)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": 3}, "model is int; it must be a torch.nn.Module"),
        ({"model": nn.Identity}, r"model is the class Identity; give an object"),
        ({"loss": nn.MSELoss}, r"loss is the class MSELoss; give an object"),
        ({"loss": "mse"}, "loss is str; it must be a function"),
        ({"loss": lambda outputs: 0}, "cannot be called as loss"),
        ({"loss": nn.MSELoss(reduction="sum")}, "loss has reduction='sum'"),
        (
            {"loss": functools.partial(functional.mse_loss, reduction="none")},
            "loss has reduction='none'",
        ),
        ({"forward": lambda batch: 0}, "cannot be called as forward"),
        ({"collate": 1}, "collate is int"),
        ({"count_targets": lambda: 0}, "cannot be called as count_targets"),
        ({"make_schedule": lambda optimizer: 0}, "called as make_schedule"),
        ({"metrics": {"acc": 1}}, r"metrics\['acc'\] is int"),
        ({"metrics": 1}, "metrics is int"),
        ({"declares": "frozen"}, r"put it in a tuple: \('frozen',\)"),
        ({"declares": (1,)}, "declares has 1"),
        ({"declares": 1}, "declares is int"),
        ({"loss_weights": [1]}, "loss_weights is list"),
        ({"loss_weights": {"a": float("nan")}}, r"loss_weights\['a'\] is nan"),
        ({"contract": 5}, "contract is int"),
        ({"contract": {"0": "x"}}, r"contract\['0'\] is 'x'"),
    ],
)
def test_task_argument_of_the_wrong_kind_raises(options, told):
    arguments = {
        "model": nn.Linear(3, 2),
        "loss": mean_loss,
        "train_data": (X, Y),
        **options,
    }
    with pytest.raises(ConfigError, match=told):
        Task(**arguments)


def test_task_several_problems_are_told_together():
    with pytest.raises(ConfigError) as caught:
        Task(3, "mse", [], val_data=[])
    assert len(caught.value.problems) == 4


def test_task_attributes_have_defaults():
    task = make_task((X, Y), contract={"0": "float32 (B, 3)"})
    assert (task.name, task.declares, task.extras, task.verdict) == (
        "Linear",
        (),
        {},
        None,
    )
    assert isinstance(task.contract, Contract)
    assert repr(task) == "Task('Linear', model=Linear)"


def test_forward_default_takes_first_of_a_pair_else_the_whole():
    task = make_task((X, Y))
    assert torch.equal(task.forward(nn.Identity(), (X, Y)), X)
    assert task.forward(nn.Identity(), {"x": X})["x"] is X


def test_forward_given_function_is_used():
    task = make_task({"x": X}, forward=lambda model, batch: model(batch["x"]))
    assert task.forward(task.model, {"x": X}).shape == (6, 2)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        functional.cross_entropy,
        functools.partial(functional.cross_entropy, label_smoothing=0.0),
        mean_loss,
    ],
)
def test_loss_terms_torch_losses_get_the_targets(loss):
    task = Task(nn.Linear(3, 2), loss, (X, Y))
    terms = task.loss_terms(task.forward(task.model, (X, Y)), (X, Y))
    expected = functional.cross_entropy(task.model(X), Y)
    assert torch.equal(terms["loss"], expected)


@pytest.mark.parametrize("batch", [{"x": X}, (X, Y, Y)])
def test_loss_terms_torch_loss_without_a_pair_raises(batch):
    with pytest.raises(ContractError, match=r"CrossEntropyLoss takes .*def loss"):
        make_task((X, Y)).loss_terms(X, batch)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (0.5, r"the loss is 0.5 \(float\); a scalar tensor is expected"),
        (torch.ones(3), r"the loss has shape \(3,\).*Return a mean"),
        (torch.tensor(1), "dtype int64"),
        (torch.tensor(1j), r"dtype complex64.*\.abs\(\)"),
        ({}, "empty dict"),
        ({"a": torch.tensor(1.0), "b": 0.5}, "loss term 'b' is 0.5"),
        (None, "the loss is None"),
    ],
)
def test_loss_terms_anything_but_scalars_raises(result, told):
    with pytest.raises(ContractError, match=told):
        with_loss(result).loss_terms(X, (X, Y))


def test_total_weights_terms_and_run_weights_go_first():
    task = make_task((X, Y), loss_weights={"a": 2.0, "b": 3.0})
    terms = {"a": torch.tensor(1.0), "b": torch.tensor(1.0), "c": torch.tensor(1.0)}
    assert task.total(terms).item() == 6.0
    assert task.total(terms, {"b": 0.0}).item() == 3.0


def test_total_single_term_is_itself():
    term = torch.tensor(1.0)
    assert make_task((X, Y)).total({"loss": term}) is term


def test_total_unknown_weight_raises_with_a_suggestion():
    terms = {"energy": torch.tensor(1.0)}
    with pytest.raises(ContractError, match=r"'enrgy'.*did you mean 'energy'"):
        make_task((X, Y)).total(terms, {"enrgy": 1.0})
    with pytest.raises(ContractError, match=r"'zzz'.*must name a returned term"):
        make_task((X, Y)).total(terms, {"zzz": 1.0})


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, 3), (torch.tensor(3), 3), (torch.tensor([3.0]), 3), (np.int64(3), 3), (0, 0)],
)
def test_num_targets_whole_numbers_pass(count, expected):
    task = make_task((X, Y), count_targets=lambda batch: count)
    assert task.num_targets((X, Y)) == expected


@pytest.mark.parametrize(
    "count",
    [
        -1,
        1.0,
        True,
        None,
        "3",
        torch.tensor(1.5),
        torch.ones(2),
        torch.tensor(float("nan")),
    ],
)
def test_num_targets_anything_else_raises(count):
    task = make_task((X, Y), count_targets=lambda batch: count)
    with pytest.raises(ContractError, match="count_targets returned"):
        task.num_targets((X, Y))


def test_num_targets_default_is_the_batch_size():
    assert make_task((X, Y)).num_targets((X, Y)) == 6


def test_dataset_unknown_or_missing_split_raises():
    task = make_task((X, Y))
    with pytest.raises(ContractError, match=r"no split 'tset'.*did you mean 'test'"):
        task.dataset("tset")
    with pytest.raises(ContractError, match=r"no data for 'val'.*val_data=..."):
        task.dataset("val")


def test_fingerprint_same_parts_same_hash_and_no_randomness():
    with_randomness = Noisy(4)
    state = torch.get_rng_state()
    first = make_task(with_randomness).fingerprint()
    assert len(first) == 16
    assert first == make_task(Noisy(4)).fingerprint()
    torch.set_rng_state(state)
    make_task_state = make_task(Noisy(4))
    before = torch.get_rng_state()
    make_task_state.fingerprint()
    assert torch.equal(before, torch.get_rng_state())


def test_fingerprint_each_part_changes_it():
    other = X.clone()
    other[0, 0] += 1
    tasks = [
        make_task((X, Y)),
        make_task((other, Y)),
        make_task((X[:5], Y[:5])),
        make_task((X, Y), val_data=(X, Y)),
        make_task((X, Y), forward=lambda model, batch: model(batch[0])),
        make_task(Stream(3)),
        make_task([(X[0], "a")]),
        make_task([(X[0], "b")]),
        make_task(DataLoader(TensorDataset(X, Y))),
        Task(nn.Linear(3, 2, bias=False), nn.CrossEntropyLoss(), (X, Y)),
        Task(nn.Linear(3, 2), nn.CrossEntropyLoss(label_smoothing=0.1), (X, Y)),
        Task(nn.Linear(3, 2), mean_loss, (X, Y)),
        Task(
            nn.Linear(3, 2),
            functools.partial(functional.cross_entropy, label_smoothing=0.1),
            (X, Y),
        ),
    ]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
