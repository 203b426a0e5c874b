"""R5: what stands right before a loss, and where its arguments lie."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_tools import T, X, Y, generator, look, mlp
from torch import nn

from nbutils.data.task import Task
from nbutils.preflight.origins import Origins
from nbutils.preflight.watch import Recorder

CE = nn.CrossEntropyLoss()


def picked(outputs, batch):
    """A cross-entropy written by hand."""
    rows = torch.arange(len(outputs))
    return -outputs.log_softmax(1)[rows, batch[1]].mean()


def binary(outputs, batch):
    return F.binary_cross_entropy_with_logits(outputs[:, 0], (batch[1] > 1).float())


def dice(outputs, batch):
    shares, wanted = outputs.sigmoid(), F.one_hot(batch[1], 4)
    return 1 - 2 * (shares * wanted).sum() / (shares.sum() + len(outputs))


def divergence(outputs, batch):
    wanted = F.one_hot(batch[1], 4).float()
    return F.kl_div(outputs, wanted, reduction="batchmean")


def squares(outputs, batch):
    return (outputs - batch[1]).square().mean()


COLUMN = (X, T[:, None])
FAULTS = {
    "softmax before cross-entropy: the loss wants logits": lambda: Task(
        mlp(4, nn.Softmax(1)), CE, (X, Y)
    ),
    "softmax before log_softmax: softmax is applied twice": lambda: Task(
        mlp(4, nn.Softmax(1)), picked, (X, Y)
    ),
    "sigmoid before BCE-with-logits: the loss wants logits": lambda: Task(
        mlp(1, nn.Sigmoid()), binary, (X, Y)
    ),
    "sigmoid is applied twice": lambda: Task(mlp(4, nn.Sigmoid()), dice, (X, Y)),
    "ReLU before cross-entropy": lambda: Task(mlp(4, nn.ReLU()), CE, (X, Y)),
    "tanh before cross-entropy": lambda: Task(mlp(4, nn.Tanh()), CE, (X, Y)),
    "nll_loss gets logits": lambda: Task(mlp(), nn.NLLLoss(), (X, Y)),
    "nll_loss gets probabilities": lambda: Task(
        mlp(4, nn.Softmax(1)), nn.NLLLoss(), (X, Y)
    ),
    "nll_loss gets a log_softmax over axis 0": lambda: Task(
        mlp(4, nn.LogSoftmax(0)), nn.NLLLoss(), (X, Y)
    ),
    "kl_div gets probabilities": lambda: Task(
        mlp(4, nn.Softmax(1)), divergence, (X, Y)
    ),
    "kl_div gets logits": lambda: Task(mlp(), divergence, (X, Y)),
    "targets lie where ReLU cannot reach": lambda: Task(
        mlp(1, nn.ReLU()), nn.MSELoss(), COLUMN
    ),
    "targets lie where sigmoid cannot reach": lambda: Task(
        mlp(1, nn.Sigmoid()), squares, COLUMN
    ),
    "targets lie where tanh cannot reach": lambda: Task(
        mlp(1, nn.Tanh()), nn.L1Loss(), COLUMN
    ),
    "softmax over a single output is always 1": lambda: Task(
        mlp(1, nn.Softmax(1)), nn.BCELoss(), (X, (Y > 1).float()[:, None])
    ),
    "targets of a binary cross-entropy lie outside 0 to 1": lambda: Task(
        mlp(1), nn.BCEWithLogitsLoss(), (X, (Y > 1).float()[:, None] * 2 - 1)
    ),
    "soft margin loss gets labels 0 and 1": lambda: Task(
        mlp(1), nn.SoftMarginLoss(), (X, (Y > 1).float()[:, None])
    ),
    "soft targets of cross-entropy do not sum to 1": lambda: Task(
        mlp(), CE, (X, (X[:, :4] > 0).float())
    ),
    "poisson_nll_loss gets a rate": lambda: Task(
        mlp(1, nn.Softplus()), nn.PoissonNLLLoss(), (X, Y.float()[:, None])
    ),
}


@pytest.mark.parametrize("title", FAULTS)
def test_r5_wrong_input_of_a_loss_warns_by_name(title):
    finding = look(FAULTS[title](), "R5")
    assert finding.severity == "warn"
    assert title in finding.title
    assert finding.fix


def focal(outputs, batch):
    logs = outputs.log_softmax(1)
    return F.nll_loss((1 - logs.exp()) ** 2 * logs, batch[1])


def masked(outputs, batch):
    each = F.binary_cross_entropy_with_logits(outputs, batch[1], reduction="none")
    return (each * (batch[1] >= 0)).mean()


LABELS = torch.randint(-1, 2, (48, 4), generator=generator()).float()
HEALTHY = {
    "logits": lambda: Task(mlp(), CE, (X, Y)),
    "log_softmax": lambda: Task(mlp(4, nn.LogSoftmax(1)), nn.NLLLoss(), (X, Y)),
    "log_softmax twice": lambda: Task(mlp(4, nn.LogSoftmax(1)), CE, (X, Y)),
    "log of softmax": lambda: Task(
        mlp(4, nn.Softmax(1)), lambda o, b: F.nll_loss((o + 1e-9).log(), b[1]), (X, Y)
    ),
    "sigmoid and BCE": lambda: Task(
        mlp(1, nn.Sigmoid()), nn.BCELoss(), (X, (Y > 1).float()[:, None])
    ),
    "by hand": lambda: Task(mlp(), picked, (X, Y)),
    "focal": lambda: Task(mlp(), focal, (X, Y)),
    "labels that are masked": lambda: Task(mlp(), masked, (X, LABELS)),
    "tanh of images": lambda: Task(
        mlp(6, nn.Tanh()), lambda o, b: F.mse_loss(o, b[0]), (X.clamp(-1, 1),)
    ),
    "sigmoid and shares": lambda: Task(
        mlp(1, nn.Sigmoid()), nn.MSELoss(), (X, T[:, None].sigmoid())
    ),
    "divergence": lambda: Task(mlp(4, nn.LogSoftmax(1)), divergence, (X, Y)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_r5_fitting_input_of_a_loss_passes(name):
    finding = look(HEALTHY[name](), "R5")
    assert finding.severity == "pass", finding


def test_r5_names_the_module_and_the_floor():
    finding = look(Task(mlp(4, nn.Softmax(1)), CE, (X, Y)), "R5")
    assert "'3' (Softmax)" in finding.actual
    assert "cannot fall below 0.744" in finding.actual


def test_r5_refused_arguments_are_explained():
    built = Task(mlp(1), nn.BCELoss(), (X, (Y > 1).float()[:, None]))
    finding = look(built, "R5")
    assert finding.severity == "fail"
    assert "BCEWithLogitsLoss" in finding.fix


def test_r5_cross_entropy_over_one_class_warns():
    finding = look(Task(mlp(1), CE, (X, Y * 0)), "R5")
    assert "single class" in finding.title


def test_r5_ctc_of_logits_warns_and_of_log_probabilities_passes():
    labels = torch.randint(1, 6, (24, 3), generator=generator())
    data = torch.randn(24, 12, 4, generator=generator()), labels

    def loss(outputs, batch):
        count = len(batch[1])
        lengths = torch.full((count,), 12), torch.full((count,), 3)
        return F.ctc_loss(outputs, batch[1], *lengths)

    def forward(model, batch):
        return model(batch[0])[0].transpose(0, 1)

    torch.manual_seed(0)
    built = Task(nn.LSTM(4, 6, batch_first=True), loss, data, forward=forward)
    assert "ctc_loss gets logits" in look(built, "R5").title
    built.forward_function = lambda m, b: forward(m, b).log_softmax(-1)
    assert look(built, "R5").severity == "pass"


def test_origins_follow_views_and_forget_what_is_written_into():
    x = torch.randn(4, 3)
    with Recorder() as recorder:
        shares = x.softmax(1)
        part, scaled = shares.reshape(2, 6)[0], shares * 2
        logs = shares.clamp(min=1e-6).log()
        rectified = torch.relu(x.clone())
        assert recorder.origins.of(rectified).kind == "relu"
        rectified -= 1
    of = recorder.origins.of
    assert (of(shares).kind, of(shares).dim, of(shares).width) == ("softmax", 1, 3)
    assert (of(part).kind, of(part).dim) == ("softmax", None)
    assert of(scaled) is None
    assert of(logs).kind == "log_softmax"
    assert of(rectified) is None
    assert isinstance(recorder.origins, Origins)


@pytest.mark.parametrize(
    ("change", "severity"), [("inputs", "warn"), ("weights", "warn"), ("", "pass")]
)
def test_r5_high_start_warns_where_its_cause_is_found(change, severity):
    model = mlp()
    if change == "weights":
        nn.init.normal_(model[2].weight, std=20.0)
    data = (X * 200, Y) if change == "inputs" else (X, Y)
    finding = look(Task(model, CE, data), "R5")
    assert finding.severity == severity
    if severity == "warn":
        assert "times its theoretical value" in finding.title
        assert "input '0'" in finding.actual or "weights of '2'" in finding.actual


def test_r5_scaled_cosines_and_prior_biased_heads_may_start_high():
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6, generator=generator()))

        def forward(self, x):
            return 30 * F.linear(F.normalize(x), F.normalize(self.weight))

    assert look(Task(Cosine(), CE, (X, Y)), "R5").severity == "pass"
    prior = mlp(1)
    nn.init.constant_(prior[2].bias, -8.0)
    assert look(Task(prior, binary, (X, Y)), "R5").severity == "pass"
