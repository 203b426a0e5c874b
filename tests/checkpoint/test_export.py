"""Export of models that a format can hold in part, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

import nbutils as nb
from nbutils.checkpoint.export import Example, export_model, save_weights
from nbutils.checkpoint.export.compare import difference, largest_difference
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem
from nbutils.testing import assert_same, make_task, weights


class Tied(nn.Module):
    def __init__(self, extra=None) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


class Counting(Tied):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state) -> None:
        assert state["calls"] == 3


def test_export_safetensors_tied_weights_load_with_their_own_library(tmp_path: Path):
    model, twin = Tied(), Tied()
    exported = export_model(model, torch.zeros(2, dtype=torch.int64), tmp_path)
    load_model(twin, exported["safetensors"])
    assert torch.equal(twin.head.weight, model.head.weight)
    assert not exported.notes


def test_export_safetensors_tells_what_it_leaves_out(tmp_path: Path):
    inputs = torch.zeros(2, dtype=torch.int64)
    formats = ("safetensors", "state_dict")
    exported = export_model(Counting(), inputs, tmp_path, formats)
    assert "_extra_state" in str(exported)
    state = torch.load(exported["state_dict"], weights_only=True)
    assert state["_extra_state"] == {"calls": 3}


def test_export_state_dict_odd_extra_state_is_refused(tmp_path: Path):
    model = Counting()
    model.get_extra_state = Path
    with pytest.raises(ConfigError, match=r"'state_dict'.*an object of pathlib"):
        export_model(model, None, tmp_path, ("state_dict",))


def test_export_onnx_of_complex_model_is_one_sentence(tmp_path: Path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")

    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, dtype=torch.complex64)

        def forward(self, x):
            return self.layer(x)

    inputs = torch.randn(2, 3, dtype=torch.complex64)
    with pytest.raises(ConfigError, match=r"'onnx' cannot hold this Complex") as caught:
        export_model(Complex(), inputs, tmp_path, ("onnx",))
    assert "safetensors" in str(caught.value)


def test_export_weights_of_every_number_format_come_back(tmp_path: Path):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.Parameter(torch.randn(3).half())
            self.brain = nn.Parameter(torch.randn(3).bfloat16())
            self.register_buffer("wave", torch.randn(3, dtype=torch.complex64))
            self.register_buffer("gap", torch.tensor([1.0, float("nan")]))

    formats = ("safetensors", "state_dict")
    exported = export_model(Mixed(), None, tmp_path, formats)
    assert exported.parity == {"safetensors": 0.0, "state_dict": 0.0}
    assert "safetensors" in exported._repr_html_()


@pytest.mark.parametrize(
    ("buffer", "form"),
    [
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (torch.eye(2).to_sparse(), "sparse_coo"),
    ],
)
# torch checks a sparse tensor as it loads, and says that this takes time
@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")
def test_export_safetensors_odd_tensor_is_named(tmp_path: Path, buffer, form: str):
    model = nn.Module()
    model.register_buffer("odd", buffer)
    with pytest.raises(ConfigError, match=f"'odd' is {form}.*state_dict") as caught:
        export_model(model, None, tmp_path)
    assert "'safetensors'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert "state_dict" in export_model(model, None, tmp_path, ("state_dict",))


def test_export_unknown_and_missing_formats_are_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'gguf' is unknown; expected .*torch_exp"):
        export_model(Tied(), None, tmp_path / "x", ("safetensors", "gguf"))
    with pytest.raises(ConfigError, match="formats is empty"):
        export_model(Tied(), None, tmp_path / "x", ())
    assert not (tmp_path / "x").exists()
    assert list(export_model(Tied(), None, tmp_path, "state_dict")) == ["state_dict"]


def test_export_into_a_file_says_what_to_do(tmp_path: Path):
    (tmp_path / "x").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        export_model(Tied(), None, tmp_path / "x")


def test_export_files_can_be_read_by_others(tmp_path: Path):
    path = export_model(Tied(), None, tmp_path)["safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_export_of_weights_reads_no_data(tmp_path: Path):
    def unread() -> None:
        raise OSError("the disk is gone")

    example = Example(make_task(), unread)
    model = make_task().model
    assert "safetensors" in export_model(model, example, tmp_path)
    with pytest.raises(ContractError, match="could be read: the disk is gone"):
        export_model(model, example, tmp_path, ("torch_export",))


def test_export_of_a_run_holds_the_average_and_moves_nothing():
    task = make_task()
    run = nb.TrainingCoordinator(
        task, run_dir="a", epochs=3, lr=0.05, ema_decay=0.5, preflight="skip"
    )
    run.train()
    before, generator = weights(task), torch.get_rng_state()
    path = run.export(("state_dict",))["state_dict"]
    exported = torch.load(path, weights_only=True)
    assert torch.equal(generator, torch.get_rng_state())
    assert_same(before, weights(task))
    assert not torch.equal(exported["0.weight"], before["0.weight"])
    with run._weights("last"):
        assert_same(weights(task), exported)


def test_save_weights_replaces_the_whole_file(tmp_path: Path):
    path = tmp_path / "deep" / "w.pt"
    save_weights(Tied(), path)
    model = Tied()
    save_weights(model, path)
    found = torch.load(path, weights_only=True)["embed.weight"]
    assert torch.equal(found, model.embed.weight)
    assert [file.name for file in path.parent.iterdir()] == ["w.pt"]


def test_difference_knows_shapes_kinds_and_nan():
    ones, nan = torch.ones(2), torch.tensor([float("nan"), 1.0])
    assert difference(nan, nan.clone()) == 0.0
    assert difference(ones, ones[:1]) == float("inf")
    assert difference(ones, ones.double()) == float("inf")
    assert difference(torch.tensor([1]), torch.tensor([2])) == float("inf")
    assert difference(ones, nan) != difference(ones, nan)
    assert largest_difference([ones, ones], [ones, nan]) != 0.0
    assert largest_difference([ones], []) == float("inf")
    assert difference(torch.empty(0), torch.empty(0)) == 0.0
