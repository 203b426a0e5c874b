"""The family of a model is told by what it does, not by what it is called."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recipes import helpers_models as made
from torch import Tensor, nn

import nbutils as nb
from nbutils.recipes.attention import Attention, watch_tokens

Maker = Callable[[], nn.Module]


def wrapped_compiled() -> nn.Module:
    return torch.compile(made.Gamma())  # type: ignore[return-value]


def compiled_in_place() -> nn.Module:
    model = made.Gamma()
    model.compile()
    return model


def layers_in_a_row() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Embedding(30, 16), layer, nn.Linear(16, 30))


def unet_of_classes() -> nn.Module:
    class Chi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.e = nn.Conv2d(3, 3, 3, padding=1), nn.Embedding(10, 3)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.c(x) + self.e(y)[:, :, None, None] + t

    return Chi()


TABLE: list[tuple[str, Maker]] = [
    ("gpt", made.Gamma),
    ("gpt", lambda: made.Gamma(fused=True)),
    ("gpt", lambda: made.Gamma().bfloat16()),
    ("gpt", lambda: made.Gamma().train()),
    ("gpt", made.Delta),
    ("gpt", lambda: made.Theta(looks_back=True)),
    ("gpt", lambda: made.Theta(looks_back=True, batch_first=False)),
    ("gpt", made.Iota),
    ("gpt", lambda: made.Iota(key="a name of its own")),
    ("gpt", made.Sigma),
    ("gpt", lambda: made.Upsilon(made.Gamma())),
    ("gpt", lambda: nn.DataParallel(made.Gamma())),
    ("gpt", wrapped_compiled),
    ("gpt", compiled_in_place),
    ("bert", lambda: made.Gamma(ahead=True)),
    ("bert", lambda: made.Gamma(ahead=True, fused=True)),
    ("bert", made.Epsilon),
    ("bert", lambda: made.Theta(looks_back=False)),
    ("bert", lambda: made.Theta(looks_back=False, batch_first=False)),
    ("bert", layers_in_a_row),
    ("t5", made.Zeta),
    ("t5", lambda: made.Zeta(shifts=True)),
    ("t5", lambda: made.Eta(batch_first=True)),
    ("t5", made.Eta),
    ("t5", lambda: made.Phi(nn.Transformer(8, 2, 1, 1, batch_first=True))),
    ("vision", made.Mu),
    ("vision", lambda: made.Mu(224, 16)),
    ("vision", made.Nu),
    ("vision", lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())),
    ("vision", lambda: nn.Conv3d(1, 4, 3)),
    ("graph", made.Pi),
    ("custom", made.Kappa),
    ("custom", made.Lambda),
    ("custom", made.Tau),
    ("custom", made.Xi),
    ("custom", made.Omicron),
    ("custom", made.Rho),
    ("custom", unet_of_classes),
    ("custom", lambda: nn.Linear(2, 2)),
    ("custom", lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))),
    ("custom", lambda: made.Phi(nn.Linear(2, 2))),
    ("custom", lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())),
]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are:UserWarning")
@pytest.mark.parametrize(
    ("family", "make"), TABLE, ids=[f"{at}-{row[0]}" for at, row in enumerate(TABLE)]
)
def test_family_is_told_without_a_telling_name(family: str, make: Maker) -> None:
    assert nb.detect_model_type(make()) == family


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "convnext_atto", "resnet10t"),
        *("eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224"),
    ],
)
def test_models_of_timm_see_images(name: str) -> None:
    timm = pytest.importorskip("timm")
    assert nb.detect_model_type(timm.create_model(name)) == "vision"


def test_models_of_torchvision_see_images() -> None:
    models = pytest.importorskip("torchvision").models
    assert nb.detect_model_type(models.squeezenet1_1()) == "vision"
    backbone = {"weights": None, "weights_backbone": None}
    parts = models.segmentation.lraspp_mobilenet_v3_large(**backbone)
    assert nb.detect_model_type(parts) == "vision"


def test_graph_layers_are_graph_unless_images_come_with_them() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    assert nb.detect_model_type(geometric.GCN(5, 8, 2)) == "graph"
    layer = geometric.GPSConv(8, geometric.GINConv(nn.Linear(8, 8)), heads=2)
    assert nb.detect_model_type(layer) == "graph"
    atoms = nn.ModuleList([nn.Embedding(90, 5), geometric.GATConv(5, 4)])
    assert nb.detect_model_type(atoms) == "graph"
    cube = nn.ModuleList([geometric.GCNConv(5, 8), nn.Conv3d(1, 4, 3)])
    assert nb.detect_model_type(cube) == "custom"


class Meddler(made.Gamma):
    """Draws, prints, warns, counts and changes a buffer whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.note = [0]

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
        print("running")  # noqa: T201
        warnings.warn("it runs", UserWarning, stacklevel=1)
        torch.rand(3), np.random.rand(), random.random()
        self.calls += 1
        self.note[0] += 1
        return super().forward(idx, targets)


def test_model_and_generators_stay_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Meddler().train()
    model.bs[0].eval()
    hooked: list[int] = []
    model.e.register_forward_hook(lambda *args: hooked.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fused = torch.backends.mha.get_fastpath_enabled()
    assert nb.detect_model_type(model) == "gpt"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert model.note == [0]
    assert hooked == []
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert torch.backends.mha.get_fastpath_enabled() is fused
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert capsys.readouterr().out == ""


def test_table_that_renorms_itself_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.recipes.attention._SHARED_BYTES", 0)
    model = made.Theta(looks_back=False)
    model.e = nn.Embedding(40, 16, max_norm=0.1)
    before = model.e.weight.detach().clone()
    assert nb.detect_model_type(model) == "bert"
    assert torch.equal(model.e.weight, before)


def test_large_model_is_read_without_a_second_copy_of_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.recipes.attention._SHARED_BYTES", 0)
    assert nb.detect_model_type(made.Gamma()) == "gpt"


def test_hooks_of_torch_still_make_the_weights() -> None:
    model = made.Gamma()
    nn.utils.parametrizations.weight_norm(model.bs[0].m1.a)
    assert nb.detect_model_type(model) == "gpt"


def test_model_that_cannot_be_copied_is_told_by_its_mask_then_by_its_name() -> None:
    class Stuck(made.Iota):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not this one")

    class MyGPT(made.Kappa):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("nor this one")

    assert watch_tokens(Stuck()) is None
    assert nb.detect_model_type(Stuck()) == "gpt"
    assert nb.detect_model_type(MyGPT()) == "gpt"


def test_model_on_meta_is_told_without_running_it() -> None:
    with torch.device("meta"):
        model = made.Eta(batch_first=True)
    assert nb.detect_model_type(model) == "t5"


def test_weights_that_lie_on_several_devices_are_not_run() -> None:
    class FlatParameter(nn.Parameter):
        pass

    model = made.Gamma()
    model.out.weight = FlatParameter(model.out.weight.detach())
    assert watch_tokens(model) is None
    assert nb.detect_model_type(model) == "custom"


def test_recurrent_model_is_custom_whatever_its_name() -> None:
    class CausalDecoder(made.Kappa):
        pass

    assert nb.detect_model_type(CausalDecoder()) == "custom"


def test_scores_tell_what_attention_looks_at() -> None:
    seen = Attention()
    hidden = torch.zeros(2, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e4)
    seen.add(hidden, 5, 8)
    seen.add(torch.zeros(5, 5), 5, 8)
    seen.add(torch.zeros(4, 4), 5, 8)  # of another length: experts, for example
    seen.add(torch.zeros(1, 5), 5, 8)  # one query that pools
    seen.add(torch.zeros(5), 5, 8)
    assert (seen.is_causal, seen.is_cross) == ([True, False], False)
    seen.add(torch.zeros(3, 5), 5, 8)
    assert seen.is_cross
