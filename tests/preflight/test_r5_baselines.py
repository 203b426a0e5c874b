"""R5: oracle, baselines and named terms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_tools import X, Y, look, mlp
from torch import nn

from nbutils.data.task import Task

DATA = (X, X[:, :3] * 100)


def relative(outputs, batch):
    """Outputs are scaled to unit norm, the truth is not."""
    error = outputs / outputs.norm().clamp(min=1e-6) - batch[1]
    return error.square().sum() / batch[1].square().sum()


def zero(batch):
    return torch.zeros_like(batch[1])


def perfect(batch):
    return batch[1]


def squares(outputs, batch):
    return F.mse_loss(outputs, batch[1])


@pytest.mark.parametrize(
    ("loss", "oracle", "baselines", "severity"),
    [
        (squares, perfect, {"zero": zero}, "pass"),
        (squares, 0.0, 1e9, "pass"),
        (lambda o, b: F.mse_loss(o, -b[1]), perfect, {"zero": zero}, "warn"),
        (squares, 1e9, {"zero": zero}, "warn"),
    ],
)
def test_r5_oracle_must_beat_the_baselines(loss, oracle, baselines, severity):
    finding = look(Task(mlp(3), loss, DATA, oracle=oracle, baselines=baselines), "R5")
    assert finding.severity == severity
    if severity == "warn":
        assert "scores worse than a trivial one" in finding.title
    else:
        assert any(label == "oracle" for label, _ in finding.details)


def test_r5_oracle_of_another_form_is_told():
    finding = look(Task(mlp(3), squares, DATA, oracle="best"), "R5")
    assert finding.severity == "warn"
    assert "a number" in finding.expected
    assert "'oracle' is 'best'" in finding.actual


def test_r5_loss_that_no_outputs_can_lower_warns_and_a_fitting_one_passes():
    def rescaled(outputs, batch):
        return relative(outputs, batch) + 0 * outputs.sum()

    finding = look(Task(mlp(3), rescaled, DATA), "R5")
    told = dict(finding.details)
    assert float(told["loss of the best constant answer"]) > 0.99
    assert float(look_level(squares, "best outputs found")) < 100


def look_level(loss, name):
    return dict(look(Task(mlp(3), loss, DATA), "R5").details)[f"loss of the {name}"]


def test_r5_term_that_rests_at_the_start_only_is_no_fault():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)

    def loss(outputs, batch):
        main = F.cross_entropy(outputs, batch[1])
        return {"main": main, "size": outputs.square().mean()}

    finding = look(Task(model, loss, (X, Y)), "R5")
    assert finding.severity == "pass"
    assert "other outputs wake it" in dict(finding.details)["term 'size'"]


def test_r5_term_that_never_wakes_warns():
    def loss(outputs, batch):
        main = F.cross_entropy(outputs, batch[1])
        return {"main": main, "aux": 0 * outputs.sum() + 1}

    finding = look(Task(mlp(), loss, (X, Y)), "R5")
    assert finding.severity == "warn"
    assert "'aux' is at rest" in finding.title


def test_r5_negative_weight_and_drowning_term_are_shown():
    def loss(outputs, batch):
        main = F.cross_entropy(outputs, batch[1])
        return {"main": main, "spread": 1e6 * outputs.square().mean()}

    finding = look(Task(mlp(), loss, (X, Y), loss_weights={"main": -1.0}), "R5")
    told = dict(finding.details)
    assert "maximised" in told["weight of 'main'"]
    assert "'spread' drowns the other terms" in told
