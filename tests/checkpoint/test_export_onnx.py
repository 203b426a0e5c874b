"""ONNX: compared in onnxruntime at several sizes, refused in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint.export import Call, export_model, onnx_file
from nbutils.errors import ConfigError, EnvironmentProblem

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

FORMAT = ("onnx",)


class Heads(nn.Module):
    """Nested outputs, dropout and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        y = self.drop(self.norm(self.layer(x)))
        return {"logits": y, "more": (y.sum(1), y.argmax(1))}


def run(path: Path, x: torch.Tensor) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": x.numpy()}), strict=True))


@pytest.mark.parametrize("size", [1, 5])
def test_onnx_takes_any_batch_and_names_its_outputs(tmp_path: Path, size: int):
    model = Heads().eval()
    exported = export_model(model, torch.randn(size, 3), tmp_path, FORMAT)
    assert exported.parity["onnx"] < 1e-5
    assert not exported.notes
    for other in (1, 9):
        x = torch.randn(other, 3)
        found, expected = run(exported["onnx"], x), model(x)
        assert list(found) == ["logits", "more_0", "more_1"]
        assert torch.allclose(
            torch.from_numpy(found["logits"]), expected["logits"], atol=1e-5
        )
        assert found["more_1"].tolist() == expected["more"][1].tolist()


def test_onnx_holds_no_path_of_this_machine(tmp_path: Path):
    exported = export_model(Heads(), torch.randn(4, 3), tmp_path, FORMAT)
    content = exported["onnx"].read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"site-packages" not in content


def test_onnx_of_one_size_says_so(tmp_path: Path):
    class Fixed(nn.Linear):
        def forward(self, x):
            return super().forward(x).reshape(5, 2)

    exported = export_model(Fixed(3, 2), torch.randn(5, 3), tmp_path, FORMAT)
    assert "onnx takes inputs of exactly these sizes only" in str(exported)
    assert run(exported["onnx"], torch.randn(5, 3))["output"].shape == (5, 2)


def test_onnx_large_weights_lie_beside_it(tmp_path: Path, monkeypatch):
    if torch.__version__ < "2.9":
        pytest.skip("the older exporter decides on its own")
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", 1000)
    model = nn.Linear(100, 50).eval()
    exported = export_model(model, torch.randn(4, 100), tmp_path, FORMAT)
    beside = tmp_path / "model.onnx.data"
    assert (
        exported.sizes["onnx"]
        == beside.stat().st_size + (tmp_path / "model.onnx").stat().st_size
    )
    x = torch.randn(2, 100)
    found = torch.from_numpy(run(exported["onnx"], x)["output"])
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"x": torch.randn(4, 3)}, "found dict"),
        (Call(args=(torch.randn(4, 3), torch.randn(4, 3))), "found 2 inputs"),
    ],
)
def test_onnx_of_several_inputs_names_the_other_format(tmp_path, inputs, found: str):
    with pytest.raises(ConfigError, match=rf"takes one tensor.*{found}") as caught:
        export_model(Heads(), inputs, tmp_path, FORMAT)
    assert "torch_export" in str(caught.value)


def test_onnx_of_outputs_that_are_no_tensors_is_refused(tmp_path: Path):
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(ConfigError, match=r"outputs are tensors.*gives NoneType"):
        export_model(Nothing(), torch.randn(4, 3), tmp_path, FORMAT)


def test_onnx_of_a_format_the_runtime_lacks_is_refused_and_not_kept(tmp_path: Path):
    model, inputs = nn.Linear(3, 2).bfloat16(), torch.randn(4, 3).bfloat16()
    with pytest.raises(ConfigError, match="'onnx' cannot hold this Linear"):
        export_model(model, inputs, tmp_path, ("safetensors", "onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_onnx_without_its_packages_gives_the_pip_line(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EnvironmentProblem, match="pip install onnx onnxscript"):
        export_model(Heads(), torch.randn(4, 3), tmp_path, FORMAT)


def test_onnx_failure_keeps_the_file_of_an_earlier_export(tmp_path: Path):
    exported = export_model(Heads(), torch.randn(4, 3), tmp_path, FORMAT)
    before = exported["onnx"].read_bytes()

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(nb.ContractError, match="was not kept"):
        export_model(Noise(), torch.randn(4, 3), tmp_path, FORMAT)
    assert exported["onnx"].read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
