"""R5: a loss minimised over the outputs alone must lead to the targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_tools import IDS, T, X, Y, look, mlp
from torch import nn

from nbutils.data.task import Task
from nbutils.preflight.free_outputs import replaced


def cross(outputs, labels):
    return F.cross_entropy(outputs, labels)


def normal(outputs, batch):
    density = torch.distributions.Normal(outputs[:, 0], outputs[:, 1].exp())
    return density.log_prob(batch[1]).mean()


def random_labels(outputs, batch):
    return cross(outputs, torch.randint(4, (len(outputs),)))


def logs(outputs, batch):
    return outputs.log_softmax(1).gather(1, batch[1][:, None]).mean()


def labelled(loss):
    return Task(mlp(), loss, (X, Y))


def valued(loss, outputs=1):
    return Task(mlp(outputs), loss, (X, T))


FAULTS = {
    ("fail", "every output is compared with every target"): lambda: valued(
        lambda o, b: (o - b[1]).square().mean()
    ),
    ("warn", "rewards being far"): lambda: valued(
        lambda o, b: -(o[:, 0] - b[1]).square().mean()
    ),
    ("warn", "rewards being far from the targets"): lambda: valued(normal, 2),
    ("warn", "the least likely one: its sign"): lambda: labelled(logs),
    ("warn", "does not look at the targets"): lambda: labelled(
        lambda o, b: cross(o, o.argmax(1))
    ),
    ("warn", "random numbers"): lambda: labelled(random_labels),
    ("warn", "looks at 1 of 32 samples"): lambda: labelled(
        lambda o, b: cross(o[:1], b[1][:1])
    ),
    ("warn", "another sample's target"): lambda: labelled(
        lambda o, b: cross(o, b[1].roll(1))
    ),
}


@pytest.mark.parametrize(("severity", "title"), FAULTS)
def test_r5_loss_that_leads_elsewhere_is_named(severity, title):
    finding = look(FAULTS[severity, title](), "R5")
    assert finding.severity == severity
    assert title in finding.title
    assert finding.fix


def pairs_in_batch(outputs, batch):
    near = F.normalize(outputs, dim=1)
    return cross(near @ near.T * 5, torch.arange(len(near)))


def by_labels(outputs, batch):
    near = F.normalize(outputs, dim=1)
    alike = (batch[1][:, None] == batch[1]).float() - torch.eye(len(near))
    shares = (near @ near.T * 5 - torch.eye(len(near)) * 1e9).log_softmax(1)
    return -(alike * shares).sum(1).div(alike.sum(1).clamp(min=1)).mean()


def hardest(outputs, batch):
    return F.cross_entropy(outputs, batch[1], reduction="none").topk(8)[0].mean()


def mixed(outputs, batch):
    other = torch.randperm(len(outputs))
    return 0.7 * cross(outputs, batch[1]) + 0.3 * cross(outputs, batch[1][other])


def reward(outputs, batch):
    policy = torch.distributions.Categorical(logits=outputs)
    action = policy.sample()
    gain = (action == batch[1]).float()
    return -(policy.log_prob(action) * (gain - gain.mean())).mean()


def correlation(outputs, batch):
    a, b = outputs[:, 0] - outputs.mean(), batch[1] - batch[1].mean()
    return 1 - (a * b).sum() / (a.norm() * b.norm() + 1e-8)


def critic(outputs, batch):
    sign = 2 * (batch[1] > 0).float() - 1
    return -(sign * outputs[:, 0]).mean() + 0.01 * outputs.square().mean()


HEALTHY = {
    "distances": lambda: labelled(lambda o, b: cross(-o.square(), b[1])),
    "contrastive": lambda: labelled(pairs_in_batch),
    "supervised contrastive": lambda: labelled(by_labels),
    "hardest samples": lambda: labelled(hardest),
    "mixup": lambda: labelled(mixed),
    "policy gradient": lambda: labelled(reward),
    "correlation": lambda: valued(correlation),
    "critic": lambda: valued(critic),
    "likelihood": lambda: valued(lambda o, b: -normal(o, b), 2),
    "counts": lambda: valued(
        lambda o, b: (o[:, 0].exp() - b[1].abs() * o[:, 0]).mean()
    ),
    "large targets": lambda: valued(lambda o, b: F.mse_loss(o[:, 0], b[1] * 1e3 + 1e4)),
    "input is the target": lambda: Task(
        mlp(6), lambda o, b: F.mse_loss(o, b[0]), (X, Y)
    ),
    "some labels": lambda: Task(
        mlp(),
        nn.CrossEntropyLoss(ignore_index=-1),
        (X, torch.where(X[:, 0] > 0, Y, -1)),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_r5_unusual_losses_that_lead_to_their_targets_pass(name):
    finding = look(HEALTHY[name](), "R5")
    assert finding.severity in ("pass", "skip"), finding


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 16)
        self.cell, self.head = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 20)

    def forward(self, ids):
        return self.head(self.cell(self.embed(ids))[0])


@pytest.mark.parametrize(
    ("outputs", "tokens", "title"),
    [
        (slice(None), slice(None), "no shift by one"),
        (slice(None, -2), slice(2, None), "shifted twice"),
        (slice(1, None), slice(None, -1), "shifted the wrong way"),
        (slice(None, -1), slice(1, None), ""),
    ],
)
def test_r5_shift_of_a_causal_language_model(outputs, tokens, title):
    def loss(given, batch):
        return cross(given[:, outputs].flatten(0, 1), batch[0][:, tokens].flatten())

    finding = look(Task(Language(), loss, IDS), "R5")
    assert finding.severity == ("warn" if title else "pass")
    assert title in finding.title


def test_r5_masked_language_model_is_not_asked_for_the_next_token():
    labels = torch.where(torch.arange(12) % 4 == 0, IDS, -100)
    built = Task(
        Language(),
        lambda o, b: F.cross_entropy(o.flatten(0, 1), b["labels"].flatten()),
        {"ids": torch.where(labels == -100, IDS, 0), "labels": labels},
        forward=lambda model, batch: model(batch["ids"].flip(1)).flip(1),
    )
    assert look(built, "R5").severity == "pass"


def padded(samples):
    pad = nn.utils.rnn.pad_sequence
    ids = pad([ids for ids, _ in samples], batch_first=True)
    tags = pad([tags for _, tags in samples], batch_first=True)
    return {"ids": ids, "tags": tags, "mask": ids != 0}


@pytest.mark.parametrize(
    ("mask", "title"),
    [
        (lambda m: m, ""),
        (lambda m: ~m, "the mask is inverted"),
        (torch.ones_like, "padding counts in the loss"),
    ],
)
def test_r5_padding_must_not_count(mask, title):
    rows = [
        (row[: 4 + i % 7] % 19 + 1, row[: 4 + i % 7] % 4) for i, row in enumerate(IDS)
    ]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4))

    def loss(outputs, batch):
        weight = mask(batch["mask"]).float().flatten()
        each = F.cross_entropy(
            outputs.flatten(0, 1), batch["tags"].flatten(), reduction="none"
        )
        return (each * weight).sum() / weight.sum()

    built = Task(
        model, loss, rows, collate=padded, forward=lambda m, batch: m(batch["ids"])
    )
    finding = look(built, "R5")
    assert finding.severity == ("warn" if title else "pass")
    assert title in finding.title


def test_replaced_changes_one_tensor_of_a_nested_batch():
    batch = {"a": (torch.zeros(2), torch.ones(2)), "b": torch.zeros(2)}
    other = replaced(batch, "a.1", torch.full((2,), 7.0))
    assert other["a"][1].tolist() == [7, 7]
    assert batch["a"][1].tolist() == [1, 1]
    assert other["b"] is batch["b"]
