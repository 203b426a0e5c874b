from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from nbutils.data import Contract, collate
from nbutils.errors import ContractError


def images(size: int, edge: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(size, 3, edge, 8), torch.zeros(size).long()


def test_infer_batches_of_several_sizes_finds_symbols():
    contract = Contract.infer([images(4), images(2, edge=6)])
    assert contract.table() == [
        ("0", "float32", "(B, 3, D0, 8)"),
        ("1", "int64", "(B,)"),
    ]
    assert contract.check(images(7, edge=5)) == []


def test_infer_one_batch_takes_only_first_dims_for_the_batch():
    contract = Contract.infer([images(3)])
    assert contract.table()[0][2] == "(B, 3, 8, 8)"


def test_infer_graphs_names_nodes_and_edges():
    def batch(*sizes: int) -> Batch:
        return collate(
            [
                {"g": Data(x=torch.ones(n, 2), edge_index=torch.zeros(2, n + 1).long())}
                for n in sizes
            ]
        )

    for observed in ([batch(2, 3)], [batch(2, 3), batch(4, 5, 6)]):
        rows = {path: dims for path, _, dims in Contract.infer(observed).table()}
        assert rows["g.x"] == "(N, 2)"
        assert rows["g.edge_index"] == "(2, E)"
        assert rows["g.batch"] == "(N,)"
        assert rows["g.ptr"] == "(P,)"
        assert Contract.infer(observed).check(batch(9, 9, 9, 9)) == []


def test_infer_no_batch_raises():
    with pytest.raises(ContractError, match="no batch to infer a contract from"):
        Contract.infer([])


def test_infer_different_structure_raises():
    with pytest.raises(
        ContractError, match="batches 0 and 1 hold different tensors: b"
    ):
        Contract.infer([{"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}])


def test_infer_different_dtype_raises():
    with pytest.raises(ContractError, match="one form is expected"):
        Contract.infer([torch.ones(1), torch.ones(1).long()])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("float32 B, 3", "a dtype and dims are expected"),
        ("float31 (B)", "has dtype 'float31'"),
        ("float32 (B, -1)", "has dim '-1'"),
        ("any (..., ...)", r"'...' 2 times"),
        (5, "is 5"),
    ],
)
def test_contract_unreadable_text_raises(text, told):
    with pytest.raises(ContractError, match=told):
        Contract({"0": text})


@pytest.mark.parametrize(
    ("spec", "tensor", "told"),
    [
        (
            "float32 (B, 3, 8, 8)",
            torch.ones(2, 8, 8, 3),
            "Channels look last: use tensor.permute(0, 3, 1, 2).",
        ),
        ("int64 (B,)", torch.ones(2), "Integer labels expected"),
        ("float32 (B, 3)", torch.ones(2, 3).byte(), "float() / 255."),
        ("float32 (B, 3)", torch.ones(2, 3).double(), "Double precision"),
        ("float32 (B,)", torch.ones(2, 1), "number of dims differs"),
        ("float32 (B,)", torch.ones(2) * 1j, "Complex values"),
        ("int64 (B,)", torch.ones(2).int(), "Convert with .to(torch.int64)."),
        ("float32 (B, T, T)", torch.ones(2, 3, 4), "dim 2 is 4, expected T=3"),
        ("any (B, ..., 5)", torch.ones(2, 3, 4), "dim 2 is 4, expected 5"),
        ("any (B, ..., 5, 6)", torch.ones(2, 3), "got float32 (2, 3)"),
    ],
)
def test_check_wrong_tensor_is_told_with_a_hint(spec, tensor, told):
    (problem,) = Contract({"batch": spec}).check(tensor)
    assert problem.startswith(
        f"batch must be {Contract({'batch': spec}).specs['batch']}"
    )
    assert told in problem


def test_check_any_number_of_dims_passes():
    contract = Contract({"batch": "any (B, ..., 4)"})
    assert contract.check(torch.ones(2, 4)) == []
    assert contract.check(torch.ones(2, 3, 3, 4).long()) == []


def test_check_symbol_holds_over_tensors():
    contract = Contract({"a": "any (B, T)", "b": "any (B, T)"})
    problems = contract.check({"a": torch.ones(2, 3), "b": torch.ones(2, 4)})
    assert problems == [
        "b must be any (B, T); got float32 (2, 4) (dim 1 is 4, expected T=3)."
    ]


def test_check_missing_and_extra_tensors_are_told():
    contract = Contract.infer([{"a": torch.ones(2)}])
    missing, extra = contract.check({"b": torch.ones(2)})
    assert missing == "a must be float32 (B,); it is missing. Found: b."
    assert extra.startswith("b is float32 (2,); no tensor is expected there.")


def test_repr_shows_specs():
    assert repr(Contract({"0": "int64 (B)"})) == "Contract({'0': 'int64 (B,)'})"
