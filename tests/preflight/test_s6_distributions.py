"""S6: parameters of distributions, and outputs that are told apart by place."""

from __future__ import annotations

import pytest
import torch
from loss_tools import T, X, Y, look, mlp
from torch.distributions import Categorical, Distribution, Normal

from nbutils.data.task import Task


def normal(scale):
    def loss(outputs, batch):
        made = Normal(outputs[:, 0], scale(outputs[:, 1]), validate_args=False)
        return -made.log_prob(batch[1]).nan_to_num().mean()

    return loss


def categorical(**given):
    name, make = next(iter(given.items()))

    def loss(outputs, batch):
        made = Categorical(**{name: make(outputs)}, validate_args=False)
        return -made.log_prob(batch[1]).mean()

    return loss


@pytest.mark.parametrize(
    ("scale", "severity"), [(lambda s: s, "fail"), (torch.exp, "pass")]
)
def test_s6_scale_below_zero_fails_without_validation(scale, severity):
    finding = look(Task(mlp(2), normal(scale), (X, T)), "S6")
    assert finding.severity == severity
    if severity == "fail":
        assert "Normal gets a scale" in finding.title
        assert "softplus" in finding.fix


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"logits": lambda o: o}, ""),
        ({"probs": lambda o: o.softmax(1)}, ""),
        ({"logits": lambda o: o.softmax(1)}, "softmax before Categorical(logits=...)"),
        ({"probs": lambda o: o - 9}, "values below 0: logits?"),
    ],
)
def test_s6_logits_and_probabilities_are_told_apart(given, title):
    finding = look(Task(mlp(), categorical(**given), (X, Y)), "S6")
    assert finding.severity == ("warn" if title else "pass")
    assert title in finding.title


def test_s6_shows_outputs_that_their_place_alone_tells_apart():
    def loss(outputs, batch):
        return outputs[0].square().mean() + outputs[1].square().mean()

    built = Task(mlp(), loss, (X, Y), forward=lambda m, b: m(b[0]).chunk(2, 1))
    told = dict(look(built, "S6").details)
    assert "0, 1 have one shape" in told["outputs by position"]


def test_s6_leaves_the_classes_of_torch_as_they_were():
    before = Distribution.__init__, Categorical.__init__
    look(Task(mlp(), categorical(logits=lambda o: o), (X, Y)), "S6")
    assert (Distribution.__init__, Categorical.__init__) == before
