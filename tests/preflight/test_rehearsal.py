"""R8, R9 and R12: the run in miniature, each with seeded faults and healthy twins."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn
from torch.utils.data import IterableDataset

from nbutils.cli import main
from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.run import (
    accounting,
    accumulation,
    artifacts,
    drill,
    fresh,
)
from nbutils.preflight.session import run_checks

_SPEC = importlib.util.spec_from_file_location(
    "rehearsal_tasks", Path(__file__).with_name("tasks.py")
)
tasks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tasks)

MAY_SKIP = {
    "multi_term": {"R9"},  # draws its code
    "one_sample": {"R9"},
    "single": {"R9"},
}
CHECKS = {"R8": accounting.CHECK, "R9": accumulation.CHECK, "R12": drill.CHECK}
REHEARSED = tuple(CHECKS)


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """No exporters and fresh processes, which cost seconds."""
    monkeypatch.setattr(artifacts, "MAX_PARAMETERS", {})
    monkeypatch.setattr(fresh, "LIMIT_S", 0)


def data(count: int = 24, classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % classes


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes) -> Task:
    given = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": data()}
    return Task(**{**given, **changes})


def look(built: Task, check: str, **settings):
    config = (built.config or RunConfig()).replace(**settings)
    return run_checks(built, config, [CHECKS[check]], "rehearsal")[0]


def severities(built: Task, **settings):
    return {check: look(built, check, **settings).severity for check in CHECKS}


@pytest.mark.parametrize("name", tasks.HEALTHY)
def test_rehearsal_healthy_task_passes_in_seconds(name):
    start = time.process_time()
    found = severities(tasks.HEALTHY[name]())
    assert time.process_time() - start < 10
    odd = {(i, s) for i, s in found.items() if s != "pass"}
    odd -= {(i, "skip") for i in MAY_SKIP.get(name, ())}
    assert odd == set()


SETTINGS = [
    {"batch_size": 5, "accumulation": 3},
    {"batch_size": 24, "ema_decay": 0.9, "schedule": "cosine"},
    {"batch_size": 4, "max_steps": 2, "clip_norm": 1.0},
    {"precision": "bf16", "optimizer": "sgd", "epochs": 1, "batch_size": 2},
    {"schedule": "plateau", "batch_size": 12, "patience": 1, "max_hours": 1e-9},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_rehearsal_passes_under_other_settings(settings):
    built = task(val_data=data(9))
    assert severities(built, **settings) == dict.fromkeys(CHECKS, "pass")


def test_rehearsal_same_seed_gives_same_findings():
    def told():
        found = [look(built, check) for check in CHECKS]
        timed = ("time of a save",)
        kept = [[d for d in f.details if d[0] not in timed] for f in found]
        return [
            (f.id, f.severity, f.actual, k) for f, k in zip(found, kept, strict=True)
        ]

    built = task(val_data=data(9))
    assert told() == told()


# -- R8 ------------------------------------------------------------------------


def test_r8_healthy_counts_are_told():
    finding = look(task(), "R8", batch_size=5, accumulation=2)
    assert finding.severity == "pass"
    assert "3 optimizer steps" in finding.actual
    assert finding.expected == "24 samples in 3 windows"


class Meddling:
    """A loss that does a part of the loop's work."""

    def __init__(self, deed: str) -> None:
        self.deed = deed
        self.optimizer = self.scheduler = None

    def __call__(self, outputs, batch):
        loss = F.cross_entropy(outputs, batch[1])
        if not loss.requires_grad:
            return loss
        if self.deed == "backward":
            loss.backward(retain_graph=True)
        if self.deed == "optimizer" and self.optimizer is not None:
            self.optimizer.step()
        if self.deed == "scheduler" and self.scheduler is not None:
            self.scheduler.step()
        return loss

    def make_optimizer(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return self.optimizer

    def make_schedule(self, optimizer, planned):
        self.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        return self.scheduler


@pytest.mark.parametrize(
    ("deed", "title"),
    [
        ("backward", "6 backward passes for 3 batches"),
        ("optimizer", "6 optimizer steps for 3 windows"),
        ("scheduler", "6 scheduler steps for 3 applied updates"),
    ],
)
def test_r8_loss_that_does_the_loops_work_fails(deed, title):
    def build(loss):
        return task(
            loss=loss,
            make_optimizer=loss.make_optimizer,
            make_schedule=loss.make_schedule,
        )

    finding = look(build(Meddling(deed)), "R8", batch_size=8)
    assert finding.severity == "fail"
    assert title in finding.title
    assert look(build(Meddling("nothing")), "R8", batch_size=8).severity == "pass"


class Stream(IterableDataset):
    def __init__(self, claimed: int) -> None:
        self.claimed = claimed

    def __len__(self) -> int:
        return self.claimed

    def __iter__(self):
        return iter(list(zip(*data(16), strict=True)))


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_r8_stream_shorter_than_its_length_fails():
    finding = look(task(train_data=Stream(80)), "R8", batch_size=8)
    assert finding.severity == "fail"
    assert "10 windows" in finding.expected
    assert "2 windows" in finding.actual
    assert look(task(train_data=Stream(16)), "R8", batch_size=8).severity != "fail"


def test_r8_collate_that_drops_samples_warns():
    def collate(samples):
        kept = samples[: max(len(samples) - 1, 1)]
        return torch.stack([s[0] for s in kept]), torch.stack([s[1] for s in kept])

    finding = look(task(collate=collate), "R8", batch_size=8)
    assert finding.severity == "warn"
    assert "batches hold 21 samples, the order names 24" in finding.title


# -- R9 ------------------------------------------------------------------------


def masked_pixels():
    x, y = torch.randn(12, 6, 4), torch.randint(3, (12, 4))
    for row in range(12):
        y[row, : row % 4] = -100  # each sample counts another number of targets
    model = nn.Sequential(nn.Conv1d(6, 3, 1))
    return {"model": model, "train_data": (x, y)}


def num_kept(batch):
    return (batch[1] != -100).sum()


@pytest.mark.parametrize(("accumulation", "severity"), [(1, "pass"), (3, "warn")])
def test_r9_missing_count_of_targets_is_found(accumulation, severity):
    settings = {"batch_size": 12, "accumulation": accumulation}
    finding = look(task(**masked_pixels()), "R9", **settings)
    assert finding.severity == severity
    assert "count_targets" in finding.fix + str(finding.details)
    twin = task(**masked_pixels(), count_targets=num_kept)
    assert look(twin, "R9", **settings).severity == "pass"


def summed(outputs, batch):
    return F.cross_entropy(outputs, batch[1], reduction="sum")


def divided(outputs, batch):
    return F.cross_entropy(outputs, batch[1], reduction="none").sum() / 32


@pytest.mark.parametrize("loss", [summed, divided])
def test_r9_loss_that_is_a_sum_warns_under_accumulation(loss):
    finding = look(task(loss=loss), "R9", accumulation=2)
    assert finding.severity == "warn"
    assert "the loss is a sum over the batch" in finding.title
    assert look(task(loss=loss), "R9").severity == "pass"  # nothing is added up
    mean = task(loss=lambda outputs, batch: summed(outputs, batch) / len(outputs))
    assert look(mean, "R9", accumulation=2).severity == "pass"


def test_r9_class_weights_under_accumulation_are_left_alone():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1]))
    assert look(task(loss=loss), "R9", accumulation=4).severity == "pass"


def test_r9_padding_that_a_model_looks_at_is_left_alone():
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8, padding_idx=0)
            self.lstm = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
            self.head = nn.Linear(24, 2)

        def forward(self, tokens):
            return self.head(self.lstm(self.embed(tokens))[0].mean(1))

    samples = [(torch.randint(1, 20, (2 + n % 7,)), n % 2) for n in range(18)]
    built = task(model=Tagger(), train_data=samples, collate=tasks.pad)
    assert look(built, "R9", accumulation=3).severity == "pass"


def test_r9_is_judged_before_a_run_only_where_it_accumulates():
    def judged(**settings):
        config = RunConfig(**settings)
        return run_checks(task(loss=summed), config, [CHECKS["R9"]])[0].severity

    assert judged() == "skip"
    assert judged(accumulation=2) == "warn"


def test_r9_batch_norm_and_dropout_are_judged_in_eval_mode():
    finding = look(tasks.batch_norm_dropout(), "R9", accumulation=4)
    assert finding.severity == "pass"
    assert "eval mode" in finding.actual


def test_r9_what_cannot_be_joined_is_skipped_with_the_reason():
    declared = task(declares=("samples interact",))
    assert "samples interact" in look(declared, "R9").title
    assert "one sample" in look(task(train_data=data(1)), "R9").title

    class Pairs(nn.Linear):
        def forward(self, x):
            if len(x) % 8:
                raise ValueError("batches of 8 only")
            return super().forward(x)

    finding = look(task(model=Pairs(6, 3)), "R9", batch_size=8)
    assert finding.severity == "skip"
    assert "refuses smaller batches" in finding.title


def test_r9_loss_that_is_random_in_eval_mode_is_skipped():
    def loss(outputs, batch):
        return F.cross_entropy(outputs + torch.randn_like(outputs), batch[1])

    assert "random numbers" in look(task(loss=loss), "R9").title


def test_r8_loss_that_trains_a_part_of_its_own_passes():
    """A critic inside the loss, with an optimizer of its own."""
    critic = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(critic.parameters(), 0.1)

    def loss(outputs, batch):
        if torch.is_grad_enabled():
            optimizer.zero_grad()
            critic(outputs.detach()).square().mean().backward()
            optimizer.step()
        return F.cross_entropy(outputs, batch[1]) + critic(outputs).mean()

    finding = look(task(loss=loss), "R8", batch_size=8)
    assert finding.severity == "pass", finding
    assert "no weight of the model" in dict(finding.details)["other backward passes"]


def test_r8_scheduler_for_plateaus_passes():
    def make(optimizer, planned):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)

    built = task(val_data=data(9), make_schedule=make)
    assert look(built, "R8", batch_size=8).severity == "pass"


# -- R12 -----------------------------------------------------------------------


class Counting(nn.Linear):
    """Scales by the number of calls, which only a buffer brings back."""

    def __init__(self, *, is_saved: bool) -> None:
        super().__init__(6, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=is_saved)

    def forward(self, x):
        if self.training:
            self.calls += 1
        return super().forward(x) / (1 + self.calls)


def test_r12_state_outside_of_the_state_dict_warns_and_is_named():
    finding = look(task(model=Counting(is_saved=False)), "R12")
    assert finding.severity == "warn"
    assert "weight, bias" in finding.actual
    assert "in no state_dict: calls" in finding.actual
    assert look(task(model=Counting(is_saved=True)), "R12").severity == "pass"


class Forgetful(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "state": {}}


def test_r12_optimizer_that_forgets_its_momentum_fails():
    def build(kind):
        return task(make_optimizer=lambda m: kind(m.parameters(), 0.1, momentum=0.9))

    assert look(build(Forgetful), "R12", batch_size=8).severity == "fail"
    assert look(build(torch.optim.SGD), "R12", batch_size=8).severity == "pass"


class Secret:
    """No plain value: reading it back would execute a pickle."""


class Opaque(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "secret": Secret()}


def test_r12_state_that_cannot_be_read_back_safely_fails():
    built = task(make_optimizer=lambda m: Opaque(m.parameters(), 0.1))
    finding = look(built, "R12")
    assert finding.severity == "fail"
    assert "weights_only=True" in finding.expected
    assert "loaded back safely" in finding.actual


def test_r12_data_that_never_repeat_warn_only():
    class Drifting(torch.utils.data.Dataset):
        reads = 0

        def __len__(self) -> int:
            return 24

        def __getitem__(self, index):
            self.reads += 1
            x, y = data()
            return x[index] + 1e-3 * self.reads, int(y[index])

    finding = look(task(train_data=Drifting()), "R12", batch_size=8)
    assert finding.severity == "warn"
    assert "does not repeat itself" in finding.title


def test_r12_size_on_disk_is_told():
    details = dict(look(task(), "R12").details)
    assert details["one checkpoint on disk"].endswith("MiB")


def test_r12_run_of_one_window_is_skipped():
    assert "one window" in look(task(), "R12", max_steps=1).title


def test_r12_fresh_process_opens_the_checkpoint(monkeypatch):
    monkeypatch.setattr(fresh, "LIMIT_S", 60)
    finding = look(task(), "R12")
    assert finding.severity == "pass"
    assert "4 tensors of weights" in finding.actual
    assert ("pass", "the newest 2 of 12 saves and a copy of the best are kept") in (
        finding.details
    )


def test_r12_fresh_process_that_cannot_start_is_skipped(monkeypatch):
    monkeypatch.setattr(fresh, "LIMIT_S", 60)
    monkeypatch.setattr(fresh.sys, "executable", "/nowhere/python")
    finding = look(task(), "R12")
    assert finding.severity == "pass"
    assert any("could not be tried" in text for _, text in finding.details)


def test_r12_file_that_only_a_pickle_can_read_fails(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    from nbutils.preflight.check import Claims

    monkeypatch.setattr(fresh, "LIMIT_S", 60)
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    torch.save({"parts": Secret()}, tmp_path / "state.pt")
    claims = Claims()
    fresh.judge_fresh(tmp_path, claims)
    assert claims.worst == "fail"


def test_r12_folder_too_small_is_skipped(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 9_000))
    finding = look(
        task(make_optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1)),
        "R12",
        keep_last=1,
    )
    assert finding.severity == "skip", finding


# -- the command -----------------------------------------------------------------


def test_cli_preflight_rehearsal_runs_the_rehearsal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = ["-p", "batch_size=4", "-p", "device=cpu"]
    arguments = ["preflight", "vision/quick", "--depth", "rehearsal", *pairs]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    for check in REHEARSED:
        assert check in result.output
