"""The engine on models, batches and ends it has never seen, against plain PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, IterableDataset

import nbutils as nb

NUM = 13
Pair = namedtuple("Pair", "x y source")
numbers = itertools.count()


@dataclasses.dataclass
class Record:
    x: Tensor
    y: Tensor


class StopAt:
    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            state.request_stop("here")


def table(num=NUM, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num, 6, dtype=dtype, generator=generator)
    return x, torch.randint(3, (num,), generator=generator)


def train(task, run_dir=None, callbacks=(), **settings):
    folder = run_dir or Path(f"run-{next(numbers)}")
    quiet = {"preflight": "skip", "panel": "off", "runs_dir": f"{folder}-runs"}
    coordinator = nb.TrainingCoordinator(
        task, callbacks=callbacks, run_dir=folder, **{**quiet, **settings}
    )
    return coordinator.train()


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing


def assert_close(left, right, tolerance=1e-9):
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert (a - b).abs().max() <= tolerance if a.numel() else True


def rows(result):
    kept = [{k: v for k, v in row.items() if k != "seconds"} for row in result.rows]
    return repr(kept)  # NaN is like itself


def windows(num, batch, accumulation, drop_last=False):
    cut = [list(range(num))[i : i + batch] for i in range(0, num, batch)]
    cut = [part for part in cut if len(part) == batch] if drop_last else cut
    return [cut[i : i + accumulation] for i in range(0, len(cut), accumulation)]


def plain(model, cut, total, optimizer=None, epochs=2):
    """Each window as one batch; ``total(model, indices)``: summed loss and count."""
    weights = list(model.parameters())
    optimizer = optimizer or torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01)
    for window in cut * epochs:
        optimizer.zero_grad()
        parts = [total(model, indices) for indices in window]
        (sum(part[0] for part in parts) / sum(part[1] for part in parts)).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def summed(x, y):
    def total(model, indices):
        outputs = model(x[indices])
        return F.cross_entropy(outputs, y[indices], reduction="sum"), len(indices)

    return total


@pytest.mark.parametrize("seed", range(4))
def test_windows_of_any_size_equal_one_big_batch(seed):
    draw = random.Random(seed)
    num, batch = draw.randint(1, 23), draw.randint(1, 7)
    accumulation, drop_last = draw.randint(1, 9), seed % 2 == 1 and num >= batch
    x, y = table(num)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    twin = copy.deepcopy(model)
    train(
        nb.Task(model, nn.CrossEntropyLoss(), (x, y)),
        epochs=2,
        batch_size=batch,
        accumulation=accumulation,
        drop_last=drop_last,
        shuffle=False,
    )
    plain(twin, windows(num, batch, accumulation, drop_last), summed(x, y))
    assert_close(model, twin)


def stacked(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


FORMS = {
    "dict": (
        lambda s: dict(zip("xy", stacked(s), strict=True)),
        lambda b: (b["x"], b["y"]),
    ),
    "nested": (
        lambda s: {"in": [stacked(s)[0], ["id"] * len(s)], "y": (stacked(s)[1], 1.0)},
        lambda b: (b["in"][0], b["y"][0]),
    ),
    "namedtuple": (lambda s: Pair(*stacked(s), "a"), lambda b: (b.x, b.y)),
    "dataclass": (lambda s: Record(*stacked(s)), lambda b: (b.x, b.y)),
    "ragged lists": (
        lambda s: ([x for x, _ in s], [{"y": y} for _, y in s]),
        lambda b: (torch.stack(b[0]), torch.stack([t["y"] for t in b[1]])),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cap", [99, 2], ids=["whole", "parts"])
def test_odd_batches_train_whole_and_in_parts(form, cap):
    collate, read = FORMS[form]
    x, y = table()
    model = nn.Linear(6, 3).double()
    twin = copy.deepcopy(model)

    def forward(network, batch):
        inputs = read(batch)[0]
        if len(inputs) > cap and network.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return network(inputs)

    task = nb.Task(
        model,
        lambda outputs, batch: F.cross_entropy(outputs, read(batch)[1]),
        list(zip(x, y, strict=True)),
        forward=forward,
        collate=collate,
    )
    train(task, epochs=2, batch_size=5, accumulation=2, shuffle=False)
    plain(twin, windows(NUM, 5, 2), summed(x, y))
    assert_close(model, twin)


def test_token_counts_of_ragged_sequences_weigh_a_window():
    lengths = [5, 2, 7, 3, 3, 9, 4]
    sequences = [torch.arange(1, n + 1) for n in lengths]

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(12, 6, padding_idx=0)
            self.mix = nn.LSTM(6, 6, batch_first=True)
            self.out = nn.Linear(6, 12)

        def forward(self, ids):
            return self.out(self.mix(self.embed(ids))[0])

    def pad(samples):
        return nn.utils.rnn.pad_sequence(samples, batch_first=True)

    def loss(outputs, ids, reduction="mean"):
        flat, targets = outputs[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        return F.cross_entropy(flat, targets, ignore_index=0, reduction=reduction)

    model = Words().double()
    twin = copy.deepcopy(model)
    task = nb.Task(
        model,
        loss,
        sequences,
        collate=pad,
        count_targets=lambda ids: (ids[:, 1:] != 0).sum(),
    )
    train(task, epochs=2, batch_size=2, accumulation=3, shuffle=False)

    def total(network, indices):
        ids = pad([sequences[i] for i in indices])
        return loss(network(ids), ids, "sum"), (ids[:, 1:] != 0).sum()

    plain(twin, windows(len(lengths), 2, 3), total)
    assert_close(model, twin)


class Unsized(IterableDataset):
    def __iter__(self):
        return zip(*table(), strict=True)


@pytest.mark.parametrize("kind", ["stream", "own batches"])
def test_data_of_the_users_own_order_are_read_as_they_come(kind):
    x, y = table()
    cut = [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12]]]
    data = DataLoader(Unsized(), batch_size=4)
    if kind == "own batches":
        cut = [[[0, 1, 2], [3]], [[4, 5], [6, 7, 8, 9]], [[10, 11, 12]]]
        pairs = list(zip(x, y, strict=True))
        data = DataLoader(pairs, batch_sampler=[part for w in cut for part in w])
    model = nn.Linear(6, 3).double()
    twin = copy.deepcopy(model)
    result = train(
        nb.Task(model, nn.CrossEntropyLoss(), data), epochs=2, accumulation=2
    )
    plain(twin, cut, summed(x, y))
    assert result.steps == 2 * len(cut)
    assert_close(model, twin)


class Recurrent(nn.Module):
    """Dropout between layers, and a hidden state that lives in a buffer."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 5)
        self.mix = nn.LSTM(1, 3, num_layers=2, dropout=0.3, batch_first=True)
        self.out = nn.Linear(3, 3)
        self.register_buffer("hidden", torch.zeros(1, 5))

    def forward(self, x):
        state = self.cell(x, self.hidden.expand(len(x), 5))
        if self.training:
            self.hidden = state.mean(0, keepdim=True).detach()
        return self.out(self.mix(state[..., None])[0][:, -1])


class Turns(nn.Module):
    """Each step uses one of two heads; the weights of both are tied to a third."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 6)])
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.heads[2].weight

    def forward(self, x):
        return self.heads[int(x[0, 0] > 0)](self.tied(self.heads[2](x).tanh()))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.wave = nn.Parameter(torch.randn(6, 3, dtype=torch.cfloat))
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        return (x.to(torch.cfloat) @ self.wave).abs() * self.scale.float()


def normed():
    inner = parametrizations.spectral_norm(nn.Linear(6, 8))
    return nn.Sequential(
        inner, nn.Tanh(), parametrizations.weight_norm(nn.Linear(8, 3))
    )


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (Recurrent, {"ema_decay": 0.9, "schedule": "plateau", "warmup_steps": 2}),
        (Turns, {"optimizer": "adam", "schedule": "linear", "precision": "fp16"}),
        (Complex, {"optimizer": "sgd", "schedule": "onecycle"}),
        (normed, {"ema_decay": 0.9, "clip_value": 0.01, "precision": "bf16"}),
    ],
)
def test_a_stopped_run_of_an_odd_model_ends_as_if_never_stopped(build, settings):
    data = table(dtype=torch.float32)
    torch.manual_seed(0)
    model = build()
    stopped, resumed = copy.deepcopy(model), copy.deepcopy(model)
    settings = {"epochs": 3, "batch_size": 2, "accumulation": 3, **settings}

    def task(network):
        return nb.Task(network, nn.CrossEntropyLoss(), data, data)

    whole = train(task(model), **settings)
    train(task(stopped), Path("half"), [StopAt(4)], **settings)
    with torch.no_grad():
        for weight in resumed.parameters():
            weight.add_(1)  # all of it must come from the checkpoint
    last = train(task(resumed), Path("half"), **settings)
    assert_equal(values(model), values(resumed))
    assert rows(last) == rows(whole)


OPTIMIZERS = {
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 1e-3, momentum=0.5),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters()),
    "tensor lr": lambda m: torch.optim.SGD(m.parameters(), lr=torch.tensor(0.1)),
    "nesterov": lambda m: torch.optim.SGD(
        m.parameters(), 0.1, momentum=0.9, nesterov=True, fused=True
    ),
    "amsgrad": lambda m: torch.optim.AdamW(m.parameters(), amsgrad=True, fused=True),
    "two groups": lambda m: torch.optim.Adam(
        [{"params": [m.weight], "lr": 0.1}, {"params": [m.bias]}], fused=True
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_the_user_steps_as_in_a_plain_loop(name):
    x, y = table(dtype=torch.float32)
    model = nn.Linear(6, 3)
    twin = copy.deepcopy(model)
    make = OPTIMIZERS[name]
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, y), make_optimizer=make)
    train(task, epochs=2, batch_size=2, accumulation=3, shuffle=False)
    plain(twin, windows(NUM, 2, 3), summed(x, y), make(twin))
    assert_close(model, twin, 2e-6)


class Noisy(Dataset):
    """Draws from three generators for each sample."""

    def __len__(self):
        return 22

    def __getitem__(self, index):
        return torch.randn(6) + random.random() + np.random.rand(), index % 2


def noisy_task(loss=None):
    torch.manual_seed(1)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2)
    ce = nn.CrossEntropyLoss()
    val = (torch.ones(8, 6), torch.arange(8) % 2)
    return nb.Task(nn.Sequential(*layers), loss or ce, Noisy(), val)


TWO_EPOCHS = {"epochs": 2, "batch_size": 4, "accumulation": 2, "schedule": "cosine"}


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    task = noisy_task()
    result = train(task, tmp_path_factory.mktemp("whole") / "run", **TWO_EPOCHS)
    return values(task.model), rows(result)


@pytest.mark.parametrize("step", range(1, 7))
def test_a_stop_at_any_step_loses_nothing(unstopped, step):
    train(noisy_task(), Path("run"), [StopAt(step)], **TWO_EPOCHS)
    task = noisy_task()
    result = train(task, Path("run"), **TWO_EPOCHS)
    assert_equal(values(task.model), unstopped[0])
    assert rows(result) == unstopped[1]


@pytest.mark.parametrize("call", [1, 7, 13])
@pytest.mark.parametrize("kind", ["error", "interrupt", "two interrupts"])
def test_a_loss_that_ends_the_run_anywhere_loses_nothing(unstopped, call, kind):
    calls = itertools.count(1)

    def loss(outputs, batch):
        if next(calls) == call:
            if kind == "error":
                raise LookupError("lost")
            for _ in range(1 + (kind == "two interrupts")):
                os.kill(os.getpid(), signal.SIGINT)
        return F.cross_entropy(outputs, batch[1])

    before = signal.getsignal(signal.SIGINT)
    if kind == "interrupt":
        result = train(noisy_task(loss), Path("run"), **TWO_EPOCHS)
        assert result.stop_reason in ("interrupt", "completed")
    else:
        raised = LookupError if kind == "error" else KeyboardInterrupt
        with pytest.raises(raised):
            train(noisy_task(loss), Path("run"), **TWO_EPOCHS)
    assert signal.getsignal(signal.SIGINT) is before
    task = noisy_task()
    result = train(task, Path("run"), **TWO_EPOCHS)
    assert_equal(values(task.model), unstopped[0])
    assert rows(result) == unstopped[1]


def test_a_copied_run_resumes_from_elsewhere(unstopped, tmp_path, monkeypatch):
    train(noisy_task(), Path("run"), [StopAt(3)], **TWO_EPOCHS)
    copied = tmp_path / "a cöpy of it"
    shutil.move("run", copied)
    monkeypatch.chdir("/")
    task = noisy_task()
    coordinator = nb.TrainingCoordinator(
        task, preflight="skip", panel="off", runs_dir=str(tmp_path), **TWO_EPOCHS
    )
    result = coordinator.resume_training(copied)
    assert_equal(values(task.model), unstopped[0])
    assert result.run_dir == copied


def test_the_average_is_that_of_its_definition():
    x, y = table(12)
    model = nn.Linear(6, 3).double()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.01)
    average = [weight.detach().clone() for weight in twin.parameters()]
    for step in range(1, 7):
        plain(twin, [[[2 * step - 2, 2 * step - 1]]], summed(x, y), optimizer, 1)
        decay = min(0.9, (1 + step) / (10 + step))
        for mean, weight in zip(average, twin.parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)
    result = train(
        nb.Task(model, nn.CrossEntropyLoss(), (x, y), (x, y)),
        epochs=1,
        batch_size=2,
        ema_decay=0.9,
        shuffle=False,
    )
    assert_close(model, twin)
    expected = F.cross_entropy(F.linear(x, *average), y).item()
    assert result.metrics["val_loss"] == pytest.approx(expected, abs=1e-9)


def test_groups_weights_and_phases_follow_their_definition():
    x, y = table(12)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    twin = copy.deepcopy(model)

    def loss(outputs, batch):
        return {"ce": F.cross_entropy(outputs, batch[1]), "l2": outputs.pow(2).mean()}

    train(
        nb.Task(model, loss, (x, y)),
        epochs=1,
        batch_size=2,
        shuffle=False,
        lr=0.01,
        lr_groups={"0.*": 0.1},
        decay_groups={"2.*": 0.0},
        loss_weights={"l2": 0.5},
        loss_phases={"l2": [[0, 0], [1, 1]]},
    )
    near = {"params": twin[0].parameters(), "lr": 0.001, "weight_decay": 0.01}
    far = {"params": twin[2].parameters(), "lr": 0.01, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([near, far])
    for step in range(6):
        rows_used = [2 * step, 2 * step + 1]

        def total(network, indices, factor=step / 6):
            outputs = network(x[indices])
            ce = F.cross_entropy(outputs, y[indices])
            return ce + 0.5 * factor * outputs.pow(2).mean(), 1

        plain(twin, [[rows_used]], total, optimizer, 1)
    assert_close(model, twin)


def test_events_tell_what_happened():
    x, y = table(40, torch.float32)
    x[5] = float("nan")
    seen = []

    class Watch:
        def on_step_end(self, state):
            seen.append((state.step, state.lr, state.last.loss))

    result = train(
        nb.Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), (x, y), (x[6:], y[6:])),
        Path("run"),
        [Watch()],
        epochs=2,
        batch_size=4,
        shuffle=False,
        schedule="cosine",
        log_every_steps=1,
    )
    lines = Path("run/events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    steps = [event for event in events if event["kind"] == "step"]
    assert [(e["step"], e["lr"]) for e in steps] == [(s, lr) for s, lr, _ in seen]
    assert result.skipped == steps[-1]["refused"] == 2
    assert [e["indices"] for e in events if e["kind"] == "refused"] == [
        [4, 5, 6, 7]
    ] * 2
    applied = [loss for _, _, loss in seen[:10] if np.isfinite(loss)]
    assert result.rows[0]["train_loss"] == pytest.approx(np.mean(applied), abs=1e-6)
    assert Path(result.best["path"]).is_dir()
