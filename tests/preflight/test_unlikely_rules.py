"""Leaks by row number, dropout on outputs, eps, ascent, losses of sure mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight import preflight
from nbutils.preflight.checks.data import batches as r3
from nbutils.preflight.checks.data import samples as r1
from nbutils.preflight.checks.loss import loss as r5
from nbutils.preflight.checks.model import forward as r4
from nbutils.preflight.checks.update import step as r6
from nbutils.preflight.session import run_checks

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(160, 4, generator=DRAW)
Y = (X[:, 0] + X[:, 1] > 0).long()


def titles(check, model, loss, data, **options):
    task = Task(model, loss, data, **options)
    config = RunConfig().replace(batch_size=16, device="cpu")
    finding = run_checks(task, config, [check])[0]
    assert "fault of nbutils" not in str(finding.details)
    return finding.title if finding.severity != "pass" else ""


@pytest.mark.parametrize("kind", ["sorted by label", "time of day", "random"])
def test_r1_row_number_among_the_inputs_is_told(kind):
    order = Y.argsort() if kind == "sorted by label" else torch.arange(160)
    number = torch.randn(160) if kind == "random" else (torch.arange(160.0) - 80) / 46
    x = torch.cat([X[order], number[:, None]], 1)
    drawn = torch.randperm(160, generator=DRAW)
    data = x[drawn], Y[order][drawn]
    found = titles(r1.CHECK, nn.Linear(5, 2), nn.CrossEntropyLoss(), data)
    assert ("is a row number" in found) == (kind == "sorted by label"), found


@pytest.mark.parametrize("is_last", [True, False])
def test_r4_dropout_on_the_outputs_is_told(is_last):
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)]
    layers.insert(3 if is_last else 2, nn.Dropout(0.3))
    found = titles(r4.CHECK, nn.Sequential(*layers), nn.CrossEntropyLoss(), (X, Y))
    assert ("dropout acts on the outputs" in found) == is_last


def test_r4_outputs_with_zeros_of_their_own_are_left_in_peace():
    model = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2), nn.ReLU())
    data = X, X[:, :2].abs()
    assert "dropout acts" not in titles(r4.CHECK, model, nn.MSELoss(), data)


@pytest.mark.parametrize(("eps", "is_told"), [(10.0, True), (1e-8, False)])
def test_r6_eps_that_outweighs_the_moments_is_told(eps, is_told):
    def make_optimizer(model):
        return torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps)

    loss = nn.CrossEntropyLoss()
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    found = titles(r6.CHECK, model, loss, (X, Y), make_optimizer=make_optimizer)
    assert ("outweighs its moments" in found) == is_told


@pytest.mark.parametrize("climbs", [True, False])
def test_r10_optimizer_that_climbs_a_loss_is_told(climbs):
    def make_optimizer(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, maximize=climbs)

    loss = nn.CrossEntropyLoss()
    task = Task(nn.Linear(4, 2), loss, (X, Y), make_optimizer=make_optimizer)
    report = preflight(task, on_failure="return", device="cpu")
    told = [f.title for f in report.findings if f.id == "R10"]
    assert any("climbs the loss" in title for title in told) == climbs


def focal(outputs, batch, *, is_wrong):
    loss = functional.cross_entropy(outputs, batch[1], reduction="none")
    p = torch.exp(-loss)
    return ((p if is_wrong else 1 - p) ** 2 * loss).mean()


@pytest.mark.parametrize("is_wrong", [True, False])
def test_r5_loss_that_vanishes_for_sure_mistakes_is_told(is_wrong):
    def loss(outputs, batch):
        return focal(outputs, batch, is_wrong=is_wrong)

    found = titles(r5.CHECK, nn.Linear(4, 2), loss, (X, Y))
    assert ("sure of the wrong class" in found) == is_wrong


def test_r5_complementary_labels_are_left_in_peace():
    def loss(outputs, batch):  # the label says which class it is not
        chance = outputs.softmax(1).gather(1, batch[1][:, None])
        return -torch.log(1 - chance + 1e-6).mean()

    model, data = nn.Linear(4, 3), (X, Y)
    assert "sure of the wrong" not in titles(r5.CHECK, model, loss, data)


@pytest.mark.parametrize(
    ("dtype", "lr", "is_told"),
    [
        (torch.bfloat16, 1e-4, True),
        (torch.float32, 1e-4, False),
    ],
)
def test_r6_steps_lost_in_rounding_are_told(dtype, lr, is_told):
    model = nn.Linear(4, 2).to(dtype)

    def make_optimizer(model):
        return torch.optim.SGD(model.parameters(), lr=lr)

    found = titles(
        r6.CHECK,
        model,
        nn.CrossEntropyLoss(),
        (X.to(dtype), Y),
        make_optimizer=make_optimizer,
    )
    assert ("lost in rounding" in found) == is_told


@pytest.mark.parametrize("unit", ["epochs", "updates"])
def test_r6_milestones_that_are_epochs_are_told(unit):
    def make_schedule(optimizer, planned_steps):
        last = 6 if unit == "epochs" else planned_steps // 2
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, last])

    found = titles(
        r6.CHECK,
        nn.Linear(4, 2),
        nn.CrossEntropyLoss(),
        (X, Y),
        make_schedule=make_schedule,
    )
    assert ("milestones of the schedule are epochs" in found) == (unit == "epochs")


@pytest.mark.parametrize("writes", [True, False])
def test_r4_metric_that_writes_into_the_batch_is_told(writes):
    def right(outputs, batch):
        labels = batch[1] if writes else batch[1].clone()
        labels[labels == 1] = 0
        return float((outputs.argmax(1) == labels).float().mean())

    loss, metrics = nn.CrossEntropyLoss(), {"right": right}
    found = titles(r4.CHECK, nn.Linear(4, 2), loss, (X, Y.clone()), metrics=metrics)
    assert ("changes the batch" in found) == writes


@pytest.mark.parametrize("weight", [1.0, 1e-4])
def test_r5_penalty_that_outweighs_the_data_is_told(weight):
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))

    def loss(outputs, batch):
        size = sum(p.abs().sum() for p in model.parameters())
        return {"ce": functional.cross_entropy(outputs, batch[1]), "l1": size}

    found = titles(r5.CHECK, model, loss, (X, Y), loss_weights={"l1": weight})
    assert ("outweighs the data" in found) == (weight == 1.0)


@pytest.mark.parametrize(("stride", "is_told"), [(8, True), (3, False)])
def test_r4_stride_longer_than_the_kernel_is_told(stride, is_told):
    waves = torch.randn(64, 1, 40, generator=DRAW)
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3, stride),
        nn.Conv1d(4, 4, 1, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    found = titles(r4.CHECK, model, nn.CrossEntropyLoss(), (waves, Y[:64]))
    assert ("steps over most of its input" in found) == is_told


@pytest.mark.parametrize(("offset", "is_told"), [(6.0, True), (0.0, False)])
def test_r1_targets_filled_with_zero_are_told(offset, is_told):
    targets = X[:, :1] + offset
    targets[::5] = 0.0
    found = titles(r1.CHECK, nn.Linear(4, 1), nn.MSELoss(), (X, targets))
    assert ("filled with 0" in found) == is_told


@pytest.mark.parametrize("padding", [9, 0])
def test_r3_end_token_that_pads_as_well_is_told(padding):
    lengths = torch.randint(2, 9, (64,), generator=DRAW).tolist()
    end = torch.tensor([9])
    texts = [
        torch.cat([torch.randint(1, 9, (n,), generator=DRAW), end]) for n in lengths
    ]

    def collate(rows):
        ids = nn.utils.rnn.pad_sequence(rows, True, padding_value=padding)
        return {"ids": ids, "labels": ids.masked_fill(ids == padding, -100)}

    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10))
    found = titles(
        r3.CHECK,
        model,
        lambda out, b: functional.cross_entropy(out.mT, b["labels"]),
        texts,
        collate=collate,
        forward=lambda model, batch: model(batch["ids"]),
    )
    assert ("end token is masked" in found) == (padding == 9)


@pytest.mark.parametrize("is_inverted", [True, False])
def test_r5_mask_that_leaves_only_padding_of_a_signal_is_told(is_inverted):
    lengths = torch.randint(3, 12, (64,), generator=DRAW).tolist()
    rides = [torch.randn(count, 2, generator=DRAW) for count in lengths]

    def collate(rows):
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = torch.arange(x.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
        return {"x": x, "mask": (~real if is_inverted else real).float()}

    def loss(outputs, batch):
        error = (outputs - batch["x"].sum(-1, keepdim=True)).square().squeeze(-1)
        return (error * batch["mask"]).sum() / batch["mask"].sum().clamp(min=1)

    forward = {"forward": lambda model, batch: model(batch["x"])}
    found = titles(r5.CHECK, nn.Linear(2, 1), loss, rides, collate=collate, **forward)
    assert ("only padding counts in the loss" in found) == is_inverted


class Placed(nn.Module):
    """Adds a position table along the time axis, or along the batch by mistake."""

    def __init__(self, axis):
        super().__init__()
        self.axis, self.head = axis, nn.Linear(3, 2)
        self.table = nn.Parameter(torch.randn(64, 3))

    def forward(self, x):
        places = self.table[: x.shape[self.axis]]
        x = x + (places[:, None] if self.axis == 0 else places[None])
        return self.head(x.tanh()).mean(1)


@pytest.mark.parametrize("axis", [0, 1])
def test_r4_positions_along_the_batch_are_told(axis):
    waves = torch.randn(64, 7, 3, generator=DRAW)
    data = waves, Y[:64]
    found = titles(r4.CHECK, Placed(axis), nn.CrossEntropyLoss(), data)
    assert ("depends on its place in the batch" in found) == (axis == 0)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_r6_hooks_that_cut_one_sign_are_told(low):
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: grad.clamp(min=low, max=1.0))
    found = titles(r6.CHECK, model, nn.CrossEntropyLoss(), (X, Y))
    assert ("gradients of one sign" in found) == (low == 0.0)


@pytest.mark.parametrize("is_itself", [True, False])
def test_r5_view_that_is_compared_with_itself_is_told(is_itself):
    views = X + 0.1, X - 0.1

    def loss(outputs, batch):
        one, two = outputs
        scores = one @ (one if is_itself else two).T
        return functional.cross_entropy(scores, torch.arange(len(one)))

    def forward(model, batch):
        return model(batch[0]), model(batch[1])

    found = titles(r5.CHECK, nn.Linear(4, 6), loss, views, forward=forward)
    assert ("'1' is ignored by the loss" in found) == is_itself


@pytest.mark.parametrize("is_masked", [True, False])
def test_r5_tokens_to_be_guessed_that_stand_in_the_input_are_told(is_masked):
    ids = torch.randint(1, 12, (64, 12), generator=DRAW)
    drawn = torch.rand(64, 12, generator=DRAW) < 0.25
    labels = ids.masked_fill(~drawn, -100)
    data = {"ids": ids.masked_fill(drawn, 0) if is_masked else ids, "labels": labels}
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Embedding(12, 16), block, nn.Linear(16, 12))
    found = titles(
        r5.CHECK,
        model,
        lambda out, b: functional.cross_entropy(out.mT, b["labels"]),
        data,
        forward=lambda model, batch: model(batch["ids"]),
        count_targets=lambda batch: (batch["labels"] != -100).sum(),
    )
    assert ("they are not masked" in found) != is_masked
