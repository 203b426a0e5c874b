"""Law 8: what is logged is what happened."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers_laws import (
    Augmented,
    StopAt,
    batches_of,
    events_of,
    fresh_dir,
    law,
    net,
    plain_train,
    train,
    windows_of,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import nbutils as nb


def masked(length: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(length)
    x = torch.randn(length, 3, 4, generator=rng, dtype=torch.float64)
    mask = torch.rand(length, 3, generator=rng) < 0.4
    mask[:, 0] = True
    return {"x": x, "y": torch.randint(2, (length, 3), generator=rng), "mask": mask}


def loss_of(outputs: Tensor, batch: Any) -> Tensor:
    each = F.cross_entropy(
        outputs.flatten(0, 1), batch["y"].flatten(), reduction="none"
    )
    return (each * batch["mask"].flatten()).sum() / batch["mask"].sum()


def hits_of(outputs: Tensor, batch: Any) -> Tensor:
    right = (outputs.argmax(-1) == batch["y"]) & batch["mask"]
    return right.sum() / batch["mask"].sum()


def masked_task(length: int, data: dict[str, Tensor] | None = None) -> nb.Task:
    model = net(4, dropout=0.0, norm=False).double()
    return nb.Task(
        model,
        loss_of,
        data or masked(length),
        masked(length + 7),
        forward=lambda m, batch: m(batch["x"]),
        count_targets=lambda batch: batch["mask"].sum(),
        metrics={"accuracy": hits_of},
    )


@law(18)
@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 7),
)
def test_numbers_of_an_epoch_are_means_over_its_targets(
    length: int, batch_size: int, accumulation: int
) -> None:
    task, folder = masked_task(length), fresh_dir()
    model = copy.deepcopy(task.model)
    result = train(
        task,
        folder,
        epochs=2,
        batch_size=batch_size,
        accumulation=accumulation,
        shuffle=False,
        optimizer="sgd",
        weight_decay=0.0,
        lr=0.1,
        log_every_steps=1,
    )
    data, val = masked(length), masked(length + 7)
    batches = batches_of(length, batch_size)
    windows = windows_of(batches, accumulation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    counts = [int(data["mask"][idx].sum()) for idx in windows]
    rows = result.history.to_dict("records")
    for row in rows:
        losses = plain_train(
            model,
            optimizer,
            lambda idx: loss_of(
                model(data["x"][idx]), {k: v[idx] for k, v in data.items()}
            ),
            [windows],
        )
        mean = sum(v * n for v, n in zip(losses, counts, strict=True)) / sum(counts)
        assert row["train_loss"] == pytest.approx(mean, rel=1e-9)
        with torch.no_grad():
            outputs = model(val["x"])
        assert row["val_loss"] == pytest.approx(loss_of(outputs, val).item(), rel=1e-9)
        assert row["val_accuracy"] == pytest.approx(hits_of(outputs, val).item())
    steps = events_of(folder, "step")
    assert [event["step"] for event in steps] == list(range(1, 2 * len(windows) + 1))
    logged = [event["loss"] for event in steps[-len(windows) :]]
    assert logged == pytest.approx(losses, rel=1e-9)
    rates = events_of(folder, "epoch")
    assert [event["train_loss"] for event in rates] == [r["train_loss"] for r in rows]


@law(10)
@given(
    stops=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    every=st.integers(1, 4),
    accumulation=st.integers(1, 3),
)
def test_log_of_a_run_with_stops_has_each_step_and_epoch_once(
    stops: list[int], every: int, accumulation: int
) -> None:
    def task() -> nb.Task:
        x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
        y = (x[:, 0] > 0).long()
        return nb.Task(net(), nn.CrossEntropyLoss(), Augmented(x, y), (x[:7], y[:7]))

    options = {"epochs": 3, "batch_size": 4, "accumulation": accumulation}
    options["log_every_steps"] = every
    whole_dir, folder = fresh_dir(), fresh_dir()
    whole = train(task(), whole_dir, **options)
    for stop in stops:
        train(task(), folder, StopAt(stop), **options)
    result = train(task(), folder, **options)
    for kind in ("step", "epoch", "evaluate"):
        ours, theirs = events_of(folder, kind), events_of(whole_dir, kind)
        assert [event["step"] for event in ours] == [event["step"] for event in theirs]
    timeless = ["loss", "grad_norm", "lr", "epoch", "refused"]
    for ours, theirs in zip(
        events_of(folder, "step"), events_of(whole_dir, "step"), strict=True
    ):
        assert [ours[key] for key in timeless] == [theirs[key] for key in timeless]
    assert list(result.history["train_loss"]) == list(whole.history["train_loss"])


def test_refused_windows_are_not_averaged_in() -> None:
    clean, bad = masked(24), masked(24)
    bad["x"][5, 0] = math.nan
    task = masked_task(24, bad)
    options = {"epochs": 1, "batch_size": 4, "shuffle": False, "lr": 1e-12}
    result = train(task, None, **options, optimizer="sgd", weight_decay=0.0)
    kept = [i for i in range(24) if not 4 <= i < 8]
    task.model.train()
    expected = loss_of(
        task.model(clean["x"][kept]), {k: v[kept] for k, v in clean.items()}
    )
    assert result.skipped == 1
    (row,) = result.history.to_dict("records")
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert row["refused"] == 1


def test_train_and_validation_loss_of_the_same_data_agree() -> None:
    x, y = torch.randn(37, 6), torch.randint(2, (37,))
    model = net(dropout=0.0, norm=False)
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, y), (x, y))
    options = {"epochs": 1, "batch_size": 8, "lr": 1e-12, "optimizer": "sgd"}
    (row,) = train(task, None, **options).history.to_dict("records")
    assert row["train_loss"] == pytest.approx(row["val_loss"], rel=1e-6)


def test_named_terms_are_logged_and_their_weighted_sum_is_the_loss() -> None:
    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        return {"fit": F.cross_entropy(outputs, batch[1]), "size": outputs.abs().mean()}

    x, y = torch.randn(22, 6), torch.randint(2, (22,))
    task, folder = nb.Task(net(norm=False), loss, (x, y), (x, y)), fresh_dir()
    weights = {"size": 0.3}
    train(task, folder, epochs=2, batch_size=4, loss_weights=weights, log_every_steps=1)
    for event in events_of(folder, "step"):
        terms = event["terms"]
        total = terms["fit"] + 0.3 * terms["size"]
        assert event["loss"] == pytest.approx(total, rel=1e-5)


def test_no_validated_sample_is_an_error_not_a_zero() -> None:
    x, y = torch.randn(8, 6), torch.randint(2, (8,))
    task = nb.Task(
        net(norm=False),
        nn.CrossEntropyLoss(),
        (x, y),
        (x - 100, y),
        count_targets=lambda batch: int((batch[0] > -50).all(1).sum()),
    )
    with pytest.raises(nb.ContractError, match="0 samples were evaluated"):
        train(task, None, epochs=1, batch_size=4)


def test_every_callback_fires_in_order_with_the_state_it_needs() -> None:
    order: list[str] = []

    class Note(nb.Callback):
        def __init__(self, name: str) -> None:
            for hook in (name for name in dir(nb.Callback) if name.startswith("on_")):
                setattr(self, hook, self._note(name, hook))

        def _note(self, name: str, hook: str) -> Any:
            def note(state: Any) -> None:
                rows = len(state.history)
                order.append(f"{name}.{hook} {state.epoch} {state.step} {rows}")

            return note

    x, y = torch.randn(10, 6), torch.randint(2, (10,))
    task = nb.Task(net(), nn.CrossEntropyLoss(), (x, y), (x, y))
    options = {"epochs": 2, "batch_size": 5, "save_every_epochs": 1}
    # written in the loop, a save is told at once; in the background once it is there
    options["save_in_background"] = False
    train(task, None, Note("a"), Note("b"), **options)
    hooks = [
        "on_fit_start 0 0 0",
        "on_epoch_start 0 0 0",
        "on_step_end 0 1 0",
        "on_step_end 0 2 0",
        "on_evaluate_end 1 2 1",
        "on_epoch_end 1 2 1",
        "on_checkpoint 1 2 1",
        "on_epoch_start 1 2 1",
        "on_step_end 1 3 1",
        "on_step_end 1 4 1",
        "on_evaluate_end 2 4 2",
        "on_epoch_end 2 4 2",
        "on_checkpoint 2 4 2",
        "on_stop 2 4 2",
        "on_fit_end 2 4 2",
    ]
    assert order == [f"{name}.{hook}" for hook in hooks for name in "ab"]


def test_step_events_name_what_the_optimizer_was_given() -> None:
    norms: list[float] = []

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(
            lambda *_: norms.append(
                torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
            )
        )
        return optimizer

    x, y = torch.randn(20, 6), torch.randint(2, (20,))
    task = nb.Task(net(norm=False), nn.CrossEntropyLoss(), (x, y), make_optimizer=make)
    folder = fresh_dir()
    options = {"epochs": 2, "batch_size": 4, "clip_norm": None, "log_every_steps": 1}
    train(task, folder, **options)
    logged = [event["grad_norm"] for event in events_of(folder, "step")]
    assert logged == pytest.approx(norms, rel=1e-5)
    assume_varied = {round(norm, 6) for norm in norms}
    assert len(assume_varied) > 5


@pytest.mark.parametrize("max_steps", [3, 5, 7, 10])
def test_log_has_the_last_row_of_a_run_that_max_steps_cut_short(max_steps: int) -> None:
    x, y = torch.randn(20, 6), torch.randint(2, (20,))
    task, folder = nb.Task(net(), nn.CrossEntropyLoss(), (x, y), (x, y)), fresh_dir()
    result = train(task, folder, max_steps=max_steps, batch_size=4)
    steps = [event["step"] for event in events_of(folder, "epoch")]
    assert steps == result.history["step"].tolist()
    assert steps[-1] == max_steps
