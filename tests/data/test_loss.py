"""What a loss returned, and the sentence when it is not a scalar tensor."""

from __future__ import annotations

import pytest
import torch

from nbutils.data.loss import checked_terms
from nbutils.errors import ContractError


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, "the loss is None.*`return`"),
        ((torch.ones(()), torch.ones(3)), "the loss is a tuple of 2.*loss alone"),
        (1.5, r"the loss is 1\.5 \(float\).*\.item\(\)"),
        ({"ce": torch.ones(()), "kl": None}, "loss term 'kl' is None"),
    ],
)
def test_checked_terms_odd_result_says_what_to_return(result, told):
    with pytest.raises(ContractError, match=told):
        checked_terms(result)
