"""R11: what hides a fault is found; what is healthy, and unusual, stays green."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.run import faults
from nbutils.preflight.session import run_checks


def data(count: int = 24, classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % classes


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes) -> Task:
    given = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": data()}
    return Task(**{**given, **changes})


def look(built: Task, depth: str = "standard", **settings):
    return run_checks(built, RunConfig(**settings), [faults.CHECK], depth)[0]


def plain(outputs, batch):
    return F.cross_entropy(outputs, batch[1])


# -- a NaN is not hidden ---------------------------------------------------------


def replaced_by_constant(outputs, batch):
    loss = plain(outputs, batch)
    if torch.isnan(loss):
        return torch.zeros((), requires_grad=True)
    return loss


def replaced_by_number(outputs, batch):
    loss = plain(outputs, batch)
    if math.isnan(loss.item()):
        return outputs.new_zeros(()) + 1.0
    return loss


def cleaned(outputs, batch):
    return plain(torch.nan_to_num(outputs), batch)


def compared_with_itself(outputs, batch):
    return plain(torch.where(outputs != outputs, 0.0, outputs), batch)


@pytest.mark.parametrize(
    "loss", [replaced_by_constant, replaced_by_number, cleaned, compared_with_itself]
)
def test_r11_loss_that_hides_nan_warns(loss):
    finding = look(task(loss=loss))
    assert finding.severity == "warn"
    assert "the loss hides it" in finding.title
    assert look(task(loss=plain)).severity == "pass"


class Cleaning(nn.Module):
    def __init__(self, *, cleans: bool) -> None:
        super().__init__()
        self.net, self.cleans = net(), cleans

    def forward(self, x):
        return self.net(torch.nan_to_num(x) if self.cleans else x)


def test_r11_model_that_hides_nan_warns_unless_declared():
    finding = look(task(model=Cleaning(cleans=True)))
    assert finding.severity == "warn"
    assert "the model hides it" in finding.title
    assert "missing values" in finding.fix
    assert look(task(model=Cleaning(cleans=False))).severity == "pass"
    declared = task(model=Cleaning(cleans=True), declares=("missing values",))
    assert look(declared).severity == "pass"


def test_r11_data_with_missing_values_are_left_alone():
    x, y = data()
    x[3, 2] = math.nan
    assert look(task(model=Cleaning(cleans=True), train_data=(x, y))).severity == "pass"


class Spiking(nn.Module):
    """A comparison drops a NaN by its nature."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net((x > 0).float())


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x):
        assert not torch.isnan(x).any()
        return self.net(x)


def masked_targets(outputs, batch):
    known = torch.isfinite(batch[1])
    return (outputs[known] - batch[1][known]).square().mean()


def logged(outputs, batch):
    loss = plain(outputs, batch)
    logged.seen = loss.item()
    return loss


HEALTHY = {
    "spiking": lambda: task(model=Spiking()),
    "asserting": lambda: task(model=Asserting()),
    "logged": lambda: task(loss=logged),
    "masked targets": lambda: task(
        loss=masked_targets, train_data=(data()[0], torch.randn(24, 3))
    ),
    "tokens": lambda: task(
        model=nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 3)),
        train_data=(torch.randint(9, (24, 6)), data()[1]),
    ),
    "frozen": lambda: task(
        model=nn.Sequential(net().requires_grad_(False), nn.Linear(3, 3))
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("depth", ["standard", "rehearsal"])
def test_r11_unusual_healthy_task_passes(name, depth):
    finding = look(HEALTHY[name](), depth)
    assert finding.severity == "pass", finding


# -- exceptions are not swallowed --------------------------------------------------


def swallowing(outputs, batch):
    try:
        return plain(outputs, batch)
    except Exception:
        return torch.tensor(0.0, requires_grad=True)


def falling_back(outputs, batch):
    try:
        flat = outputs.view(-1, 3)
    except RuntimeError:
        flat = outputs.reshape(-1, 3)
    return F.cross_entropy(flat, batch[1])


def test_r11_loss_that_swallows_exceptions_warns():
    finding = look(task(loss=swallowing))
    assert finding.severity == "warn"
    assert "the loss swallows exceptions" in finding.title
    assert look(task(loss=falling_back)).severity == "pass"


def test_r11_loss_that_the_model_computes_is_left_alone():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, batch):
            return {"loss": F.cross_entropy(self.net(batch[0]), batch[1])}

    built = task(
        model=Whole(),
        loss=lambda outputs, batch: outputs["loss"],
        forward=lambda model, batch: model(batch),
    )
    assert look(built).severity == "pass"


class Branching(nn.Module):
    """A branch whose failure is hidden, raised again, or met by an equal one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.base, self.side, self.kind = nn.Linear(6, 3), nn.Linear(6, 3), kind

    def forward(self, x):
        try:
            extra = self.side(x)
        except RuntimeError as error:
            if self.kind == "told":
                raise ValueError("the side branch failed") from error
            if self.kind == "equal":
                extra = F.linear(x, self.side.weight, self.side.bias)
            else:
                extra = 0.0
        return self.base(x) + extra


@pytest.mark.parametrize(
    ("kind", "severity"), [("hidden", "warn"), ("told", "pass"), ("equal", "pass")]
)
def test_r11_module_whose_exception_is_swallowed_warns(kind, severity):
    finding = look(task(model=Branching(kind)))
    assert finding.severity == severity
    if severity == "warn":
        assert "an exception in 'side' is swallowed" in finding.title


# -- files that cannot be read -----------------------------------------------------


class Files(Dataset):
    """Reads one small file a sample; ``fallback``: what it gives if it cannot."""

    def __init__(self, folder, fallback: str) -> None:
        self.paths = [folder / f"{n}.npy" for n in range(20)]
        self.fallback = fallback
        for n, path in enumerate(self.paths):
            np.save(path, data(20)[0][n].numpy())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        label = index % 3
        if self.fallback == "raise":
            return torch.from_numpy(np.load(self.paths[index])), label
        try:
            return torch.from_numpy(np.load(self.paths[index])), label
        except OSError:
            if self.fallback == "zeros":
                return torch.zeros(6), label
            return torch.randn(6), label


@pytest.mark.parametrize(
    ("fallback", "severity", "title"),
    [
        ("zeros", "warn", "replaced by a constant"),
        ("noise", "warn", "replaced by random numbers"),
        ("raise", "pass", ""),
    ],
)
def test_r11_unreadable_file_replaced_by_made_up_data_warns(
    tmp_path, fallback, severity, title
):
    finding = look(task(train_data=Files(tmp_path, fallback)))
    assert finding.severity == severity
    assert title in finding.title
    assert (tmp_path / "0.npy").read_bytes()  # files open again


def test_r11_dataset_that_takes_the_next_sample_is_only_told(tmp_path):
    class Skipping(Files):
        def __getitem__(self, index):
            try:
                return torch.from_numpy(np.load(self.paths[index])), index % 3
            except OSError:
                return torch.from_numpy(self.kept[index + 1].copy()), (index + 1) % 3

    built = Skipping(tmp_path, "raise")
    built.kept = [np.load(path) for path in [*built.paths, built.paths[0]]]
    assert look(task(train_data=built)).severity == "pass"


# -- faults in the real loop -------------------------------------------------------


def test_r11_rehearsal_tells_what_became_of_each_fault():
    finding = look(task(val_data=data(9)), "rehearsal", batch_size=8)
    assert finding.severity == "pass"
    told = " ".join(text for _, text in finding.details)
    for part in (
        "an update on NaN is refused",
        "NaN in every batch ends the run",
        "a window that does not fit is split",
        "a stop finishes the window and saves",
        "an exception in validation ends the run",
    ):
        assert part in told
    assert "saved as step-00000002" in finding.actual


def test_r11_batch_that_cannot_be_split_is_told():
    details = dict(look(task(train_data=data(3)), "rehearsal", batch_size=1).details)
    assert "splitting the batch is no way out" in details["out of memory"]


def test_r11_oom_raises_as_configured_is_told():
    details = dict(look(task(), "rehearsal", on_oom="raise").details)
    assert "on_oom='raise'" in details["out of memory"]


def test_r11_state_that_remembers_nan_is_told():
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.center = net(), torch.zeros(3)

        def forward(self, x):
            outputs = self.net(x)
            if self.training:
                self.center = 0.9 * self.center + 0.1 * outputs.detach().mean(0)
            return outputs - self.center

    finding = look(task(model=Centred()), "rehearsal", max_consecutive_refusals=2)
    assert finding.severity == "pass"
    assert "later losses were NaN too" in dict(finding.details)["NaN in one batch"]


def test_r11_interrupt_taken_away_warns():
    import signal

    class Grabbing(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x):
            if self.training:
                signal.signal(signal.SIGINT, lambda *_: None)
            return self.net(x)

    before = signal.getsignal(signal.SIGINT)
    try:
        finding = look(task(model=Grabbing()), "rehearsal")
    finally:
        signal.signal(signal.SIGINT, before)
    assert finding.severity == "warn"
    assert "takes the interrupt away" in finding.title
