"""Export of models that a format can hold in part, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

from nbutils.checkpoint.export import export_model
from nbutils.errors import ConfigError


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
