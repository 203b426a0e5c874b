"""Each check against a seeded fault that turns it red, beside its healthy twin."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from nbutils.data.task import Task
from nbutils.preflight import preflight
from nbutils.preflight.checks.static import amounts


def data(count: int = 24, classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % classes


def net(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes))


def task(**changes) -> Task:
    given = {
        "model": net(), "loss": nn.CrossEntropyLoss(), "train_data": data(),
        "val_data": data(9),
    }  # fmt: skip
    return Task(**{**given, **changes})


def look(built: Task, check: str, **settings):
    """The finding of one check."""
    report = preflight(built, on_failure="return", **settings)
    finding = next(f for f in report.findings if f.id == check)
    assert report.passed == all(f.severity != "fail" for f in report.findings)
    if finding.severity == "fail":
        assert finding.expected
        assert finding.actual
        assert report.findings[0].severity == "fail"
    return finding


class Rows(Dataset):
    """Samples made by a function of the index."""

    def __init__(self, make, count: int = 12) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        return self.make(index)


# -- S1 and R14 ----------------------------------------------------------------


def test_s1_device_that_is_absent_fails():
    finding = look(task(), "S1", device="cuda:7", depth="static")
    assert finding.severity == "fail"
    assert "cuda:7" in finding.title


def test_r14_disk_too_small_fails_with_numbers(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 100, 100))
    finding = look(task(), "R14", depth="static")
    assert finding.severity == "fail"
    assert "100 B free" in finding.actual
    assert "keep_last" in finding.fix


def test_r14_run_directory_that_is_a_file_fails(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")
    assert look(task(), "R14", runs_dir=str(taken)).severity == "fail"


def test_r14_nothing_trainable_fails():
    built = task(model=net().requires_grad_(False))
    finding = look(built, "R14", depth="static")
    assert finding.severity == "fail"
    assert "none trainable" in finding.actual


def test_r14_time_limit_shorter_than_the_plan_warns():
    finding = look(task(), "R14", max_hours=1e-9)
    assert finding.severity == "warn"


def test_r14_healthy_tells_time_and_parameters():
    finding = look(task(), "R14")
    assert finding.severity == "pass"
    assert "samples/s" in finding.actual
    assert "83 parameters" in finding.actual


# -- R2 ------------------------------------------------------------------------


def test_r2_samples_of_two_shapes_fail():
    built = task(train_data=Rows(lambda i: (torch.randn(6 + (i == 5)), 0)))
    finding = look(built, "R2")
    assert finding.severity == "fail"
    assert "sample 5" in finding.actual


def test_r2_random_validation_transform_warns():
    x, y = data()
    val = Rows(lambda i: (x[i] + torch.randn(6), int(y[i])))
    finding = look(task(val_data=val), "R2")
    assert finding.severity == "warn"
    assert "'0'" in finding.actual


def test_r2_random_train_transform_passes():
    x, y = data()
    train = Rows(lambda i: (x[i] + torch.randn(6), int(y[i])))
    assert look(task(train_data=train), "R2").severity == "pass"


def test_r2_unreadable_sample_fails_with_the_users_line():
    def make(index):
        if index == 7:
            raise OSError("broken file 7.png")
        return torch.randn(6), 0

    finding = look(task(train_data=Rows(make)), "R2")
    assert finding.severity == "fail"
    assert "broken file 7.png" in finding.actual
    assert "test_faults.py" in finding.actual
    assert "train[7]" in finding.actual


def test_r2_none_instead_of_a_sample_fails():
    rows = Rows(lambda i: None if i == 3 else (torch.randn(6), 0))
    assert "sample 3" in look(task(train_data=rows), "R2").title


def test_r2_other_size_in_val_warns():
    model = nn.Sequential(nn.AdaptiveAvgPool1d(6), net())
    val = (torch.randn(9, 12), torch.arange(9) % 3)
    assert look(task(model=model, val_data=val), "R2").severity == "warn"


CONFIG = {"input_size": (1, 2, 3), "mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize(
    ("image", "severity"),
    [
        (torch.rand(24, 1, 2, 3) * 2 - 1, "pass"),
        (torch.rand(24, 1, 2, 3), "warn"),
        (torch.rand(24, 1, 2, 3) * 255, "fail"),
        (torch.rand(24, 1, 3, 2) * 2 - 1, "fail"),
    ],
)
def test_r2_input_against_the_models_data_config(image, severity):
    built = task(
        model=nn.Sequential(nn.Flatten(), net()), val_data=None,
        train_data=(image, data()[1]), extras={"data_config": CONFIG},
    )  # fmt: skip
    assert look(built, "R2").severity == severity


# -- R3 ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_r3_value_not_finite_fails_with_the_sample(bad):
    x, y = data(60)
    x[41, 2] = bad
    finding = look(task(train_data=(x, y)), "R3")
    assert finding.severity == "fail"
    assert "train[41]" in finding.actual


def test_r3_broken_contract_fails_with_both_forms():
    built = task(contract={"0": "float32 (B, 7)", "1": "int64 (B,)"})
    finding = look(built, "R3")
    assert finding.severity == "fail"
    assert "(B, 7)" in finding.expected
    assert "(24, 6)" in finding.actual


def test_r3_kept_contract_passes():
    built = task(contract={"0": "float32 (B, F)", "1": "int64 (B,)"})
    assert look(built, "R3").severity == "pass"


def test_r3_constant_input_warns():
    assert (
        look(task(train_data=(torch.ones(24, 6), data()[1])), "R3").severity == "warn"
    )


def test_r3_batch_dimension_lost_at_size_one_is_told_only():
    def squeeze(samples):
        x = torch.stack([s[0] for s in samples])
        return x.squeeze(0), torch.tensor([int(s[1]) for s in samples])

    finding = look(task(collate=squeeze), "R3")
    assert finding.severity == "pass"  # model and loss take it all the same
    assert "differ in form" in str(finding.details)


# -- R4 ------------------------------------------------------------------------


def test_r4_wrong_width_fails_and_names_the_module():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(9, 3))
    finding = look(task(model=model), "R4")
    assert finding.severity == "fail"
    assert "'1'" in finding.actual
    assert "float32 (24, 8)" in finding.actual


def test_r4_label_outside_the_head_fails():
    x, y = data(40, classes=3)
    y[33] = 3
    finding = look(task(train_data=(x, y)), "R4")
    assert finding.severity == "fail"
    assert "label 3 is outside the head: 3 outputs" in finding.actual


def test_r4_rare_label_outside_the_head_fails_with_the_sample():
    x, y = data(40)
    y[39] = 7
    finding = look(task(train_data=(x, y)), "R4", batch_size=4)
    assert "train[39]" in finding.actual or "first batch" in finding.actual


def test_r4_token_outside_the_embedding_fails():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    ids = torch.arange(24 * 3).reshape(24, 3) % 6
    built = task(model=model, train_data=(ids, data()[1]), val_data=None)
    finding = look(built, "R4")
    assert finding.severity == "fail"
    assert "index 5 is outside an embedding of 5 rows" in finding.actual


def test_r4_dropout_that_ignores_eval_warns():
    class Careless(nn.Linear):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5)

    finding = look(task(model=Careless(6, 3)), "R4")
    assert finding.severity == "warn"  # Monte Carlo dropout is meant to
    assert "dropout(p=0.5)" in finding.actual
    declared = task(model=Careless(6, 3), declares=("random in eval",))
    assert look(declared, "R4").severity == "pass"


def test_r4_samples_that_see_each_other_fail_unless_declared():
    class Leaking(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    finding = look(task(model=Leaking(6, 3)), "R4")
    assert finding.severity == "fail"
    assert "companions" in finding.title
    declared = task(model=Leaking(6, 3), declares=("samples interact",))
    assert look(declared, "R4").severity == "pass"


def test_r4_last_batch_of_one_fails_under_batch_norm():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    finding = look(task(model=model, train_data=data(9)), "R4", batch_size=4)
    assert finding.severity == "fail"
    assert "drop_last" in finding.fix
    twin = look(
        task(model=model, train_data=data(9)), "R4", batch_size=4, drop_last=True
    )
    assert twin.severity == "pass"


def test_r4_val_batch_that_the_model_refuses_fails():
    built = task(val_data=(torch.randn(9, 5), torch.arange(9) % 3))
    finding = look(built, "R4")
    assert finding.severity == "fail"
    assert "val batch" in finding.title


def test_r4_nan_in_outputs_fails_and_names_the_module():
    class Root(nn.Module):
        def forward(self, x):
            return (x - 100).sqrt()

    finding = look(task(model=nn.Sequential(nn.Linear(6, 3), Root())), "R4")
    assert finding.severity == "fail"
    assert "'1' (Root)" in finding.actual


# -- R5 ------------------------------------------------------------------------


def term(outputs, batch):
    return F.cross_entropy(outputs, batch[1])


def test_r5_start_far_above_theory_warns_and_does_not_stop():
    finding = look(task(loss=lambda o, b: term(o * 1000, b)), "R5")
    assert finding.severity == "warn"
    assert "times its theoretical value" in finding.title + finding.actual


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), lambda o, b: F.mse_loss(o, b[1])]
)
def test_r5_outputs_broadcast_against_targets_fail_and_the_same_shape_passes(loss):
    x, y = torch.randn(16, 6), torch.randn(16)
    model = nn.Linear(6, 1)
    finding = look(Task(model, loss, (x, y)), "R5")
    assert finding.severity == "fail"
    assert "outputs (16, 1) and targets (16,)" in finding.actual
    assert "squeeze" in finding.fix
    assert look(Task(model, loss, (x, y[:, None])), "R5").severity == "pass"


def test_r5_ignored_targets_with_accumulation_ask_for_a_count():
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    y[:5] = -100
    given = {"accumulation": 2, "batch_size": 8}
    finding = look(Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), (x, y)), "R5", **given)
    assert finding.severity == "warn"
    assert "count_targets" in finding.fix
    counted = Task(
        nn.Linear(6, 3),
        nn.CrossEntropyLoss(),
        (x, y),
        count_targets=lambda batch: (batch[1] != -100).sum(),
    )
    assert look(counted, "R5", **given).severity == "pass"


FAULTY_LOSSES = {
    "carries no gradient": lambda o, b: term(o.detach(), b),
    "cannot be computed": lambda o, b: F.cross_entropy(o, b[1], reduction="none"),
    "is not finite": lambda o, b: term(o, b) / 0,
    "'aux' is cut off": lambda o, b: {"main": term(o, b), "aux": o.detach().mean()},
}


@pytest.mark.parametrize("title", FAULTY_LOSSES)
def test_r5_faulty_loss_fails(title):
    finding = look(task(loss=FAULTY_LOSSES[title]), "R5")
    assert finding.severity == "fail"
    assert title in finding.title


def test_r5_term_without_gradient_warns_unless_declared_or_off():
    def loss(outputs, batch):
        return {"main": term(outputs, batch), "hinge": (outputs.mean() - 99).relu()}

    assert look(task(loss=loss), "R5").severity == "warn"
    assert look(task(loss=loss, declares=("terms may rest",)), "R5").severity == "pass"
    assert look(task(loss=loss, loss_weights={"hinge": 0.0}), "R5").severity == "pass"


def test_r5_weight_of_an_unknown_term_fails():
    finding = look(task(loss_weights={"mian": 2.0}), "R5")
    assert finding.severity == "fail"
    assert "mian" in finding.actual


def test_r5_exception_in_the_loss_quotes_the_users_line():
    def loss(outputs, batch):
        raise KeyError("no such field")

    finding = look(task(loss=loss), "R5")
    assert "no such field" in finding.actual
    assert 'raise KeyError("no such field")' in finding.actual


def test_r5_healthy_start_is_told_with_theory():
    finding = look(task(), "R5")
    assert finding.severity == "pass"
    assert "ln 3" in finding.expected


# -- R6 ------------------------------------------------------------------------


class Half(nn.Module):
    """One branch is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x)


def test_r6_unused_branch_warns_by_name_unless_declared():
    finding = look(task(model=Half()), "R6")
    assert finding.severity == "warn"
    assert "unused.weight" in finding.actual
    declared = task(model=Half(), declares=("frozen on purpose",))
    assert look(declared, "R6").severity == "pass"


def test_r6_optimizer_of_another_model_fails():
    other = net()
    built = task(make_optimizer=lambda model: torch.optim.SGD(other.parameters(), 0.1))
    finding = look(built, "R6")
    assert finding.severity == "fail"
    assert "none of the model's parameters" in finding.title


def test_r6_optimizer_of_a_part_warns():
    built = task(make_optimizer=lambda m: torch.optim.SGD(m[2].parameters(), 0.1))
    assert look(built, "R6").severity == "warn"


def test_r6_optimizer_that_does_nothing_fails():
    class Idle(torch.optim.SGD):
        def step(self, closure=None):
            return None

    built = task(make_optimizer=lambda m: Idle(m.parameters(), 0.1))
    assert look(built, "R6").title == "no parameter moved"


def test_r6_gradient_that_is_not_finite_fails():
    def loss(outputs, batch):
        return (outputs * 0).square().sum().sqrt() + outputs.mean()

    finding = look(task(loss=loss), "R6")
    assert finding.severity == "fail"
    assert "not finite" in finding.title


def test_r6_constant_loss_fails():
    finding = look(task(loss=lambda o, b: (o * 0).sum() + 1), "R6")
    assert finding.title == "no parameter gets a gradient"


def test_r6_optimizer_with_closure_fails():
    built = task(make_optimizer=lambda m: torch.optim.LBFGS(m.parameters(), 0.1))
    finding = look(built, "R6")
    assert finding.severity == "fail"
    assert "closure" in str(finding)


# -- a failed check and those behind it ------------------------------------------


def test_failed_check_skips_those_that_need_it():
    report = preflight(task(model=nn.Linear(5, 3)), on_failure="return")
    severities = {f.id: f.severity for f in report.findings}
    assert severities["R4"] == "fail"
    assert severities["R5"] == severities["R6"] == "skip"
    skipped = next(f for f in report.findings if f.id == "R5")
    assert "R4" in skipped.title


def test_r6_schedule_shorter_than_the_run_fails_and_a_fitting_one_passes():
    def make(scale):
        def schedule(optimizer, planned):
            steps = max(int(planned * scale), 1)
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)

        return schedule

    short = look(task(make_schedule=make(0.5)), "R6", batch_size=4, epochs=5)
    assert short.severity == "fail"
    assert "planned_steps" in short.fix
    fitting = look(task(make_schedule=make(1)), "R6", batch_size=4, epochs=5)
    assert fitting.severity == "pass"
    assert any("learning rate over 30 updates" in label for label, _ in fitting.details)


def test_r6_learning_rate_that_blows_up_warns():
    settings = {"lr": 1000.0, "optimizer": "sgd", "clip_norm": None}
    finding = look(task(), "R6", **settings)
    assert finding.severity in ("warn", "fail")
    assert "too high" in finding.title


def test_fault_of_a_check_is_no_fault_of_the_user(monkeypatch):
    monkeypatch.setattr(amounts, "FEW", "five")
    report = preflight(task(val_data=data(9)), on_failure="return")
    finding = next(f for f in report.findings if f.id == "S3")
    assert finding.severity == "skip"
    assert "fault of nbutils" in finding.title
    assert "amounts.py" in str(finding.details)
    assert report.passed


def test_exception_of_the_users_loss_is_the_users():
    def loss(outputs, batch):
        raise ValueError("of the user's own")

    report = preflight(task(loss=loss), on_failure="return")
    assert any("of the user's own" in f.actual for f in report.failures)
