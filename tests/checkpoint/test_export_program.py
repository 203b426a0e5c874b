"""``torch.export``: read back, compared at several sizes, refused in one sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.checkpoint.export import Call, export_model
from nbutils.errors import ConfigError, ContractError
from nbutils.testing import make_task

FORMAT = ("torch_export",)
SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 8, "preflight": "skip"}


class Net(nn.Module):
    """Several inputs and outputs, dropout and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, batch, scale=None):
        y = self.drop(self.norm(self.layer(batch["x"]))) * batch["w"][:, None]
        y = y if scale is None else y * scale[:, None]
        return {"logits": y, "more": (y.sum(1), y.argmax(1))}


def batch_of(size: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(size, 3), "w": torch.rand(size)}


def load(path: Path) -> Any:
    return torch.export.load(path).module()


@pytest.mark.parametrize("size", [1, 5])
def test_program_takes_any_batch_and_gives_what_the_model_gives(tmp_path, size: int):
    model = Net()
    model(batch_of(6))  # statistics that are not the initial ones
    exported = export_model(model, batch_of(size), tmp_path, FORMAT)
    assert exported.parity["torch_export"] < 1e-6
    assert not exported.notes
    assert model.training
    assert all(module.training for module in model.modules())
    program, model = load(exported["torch_export"]), model.eval()
    for other in (1, 2, 11):
        batch = batch_of(other)
        found, expected = program(batch), model(batch)
        assert torch.allclose(found["logits"], expected["logits"], atol=1e-6)
        assert torch.equal(found["more"][1], expected["more"][1])


def test_program_several_arguments_go_by_position_and_name(tmp_path: Path):
    model = Net().eval()
    call = Call(args=(batch_of(4),), kwargs={"scale": torch.rand(4)}, size=4)
    exported = export_model(model, call, tmp_path, FORMAT)
    assert not exported.notes
    batch, scale = batch_of(7), torch.rand(7)
    found = load(exported["torch_export"])(batch, scale=scale)
    assert torch.allclose(found["logits"], model(batch, scale=scale)["logits"])


@pytest.mark.parametrize("name", ["torch_export", "torch.export"])
def test_program_is_found_under_the_name_it_was_asked_for(tmp_path: Path, name: str):
    exported = export_model(nn.Linear(3, 2), torch.randn(4, 3), tmp_path, (name,))
    assert exported[name] == tmp_path / "model.pt2"
    assert exported.sizes[name] == exported[name].stat().st_size


def test_program_holds_no_data_and_no_path(tmp_path: Path):
    secret = torch.full((4, 3), 1234.5)
    exported = export_model(nn.Linear(3, 2), secret, tmp_path, FORMAT)
    with zipfile.ZipFile(exported["torch_export"]) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert secret[0].numpy().tobytes() not in content
    assert str(Path(__file__).parent).encode() not in content
    assert b"site-packages" not in content


def test_program_of_one_size_says_so(tmp_path: Path):
    class Fixed(nn.Linear):
        def forward(self, x):
            return super().forward(x).reshape(5, 2)

    exported = export_model(Fixed(3, 2), torch.randn(5, 3), tmp_path, FORMAT)
    (note,) = exported.notes
    assert "exactly these sizes" in note
    assert note in str(exported)
    assert note.split(":")[0] in exported._repr_html_()
    assert load(exported["torch_export"])(torch.randn(5, 3)).shape == (5, 2)


def test_program_without_batch_axis_is_of_one_size(tmp_path: Path):
    exported = export_model(nn.Identity(), torch.tensor(2.0), tmp_path, FORMAT)
    assert "no input has the samples along its first axis" in str(exported)


def test_program_tied_and_half_weights(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(500, 8)
            self.head = nn.Linear(8, 500, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    model = Tied().bfloat16()
    exported = export_model(model, torch.randint(500, (4, 6)), tmp_path, FORMAT)
    assert exported.parity["torch_export"] == 0.0
    assert exported.sizes["torch_export"] < 1.9 * 500 * 8 * 2 + 20_000


def test_program_of_a_compiled_model_leaves_it_compiled(tmp_path: Path):
    model = nn.Sequential(nn.Linear(3, 2))
    model.compile(backend="eager")
    export_model(model, torch.randn(4, 3), tmp_path, FORMAT)
    assert model._compiled_call_impl is not None


def test_program_of_a_branch_on_data_is_refused_in_one_sentence(tmp_path: Path, capsys):
    class Branch(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match=r"'torch_export' cannot hold this Branch: "):
        export_model(Branch(3, 2), torch.randn(4, 3), tmp_path, FORMAT)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_program_random_outputs_are_refused_and_not_kept(tmp_path: Path):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    formats = ("safetensors", "torch_export")
    with pytest.raises(ContractError, match="differ from the model's by"):
        export_model(Noise(), torch.randn(4, 3), tmp_path, formats)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_program_of_a_model_that_fails_names_its_error(tmp_path: Path):
    with pytest.raises(ContractError, match=r"one forward pass of Linear .*dtype"):
        export_model(nn.Linear(3, 2).bfloat16(), torch.randn(4, 3), tmp_path, FORMAT)


class Pair(NamedTuple):
    x: torch.Tensor
    w: torch.Tensor


def test_program_unknown_container_is_refused(tmp_path: Path):
    class Product(nn.Module):
        def forward(self, batch):
            return batch.x * batch.w

    pair = Pair(torch.randn(4, 3), torch.randn(4, 3))
    with pytest.raises(ConfigError, match=r"cannot hold this Product.*Pair"):
        export_model(Product(), pair, tmp_path, FORMAT)


def test_program_and_onnx_of_a_graph_batch_are_refused_in_its_words(tmp_path: Path):
    data = pytest.importorskip("torch_geometric.data")

    class Nodes(nn.Linear):
        def forward(self, batch):
            return super().forward(batch.x)

    graph = data.Data(x=torch.randn(4, 3), edge_index=torch.tensor([[0, 1], [1, 2]]))
    batch = data.Batch.from_data_list([graph, graph])
    for name in ("torch_export", "onnx"):
        with pytest.raises(ConfigError, match=r"batch of graphs.*DataBatch"):
            export_model(Nodes(3, 2), batch, tmp_path, (name,))
    assert "safetensors" in export_model(Nodes(3, 2), batch, tmp_path)


def test_program_of_a_task_with_its_own_forward(tmp_path: Path):
    task = make_task(forward=lambda model, batch: model(batch[0]))
    run = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    exported = run.export(("torch.export",))
    assert not exported.notes
    x = torch.randn(3, 6)
    assert torch.equal(load(exported["torch.export"])(x), task.model.eval()(x))


def test_program_leaves_out_what_a_forward_does_after_the_model(tmp_path: Path):
    task = make_task(forward=lambda model, batch: model(batch[0]) * 2)
    run = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    assert "without what the task's own forward= does" in str(run.export(FORMAT))


@pytest.mark.parametrize("calls", [0, 2])
def test_program_needs_one_call_of_the_model(calls: int):
    def forward(model, batch):
        for _ in range(calls):
            model(batch[0])
        return model.forward(batch[0])

    run = nb.TrainingCoordinator(make_task(forward=forward), run_dir="a", **SETTINGS)
    with pytest.raises(ConfigError, match=f"calls the model {calls} times"):
        run.export(FORMAT)


def test_program_of_a_dict_task_and_of_best_weights():
    x, y = torch.randn(40, 3), torch.randn(40, 4)
    data = {"x": x, "w": torch.rand(40), "y": y}
    task = nb.Task(
        Net(), lambda out, b: (out["logits"] - b["y"]).pow(2).mean(), data, data
    )
    run = nb.TrainingCoordinator(task, run_dir="a", **{**SETTINGS, "epochs": 3})
    run.train()
    exported = run.export(FORMAT, weights="best")
    batch = {key: value[:5] for key, value in data.items()}
    found = load(exported["torch_export"])(batch)
    with run._weights("best"):
        assert torch.equal(found["logits"], task.model.eval()(batch)["logits"])
