"""S8: a step on fake tensors, its verdict on shapes and its memory plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from nbutils.data.task import Task
from nbutils.preflight import preflight
from nbutils.preflight import session as session_module
from nbutils.preflight.fake import optimizer_bytes
from nbutils.preflight.fake import room as room_module
from nbutils.preflight.fake.batches import batch_unread, resized
from nbutils.preflight.fake.cards import CARDS, Change, advise, card_table, fitting
from nbutils.preflight.fake.plan import MemoryPlan
from nbutils.preflight.fake.twin import Fakes, Unfakeable

GIB = 2**30


def images(count: int = 8, size: int = 16):
    return torch.randn(count, 3, size, size), torch.arange(count) % 4


def network(**wrong) -> nn.Module:
    """A small network; ``wrong`` replaces one of its sizes."""
    size = SimpleNamespace(**{"channels": 3, "flat": 8 * 14 * 14, "head": 16, **wrong})
    return nn.Sequential(
        nn.Conv2d(size.channels, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(size.flat, 16),
        nn.Linear(size.head, 4),
    )


@pytest.fixture(autouse=True)
def at_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """S8 at depth ``standard`` too, where the real model could be run instead."""
    monkeypatch.setattr(session_module, "UNREAL", frozenset())


def look(task: Task, depth: str = "static", **settings):
    report = preflight(task, depth=depth, on_failure="return", **settings)
    return next(f for f in report.findings if f.id == "S8")


def plan_of(finding) -> dict:
    return json.loads(dict(finding.details)["plan as JSON"])


class Joined(nn.Module):
    """Two branches that are put side by side; ``rows`` of the second may differ."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.left, self.right, self.head = (
            nn.Linear(6, 5), nn.Linear(6, 3), nn.Linear(8, 2),
        )  # fmt: skip
        self.axis = axis

    def forward(self, x):
        return self.head(torch.cat([self.left(x), self.right(x)], self.axis))


def regression(squeeze: bool) -> Task:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 1))
    if squeeze:
        model.append(nn.Flatten(0))
    return Task(model, nn.MSELoss(), (torch.randn(8, 6), torch.randn(8)))


def vectors(dtype: torch.dtype = torch.float32):
    return torch.ones(8, 6).to(dtype), torch.arange(8) % 2


def complex_loss(is_real: bool) -> Task:
    x = torch.randn(8, 6, dtype=torch.cfloat)
    safe = lambda out, batch: (out - batch[0]).abs().square().mean()  # noqa: E731
    wrong = lambda out, batch: F.mse_loss(out, batch[0]).abs()  # noqa: E731
    return Task(nn.Linear(6, 6, dtype=torch.cfloat), safe if is_real else wrong, x)


def vision(**wrong) -> Task:
    return Task(network(**wrong), nn.CrossEntropyLoss(), images())


PAIRS = {
    "channels": (lambda: vision(channels=1), vision, ("'0'", "in_channels=3")),
    "flattened size": (lambda: vision(flat=100), vision, ("'4'", "in_features=1568")),
    "head": (lambda: vision(head=12), vision, ("'5'", "in_features=16")),
    "concatenation": (
        lambda: Task(Joined(0), nn.CrossEntropyLoss(), vectors()),
        lambda: Task(Joined(1), nn.CrossEntropyLoss(), vectors()),
        ("torch.cat",),
    ),
    "dtype": (
        lambda: Task(nn.Linear(6, 2), nn.CrossEntropyLoss(), vectors(torch.float64)),
        lambda: Task(nn.Linear(6, 2), nn.CrossEntropyLoss(), vectors()),
        ("float32",),
    ),
    "broadcast": (
        lambda: regression(squeeze=False),
        lambda: regression(squeeze=True),
        ("(8, 8)", "squeeze"),
    ),
    "complex mean squared error": (
        lambda: complex_loss(is_real=False),
        lambda: complex_loss(is_real=True),
        ("complex", "abs()"),
    ),
    "loss not a scalar": (
        lambda: Task(
            nn.Linear(6, 2),
            lambda out, b: F.cross_entropy(out, b[1], reduction="none"),
            vectors(),
        ),
        lambda: Task(
            nn.Linear(6, 2), lambda out, b: F.cross_entropy(out, b[1]), vectors()
        ),
        ("scalar",),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_s8_fault_of_shape_fails_and_its_twin_passes(name):
    faulty, healthy, words = PAIRS[name]
    finding = look(faulty())
    assert finding.severity == "fail", finding
    assert finding.expected
    said = f"{finding.title} {finding.expected} {finding.actual} {finding.fix}"
    assert [word for word in words if word not in said] == []
    finding = look(healthy())
    assert finding.severity == "pass", finding


@pytest.mark.parametrize("name", PAIRS)
def test_s8_fault_in_a_model_without_weights_fails_at_standard_depth(name):
    faulty, healthy, _ = PAIRS[name]
    for make, severity in ((faulty, "fail"), (healthy, "pass")):
        task = make()
        task.model.to("meta")
        assert look(task, "standard").severity == severity


def test_s8_shape_error_names_module_expected_and_actual(capfd):
    finding = look(vision(head=12))
    assert "Traceback" not in capfd.readouterr().err
    assert "refuses the batch at '5'" in finding.title
    assert finding.expected == "(..., 12) at '5'"
    assert "float32 (8, 16)" in finding.actual


# -- what cannot be told is skipped, never failed --------------------------------


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(x) if x.sum() > -1e9 else self.head(-x)


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        scale = torch.from_numpy(x.detach().numpy().copy()).std().item()
        return self.head(x / scale)


class Repeated(nn.Module):
    """Picks rows by a mask, then needs as many as there are true ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        chosen = x[torch.arange(len(x)) % 2 == 0]
        return self.head(torch.cat([chosen, chosen]) + x)


@pytest.mark.parametrize("kind", [Branch, Numbers, Repeated])
def test_s8_what_depends_on_values_is_skipped_with_what_settles_it(kind):
    finding = look(Task(kind(), nn.CrossEntropyLoss(), vectors()))
    assert finding.severity == "skip"
    assert "standard" in dict(finding.details)["what settles it"]


@pytest.mark.parametrize("kind", [Branch, Numbers, Repeated])
def test_s8_small_model_without_a_fake_twin_is_measured_instead(kind):
    finding = look(Task(kind(), nn.CrossEntropyLoss(), vectors()), "standard")
    assert finding.severity == "pass"
    assert "measured" in dict(finding.details)


def test_s8_scripted_code_is_skipped(monkeypatch):
    monkeypatch.setattr(torch.jit, "ScriptModule", nn.ReLU)  # scripting is deprecated
    finding = look(vision())
    assert finding.severity == "skip"
    assert "compiled code" in finding.title


def test_s8_static_without_contract_reads_nothing_and_says_what_settles_it():
    class Unread(Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index):
            raise AssertionError("a sample was read")

    finding = look(Task(nn.Linear(6, 2), nn.CrossEntropyLoss(), Unread()))
    assert finding.severity == "skip"
    assert "contract" in dict(finding.details)["what settles it"]
    declared = {"0": "float32 (B, 6)", "1": "int64 (B,)"}
    for width, severity in ((6, "pass"), (7, "fail")):
        model = nn.Linear(width, 2)
        task = Task(model, nn.CrossEntropyLoss(), Unread(), contract=declared)
        assert look(task).severity == severity


def test_s8_contract_with_an_open_size_is_skipped():
    task = vision()
    batch, reason = batch_unread(task, 4)
    assert reason == "the tensors that the data is made of"
    assert [tuple(t.shape) for t in batch] == [(4, 3, 16, 16), (4,)]
    task = Task(
        network(), nn.CrossEntropyLoss(), [images()], contract={"0": "float32 (B, T)"}
    )
    assert batch_unread(task, 4) == (
        None,
        "the contract leaves the size 'T' of '0' open",
    )


def test_resized_keeps_containers_and_texts_in_step():
    batch = {"x": torch.zeros(4, 2), "name": list("abcd"), "scale": torch.zeros(3)}
    small = resized(batch, 4, 2)
    assert small["x"].shape == (2, 2)
    assert small["name"] == ["a", "b"]
    assert small["scale"].shape == (3,)
    assert resized({"scale": torch.zeros(3)}, 4, 2) is None


# -- healthy models of many kinds ------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.full((9, 9), float("-inf")).triu(1))
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids), src_mask=self.mask)).mean(1)


def tied() -> Task:
    ids = torch.randint(50, (8, 9))
    return Task(Tied(), nn.CrossEntropyLoss(), (ids, ids[:, 0]))


def dict_outputs() -> Task:
    return Task(
        nn.Linear(6, 2),
        lambda out, b: {
            "a": F.cross_entropy(out["x"], b[1]),
            "b": out["x"].abs().mean(),
        },
        vectors(),
        forward=lambda model, b: {"x": model(b[0])},
    )


def frozen_backbone() -> Task:
    task = vision()
    task.model[0].requires_grad_(False)
    return task


def normed_weight() -> Task:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2)),
    )
    return Task(model, nn.CrossEntropyLoss(), vectors())


def closed_over() -> Task:
    """Functions that reach the model by name, not by argument."""
    model = nn.Linear(6, 2)

    def loss(outputs, batch):
        penalty = sum(p.square().sum() for p in model.parameters())
        return F.cross_entropy(outputs, batch[1]) + 1e-3 * penalty

    return Task(model, loss, vectors(), forward=lambda _, b: model(b[0]))


HEALTHY = {
    "recurrent": lambda: Task(
        Recurrent(), nn.CrossEntropyLoss(), (torch.randn(8, 5, 6), torch.arange(8) % 2)
    ),
    "tied": tied,
    "dict_outputs": dict_outputs,
    "frozen_backbone": frozen_backbone,
    "normed_weight": normed_weight,
    "closed_over": closed_over,
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("depth", ["static", "standard"])
def test_s8_healthy_model_passes(name, depth):
    finding = look(HEALTHY[name](), depth)
    assert finding.severity == "pass", finding


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0",
        "swin_tiny_patch4_window7_224", "mixer_s16_224", "eva02_tiny_patch14_224",
    ],
)  # fmt: skip
def test_s8_timm_family_passes_without_weights(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=4)
    contract = {"0": "float32 (B, 3, 224, 224)", "1": "int64 (B,)"}
    task = Task(model, nn.CrossEntropyLoss(), [images()], contract=contract)
    finding = look(task, batch_size=4)
    assert finding.severity == "pass", finding
    assert dict(finding.details)["output"] == "float32 (4, 4)"


@pytest.mark.parametrize("kind", ["GCNConv", "GATv2Conv", "SAGEConv"])
def test_s8_graph_network_passes(kind):
    pyg = pytest.importorskip("torch_geometric")
    from torch_geometric import nn as layers

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = getattr(layers, kind)(4, 8), nn.Linear(8, 2)

        def forward(self, graph):
            x = self.conv(graph.x, graph.edge_index).relu()
            return self.head(layers.global_mean_pool(x, graph.batch))

    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    data = [
        pyg.data.Data(x=torch.randn(3, 4), edge_index=edges, y=torch.tensor([i % 2]))
        for i in range(8)
    ]
    task = Task(Net(), lambda out, graph: F.cross_entropy(out, graph.y), data)
    finding = look(task, "standard")
    assert finding.severity == "pass", finding
    assert "measured" not in dict(finding.details)
    task.model.to("meta")
    assert look(task, "standard").severity == "pass"


# -- nothing is changed ----------------------------------------------------------


def test_s8_leaves_task_hooks_gradients_and_generators_as_found():
    kept: list[torch.Tensor] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.last = nn.Linear(6, 2), None
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.last = x
            self.count += 1
            return F.dropout(self.head(x), 0.5, self.training)

    def loss(outputs, batch):
        kept.append(outputs)
        return F.cross_entropy(outputs, batch[1])

    model = Counting()
    model.head.register_forward_hook(lambda m, i, out: kept.append(out))
    model.head.weight.grad = torch.ones(2, 6)
    task = Task(model, loss, vectors(), forward=lambda _, b: model(b[0]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters, grad = list(model.parameters()), model.head.weight.grad
    state = torch.get_rng_state()
    assert look(task).severity == "pass"
    assert kept == []
    assert model.last is None
    assert model.head.weight.grad is grad
    assert model.head.bias.grad is None
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model(torch.ones(1, 6)).shape == (1, 2)


# -- the plan --------------------------------------------------------------------


def mlp(width: int = 64) -> Task:
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    x = torch.randn(64, width)
    return Task(model, lambda out, b: out.square().mean(), x)


def test_plan_counts_each_part():
    plan = plan_of(look(mlp(), batch_size=32, ema_decay=0.9))["device"]
    weights = 2 * (64 * 64 + 64) * 4
    assert plan["weights"] == plan["gradients"] == plan["ema"] == weights
    assert plan["optimizer"] == 2 * weights + 4 * 4
    # Kept: the first layer's output through ReLU, the output (square), and the loss.
    assert plan["activations"] == pytest.approx(2 * 32 * 64 * 4, rel=0.3)
    assert plan["total"] > 4 * weights


@pytest.mark.parametrize(
    ("optimizer", "share"), [("adamw", 8.0), ("sgd", 4.0), ("adamw8bit", 2.03)]
)
def test_optimizer_bytes_per_parameter(optimizer, share):
    parameters = [nn.Parameter(torch.empty(1000, 1000, device="meta"))]
    assert optimizer_bytes(optimizer, parameters) / 1e6 == pytest.approx(
        share, rel=0.01
    )
    assert optimizer_bytes("sgd", parameters, momentum=0.0) == 0
    small = [nn.Parameter(torch.empty(100, device="meta"))]
    assert optimizer_bytes("adamw8bit", small) == 800


def test_plan_takes_the_state_of_an_optimizer_of_the_task():
    task = mlp()
    task.make_optimizer = lambda model: torch.optim.Adagrad(model.parameters())
    plan = plan_of(look(task))["device"]
    assert plan["optimizer_name"] == "Adagrad"
    assert plan["optimizer"] == pytest.approx(plan["weights"], rel=0.01)


def test_plan_is_a_line_in_the_batch_that_meets_a_second_plan():
    small, large = (
        plan_of(look(vision(), batch_size=size))["device"] for size in (4, 8)
    )
    guess = MemoryPlan(**{k: v for k, v in small.items() if k != "total"}).total_at(8)
    assert guess == pytest.approx(large["total"], rel=0.1)


def test_plan_under_checkpointing_keeps_less():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
                for _ in range(6)
            )

        def forward(self, x):
            for block in self.blocks:
                x = x + block(x)
            return x

    task = Task(Deep(), lambda out, b: out.square().mean(), torch.randn(256, 32))
    plain = plan_of(look(task, batch_size=256))["device"]
    less = plan_of(look(task, batch_size=256, gradient_checkpointing=True))["device"]
    assert less["activations"] < 0.4 * plain["activations"]
    assert less["total"] < plain["total"]
    assert less["checkpointing"]


def a_plan(**changes) -> MemoryPlan:
    given = {
        "num_parameters": 10**9, "num_trainable": 10**9, "weights": 4 * GIB,
        "gradients": 4 * GIB, "optimizer": 8 * GIB, "optimizer_name": "adamw", "ema": 0,
        "activations": 8 * GIB, "step": 9 * GIB, "step_fixed": 1.0 * GIB,
        "step_per_sample": 1.0 * GIB, "batch_size": 8, "precision": "bf16",
        "device": "cuda", "checkpointing": False, "basis": "",
    }  # fmt: skip
    return MemoryPlan(**{**given, **changes})


def test_cards_that_fit_and_the_largest_batch_on_each():
    plan = a_plan()
    assert plan.total == 21 * GIB
    assert [str(card) for card in fitting(plan)][:2] == ["L4 24 GB", "A5000 24 GB"]
    lines = card_table(plan).splitlines()
    assert len(lines) == len(CARDS)
    assert "does not fit: 16.0 GiB for one sample" in lines[0]
    assert "fits; micro-batch up to about 9" in lines[1]
    larger = card_table(a_plan(step=12 * GIB)).splitlines()[1]
    assert "does not fit; micro-batch up to about 9 would" in larger
    assert plan.largest_batch(15 * GIB) == 0


def test_advice_lists_changes_by_gain_until_a_card_fits():
    plan = a_plan(
        weights=40 * GIB, gradients=40 * GIB, optimizer=80 * GIB, step=90 * GIB
    )
    changes = [
        Change("small", lambda p: a_plan(weights=200 * GIB)),
        Change("large", lambda p: a_plan(weights=140 * GIB)),
    ]
    assert advise(plan, changes).startswith("1. large: saves 53.0 GiB\nEven then 157")
    assert "sharded" in advise(plan, [])


def test_s8_real_model_beyond_this_machine_warns_and_says_what_would_fit(monkeypatch):
    from nbutils.preflight.checks.static import shapes

    monkeypatch.setattr(shapes, "memory_limit_bytes", lambda: 2**19)
    finding = look(vision(), batch_size=8)
    assert finding.severity == "warn"
    assert "512.0 KiB" in finding.expected
    assert "batch_size=" in finding.fix
    assert look(mlp(8)).severity == "pass"


def test_standard_skips_what_needs_a_model_that_does_not_fit(monkeypatch):
    task = vision()
    need = 100_000
    monkeypatch.setattr(room_module, "available_memory_bytes", lambda: need)
    report = preflight(task, on_failure="return")
    found = {f.id: f.severity for f in report.findings}
    assert {found[name] for name in ("R4", "R5", "R6")} == {"skip"}
    assert found["S8"] == "pass"
    told = next(f.title for f in report.findings if f.id == "R4")
    assert "too large for this machine" in told
    monkeypatch.undo()
    found = {f.id: f.severity for f in preflight(task).findings}
    assert {found[name] for name in ("R4", "R5", "R6")} == {"pass"}


def test_twins_keep_ties_and_refuse_lazy_modules():
    model = Tied()
    twin = Fakes(torch.device("cpu")).modules(model)[0]
    assert twin.head.weight is twin.embed.weight
    assert twin.head.weight is not model.head.weight
    assert isinstance(twin.mask, torch.Tensor)
    assert twin.mask.shape == (9, 9)
    with pytest.raises(Unfakeable, match="lazy"):
        Fakes(torch.device("cpu")).modules(nn.LazyLinear(3))


def test_s8_gives_up_on_a_walk_that_takes_too_long(monkeypatch):
    from nbutils.preflight.checks.static import shapes

    monkeypatch.setattr(shapes, "LIMIT_S", 0.0)
    finding = look(vision())
    assert finding.severity == "skip"
    assert "take too long" in finding.actual
    assert look(vision(), "standard").severity == "pass"  # measured instead


def test_s8_lazy_model_is_looked_at_once_it_has_shapes():
    task = Task(
        nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(2)),
        nn.CrossEntropyLoss(),
        vectors(),
    )
    assert look(task).severity == "skip"
    assert look(task, "standard").severity == "pass"


def test_s8_in_bf16_keeps_less_than_in_fp32():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    task = Task(model, nn.CrossEntropyLoss(), images(32, 32))
    full, half = (
        plan_of(look(task, precision=kind))["device"] for kind in ("fp32", "bf16")
    )
    assert half["activations"] < full["activations"]
    assert half["precision"] == "bf16"


@pytest.mark.parametrize("name", ["transformer", "multimodal"])
def test_s8_giant_is_planned_in_a_minute_and_3_gib(name):
    """In a process of its own, so that its memory can be told."""
    script = Path(__file__).with_name("giants.py")
    command = [sys.executable, str(script), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["parameters"] / 1e9 == pytest.approx(told["stated"], rel=0.01)
    assert told["severity"] in ("pass", "warn"), told
    assert told["seconds"] < 60
    assert told["rss_gib"] < 3
    assert told["total_gib"] > 12 * told["stated"]
    assert {"R4", "R5", "R6", "R10"} <= set(told["skipped"])


def test_s8_is_left_out_where_the_real_model_is_run(monkeypatch):
    monkeypatch.setattr(session_module, "UNREAL", frozenset({"S8"}))
    ids = {f.id for f in preflight(vision(), on_failure="return").findings}
    assert "S8" not in ids
    assert "R4" in ids
    task = vision()
    task.model.to("meta")
    ids = {f.id for f in preflight(task, on_failure="return").findings}
    assert "S8" in ids
    static = preflight(vision(), depth="static", on_failure="return")
    assert "S8" in {f.id for f in static.findings}
