"""The update's short cuts give what the long way gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm

import nbutils as nb
from nbutils.train.precision import Precision
from nbutils.train.update import HostUpdate, drop_gradients, total_norm


@pytest.mark.parametrize(
    "dtypes",
    [
        [torch.float32] * 3,
        [torch.float32, torch.float64, torch.float32],
        [torch.bfloat16] * 2,
    ],
)
def test_total_norm_has_the_bits_of_torch(dtypes: list[torch.dtype]) -> None:
    torch.manual_seed(0)
    grads = [torch.randn(5, 3).to(dtype) for dtype in dtypes]
    ours, theirs = total_norm(grads), get_total_norm(grads)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)


def test_total_norm_of_a_tensor_subclass_goes_the_long_way() -> None:
    class Named(torch.Tensor):
        pass

    grads = [torch.ones(4).as_subclass(Named), torch.zeros(1).as_subclass(Named)]
    assert total_norm(grads).item() == 2.0


def test_drop_gradients_asks_an_optimizer_with_its_own_way() -> None:
    class Counting(torch.optim.SGD):
        calls = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.calls += 1
            super().zero_grad(set_to_none)

    plain, own = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizers = (
        torch.optim.SGD(plain.parameters(), 0.1),
        Counting(own.parameters(), 0.1),
    )
    for model, optimizer in zip((plain, own), optimizers, strict=True):
        model(torch.ones(1, 2)).sum().backward()
        drop_gradients(optimizer)
        assert all(p.grad is None for p in model.parameters())
    assert optimizers[1].calls == 1


def test_update_refused_flag_is_not_shared_between_outcomes() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    precision = Precision("fp32", torch.device("cpu"))
    update = HostUpdate(optimizer, precision, nb.RunConfig().guard, None)
    flags = []
    for value in (1.0, float("inf"), 1.0):
        loss = model(torch.ones(1, 1)).sum() * value
        loss.backward()
        flags.append(update(loss.detach())[1])
    assert [flag.item() for flag in flags] == [0.0, 1.0, 0.0]
