# ruff: noqa: S110, SIM105, S610
"""S5 on the user's own objects: each fault in the source beside a healthy twin."""

from __future__ import annotations

import contextlib
import functools
import linecache
import random
import textwrap
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.static import source
from nbutils.preflight.session import run_checks


def pairs(count: int = 12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes) -> Task:
    given = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": pairs()}
    return Task(**{**given, **changes})


def look(**changes):
    """The finding of S5 at depth static."""
    return run_checks(task(**changes), RunConfig(), [source.CHECK], "static")[0]


# -- the loss ------------------------------------------------------------------


def noise_target(outputs, batch):
    return F.mse_loss(outputs, torch.randn_like(outputs))


def noise_target_by_name(outputs, batch):
    target = torch.randint(0, 3, (len(outputs),)).to(outputs.device)
    return F.cross_entropy(outputs, target)


def item_term(outputs, batch):
    aux = outputs.pow(2).mean()
    return F.cross_entropy(outputs, batch[1]) + 0.1 * aux.item()


def detached_later(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    kl = F.kl_div(F.log_softmax(outputs, 1), outputs, reduction="batchmean").detach()
    loss = loss + 0.5 * kl
    return loss  # noqa: RET504


def float_added(outputs, batch):
    total = F.cross_entropy(outputs, batch[1])
    total += float(F.l1_loss(outputs, torch.zeros_like(outputs)))
    return total


def constant_fallback(outputs, batch):
    try:
        return F.cross_entropy(outputs, batch[1])
    except Exception:
        return torch.tensor(0.0, requires_grad=True)


def times_zero(outputs, batch):
    try:
        loss = F.cross_entropy(outputs, batch[1])
    except RuntimeError:
        loss = outputs.sum() * 0.0
    return loss


def swallowed_term(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    try:
        loss = loss + outputs["missing"].mean()
    except Exception:
        pass
    return loss


def suppressed_term(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    with contextlib.suppress(Exception):
        loss = loss + outputs["missing"].mean()
    return loss


def unreachable(outputs, batch):
    return F.cross_entropy(outputs, batch[1])
    penalty = outputs.pow(2).mean()
    return F.cross_entropy(outputs, batch[1]) + penalty


def double_softmax(outputs, batch):
    probs = F.softmax(outputs, dim=1)
    return F.cross_entropy(probs, batch[1])


def nll_of_probabilities(outputs, batch):
    return F.nll_loss(outputs.softmax(-1), batch[1])


def log_of_softmax(outputs, batch):
    logs = torch.log(torch.softmax(outputs, 1))
    return F.nll_loss(logs, batch[1])


def seeded_loss(outputs, batch):
    torch.manual_seed(0)
    return F.cross_entropy(F.dropout(outputs, 0.1, True), batch[1])


def backward_inside(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    loss.backward()
    return loss


accumulation_steps = 4


def divided(outputs, batch):
    return F.cross_entropy(outputs, batch[1]) / accumulation_steps


HISTORY: list = []


def keeps_graph(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    HISTORY.append(loss)
    return loss


def key_inside(outputs, batch):
    token = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdEfGh"  # noqa: S105
    return F.cross_entropy(outputs, batch[1]) if token else None


def helper(outputs, labels):
    return F.cross_entropy(torch.softmax(outputs, -1), labels)


def through_a_helper(outputs, batch):
    return helper(outputs, batch[1])


class LossModule(nn.Module):
    def forward(self, outputs, batch):
        aux = outputs.abs().mean()
        return F.cross_entropy(outputs, batch[1]) + float(aux)


LOSSES = {
    noise_target: "compares with random numbers",
    noise_target_by_name: "compares with random numbers",
    item_term: "a term of the loss is detached",
    detached_later: "a term of the loss is detached",
    float_added: "a term of the loss is detached",
    constant_fallback: "a constant takes the place of the loss",
    times_zero: "a constant takes the place of the loss",
    swallowed_term: "an error in the loss is swallowed",
    suppressed_term: "an error in the loss is swallowed",
    unreachable: "never reached",
    double_softmax: "softmax before cross_entropy",
    nll_of_probabilities: "wants log-probabilities",
    log_of_softmax: "log of a softmax",
    seeded_loss: "the seed is set again",
    backward_inside: "backward() inside the loss",
    divided: "divided by the accumulation",
    keeps_graph: "keeps the graph of every batch",
    key_inside: "a Hugging Face token",
    through_a_helper: "softmax before cross_entropy",
    LossModule(): "a term of the loss is detached",
    functools.partial(item_term): "a term of the loss is detached",
    (lambda o, b: F.cross_entropy(o, b[1]) + o.pow(2).mean().sum().item() * 0): "",
}


def name_of(loss) -> str:
    """The same in every process, unlike an address."""
    inner = getattr(loss, "func", loss)
    return getattr(inner, "__name__", type(inner).__name__)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_fault_in_a_loss_is_named(loss):
    finding = look(loss=loss)
    if LOSSES[loss]:
        assert finding.severity == "warn"
        assert LOSSES[loss] in finding.title
        assert finding.expected
        assert finding.fix
        assert "test_s5_source.py:" in finding.title
    assert "aBcDeFgHiJ" not in str(finding)


def plain_loss(outputs, batch):
    return F.cross_entropy(outputs, batch[1])


def logged_term(outputs, batch):
    aux = outputs.pow(2).mean()
    LOGGED["aux"] = aux.item()
    return F.cross_entropy(outputs, batch[1]) + 0.1 * aux


LOGGED: dict = {}


def straight_through(outputs, batch):
    hard = outputs + (outputs.round() - outputs).detach()
    return F.mse_loss(hard, torch.zeros_like(hard)) + F.cross_entropy(outputs, batch[1])


def stop_gradient(outputs, batch):
    first, second = outputs.chunk(2, 0)
    loss = -F.cosine_similarity(first, second.detach(), dim=-1).mean()
    return loss - F.cosine_similarity(second, first.detach(), dim=-1).mean()


def vq_terms(outputs, batch):
    codes = outputs.round()
    return {
        "commit": F.mse_loss(outputs, codes.detach()),
        "codebook": F.mse_loss(codes.detach(), outputs),
    }


def policy_gradient(outputs, batch):
    logp = F.log_softmax(outputs, 1)[:, 0]
    reward = outputs.detach().abs().mean(1)
    advantage = reward - reward.mean().detach()
    entropy = -(logp.exp() * logp).mean()
    return -(advantage.detach() * logp).mean() - 0.01 * entropy


log_alpha = nn.Parameter(torch.zeros(()), requires_grad=False)


def lagrangian(outputs, batch):
    kl = outputs.pow(2).mean()
    alpha = log_alpha.exp()
    return F.cross_entropy(outputs, batch[1]) + alpha * (kl - 0.1).detach()


def denoising(outputs, batch):
    noise = torch.randn_like(outputs)
    noisy = outputs + 0.1 * noise
    return F.mse_loss(noisy, noise)


def smooth_labels_of_a_gan(outputs, batch):
    real = 0.9 + 0.1 * torch.rand_like(outputs)
    return F.binary_cross_entropy_with_logits(outputs, real)


def noisy_targets(outputs, batch):
    targets = F.one_hot(batch[1], 3) + 0.01 * torch.randn(len(outputs), 3)
    return F.mse_loss(outputs, targets)


def distilled(outputs, batch):
    soft = F.softmax(outputs.detach() / 2, dim=1)
    return F.kl_div(F.log_softmax(outputs / 2, 1), soft, reduction="batchmean")


def mean_of_three(outputs, batch):
    parts = [F.cross_entropy(outputs, batch[1]) for _ in range(3)]
    return sum(parts) / len(parts)


def optional_mask(outputs, batch):
    try:
        mask = batch["mask"]
    except (KeyError, TypeError, IndexError):
        mask = torch.ones(len(outputs))
    return (F.cross_entropy(outputs, batch[1], reduction="none") * mask).mean()


def slow_path(outputs, batch):
    try:
        return F.cross_entropy(outputs, batch[1])
    except RuntimeError:
        return -F.log_softmax(outputs, 1).gather(1, batch[1][:, None]).mean()


def guarded_value(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    HISTORY_OF_NUMBERS.append(loss.item())
    return loss


HISTORY_OF_NUMBERS: list = []


def normalised(outputs, batch):
    loss = F.cross_entropy(outputs, batch[1])
    aux = outputs.pow(2).mean()
    return loss + aux / aux.detach().clamp_min(1e-6)


def log_with_epsilon(outputs, batch):
    return F.nll_loss((outputs.softmax(1) + 1e-8).log(), batch[1])


HEALTHY = [
    plain_loss, logged_term, straight_through, stop_gradient, vq_terms,
    policy_gradient, lagrangian, denoising, smooth_labels_of_a_gan, noisy_targets,
    distilled, mean_of_three, optional_mask, slow_path, guarded_value, normalised,
    log_with_epsilon,
]  # fmt: skip


@pytest.mark.parametrize("loss", HEALTHY, ids=lambda f: f.__name__)
def test_healthy_losses_stay_green(loss):
    finding = look(loss=loss)
    assert (finding.severity, finding.actual) == ("pass", "")


# -- the model -----------------------------------------------------------------


class LayerInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x):
        head = nn.Linear(8, 3)
        return head(self.fc(x).relu())


class LateLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), None

    def forward(self, x):
        x = self.fc(x)
        if self.head is None:
            self.head = nn.Linear(x.shape[1], 3)
        return self.head(x)


class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class PlainDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = {"a": [nn.Linear(6, 3)]}
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return self.heads["a"][0](self.fc(x))


class PlainTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.scale = torch.ones(3, requires_grad=True)

    def forward(self, x):
        return self.fc(x) * self.scale


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.dropout(x, 0.5))


class AttentionDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.p = nn.Linear(6, 3), 0.1

    def forward(self, x):
        q = x[:, None]
        y = F.scaled_dot_product_attention(q, q, q, dropout_p=self.p)
        return self.fc(y[:, 0])


class DropoutMadeInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(nn.Dropout(0.2)(x))


class NoiseInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.randn_like(x)
        return self.fc(x)


class SharedBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6)] * 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class LostAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.mean = nn.Linear(6, 3), torch.zeros(6)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.fc(x - self.mean)


class SwitchesMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        self.eval()
        return self.fc(x)


class KeepsOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.seen = nn.Linear(6, 3), []

    def forward(self, x):
        logits = self.fc(x)
        self.seen.append(logits)
        return logits


class SwallowsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.extra = nn.Linear(6, 3), nn.Linear(7, 6)

    def forward(self, x):
        try:
            x = self.extra(x)
        except Exception:
            pass
        return self.fc(x)


MODELS = {
    LayerInForward: "Linear is made in forward",
    LateLayer: "Linear is made in forward",
    PlainList: "self.layers holds weights that the model does not own",
    PlainDict: "self.heads holds weights that the model does not own",
    PlainTensor: "self.scale holds weights that the model does not own",
    FunctionalDropout: "dropout stays on in eval mode",
    AttentionDropout: "dropout stays on in eval mode",
    DropoutMadeInPlace: "dropout stays on in eval mode",
    NoiseInput: "the input is replaced by random numbers",
    SharedBlocks: "one layer is listed many times",
    LostAverage: "self.mean is state, and no buffer",
    SwitchesMode: "forward switches the model to eval mode",
    KeepsOutputs: "self.seen keeps the graph",
    SwallowsLayer: "an error in the model is swallowed",
}


@pytest.mark.parametrize("kind", MODELS, ids=lambda k: k.__name__)
def test_fault_in_a_model_is_named(kind):
    finding = look(model=kind())
    assert finding.severity == "warn"
    assert MODELS[kind] in finding.title


def test_fault_in_an_inner_module_is_named():
    finding = look(model=nn.Sequential(nn.Linear(6, 6), FunctionalDropout()))
    assert "FunctionalDropout.forward" in finding.title


class HealthyParts(nn.Module):
    """Many unusual things that are all right."""

    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(6, 6), nn.Dropout(0.1)
        self.head = nn.Linear(6, 3)
        self.order = [self.fc, self.head]
        self.teacher = [nn.Linear(6, 6)]
        self.offset = torch.zeros(6)
        self.register_buffer("mean", torch.zeros(6))
        self.last = None
        self.blocks = nn.ModuleList([nn.ReLU()] * 2)
        self.aux = []

    def forward(self, x):
        self.aux.clear()
        with torch.no_grad():
            target = self.teacher[0](x)
        self.aux.append((target - x).pow(2).mean())
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            x = x + 0.01 * torch.randn_like(x)
        x = F.dropout(self.drop(self.fc(x)), 0.1, self.training)
        mask = torch.rand(len(x), 1) < 0.9
        self.last = x
        x = torch.where(mask, x, x.detach()) + self.offset
        return self.head(self.blocks[0](x))


class Reparametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 3)

    def forward(self, x):
        mean, log_var = self.encode(x).chunk(2, -1)
        noise = torch.randn_like(mean)
        return self.decode(mean + noise * (log_var / 2).exp())


class Container(nn.Module):
    """A layer made in forward only to hold weights of another."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        layer = nn.Linear(6, 3)
        layer.weight = self.fc.weight
        layer.bias = self.fc.bias
        return layer(x)


class GuardedDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.p = nn.Linear(6, 3), 0.1

    def forward(self, x):
        if self.training:
            x = F.dropout(x, self.p)
        q = x[:, None]
        p = self.p if self.training else 0.0
        return self.fc(F.scaled_dot_product_attention(q, q, q, dropout_p=p)[:, 0])

    @torch.no_grad()
    def sample(self, x):
        x = torch.randn_like(x)
        self.eval()
        return torch.rand(3)


class FrozenPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 3)

    def forward(self, x):
        self.body.eval()
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


class Cached(nn.Module):
    """Keeps what it saw last; a graph of its own is behind it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        self.features = self.fc(x)
        return self.features


@pytest.mark.parametrize(
    "kind",
    [HealthyParts, Reparametrised, Container, GuardedDropout, FrozenPart, Cached],
    ids=lambda k: k.__name__,
)
def test_healthy_models_stay_green(kind):
    model = kind()
    model(torch.randn(4, 6))  # as a user tries it
    finding = look(model=model)
    assert (finding.severity, finding.actual) == ("pass", "")


def test_declared_randomness_is_no_fault():
    finding = look(model=FunctionalDropout(), declares=["random in eval"])
    assert finding.severity == "pass"


def test_late_layer_that_is_there_already_is_no_fault():
    model = LateLayer()
    model(torch.randn(2, 6))
    assert look(model=model).severity == "pass"


# -- forward, and weights outside the model ------------------------------------


def test_head_outside_the_model_is_named():
    head = nn.Linear(3, 3)
    finding = look(forward=lambda model, batch: head(model(batch[0])))
    assert finding.severity == "warn"
    assert "'head' has weights that the model does not own" in finding.title


@pytest.mark.parametrize("kind", ["frozen", "eval", "teacher"])
def test_resting_network_beside_the_model_is_no_fault(kind):
    other = nn.Linear(6, 3)
    if kind == "frozen":
        other.requires_grad_(False)
    elif kind == "eval":
        other.eval()
    if kind == "teacher":
        teacher = other

        def loss(outputs, batch):
            return F.mse_loss(outputs, teacher(batch[0]).detach())
    else:

        def loss(outputs, batch):
            return F.mse_loss(outputs, other(batch[0]).detach())

    assert look(loss=loss).severity == "pass"


def test_forward_that_switches_to_train_mode_is_named():
    def forward(model, batch):
        model.train()
        return model(batch[0])

    assert "to train mode" in look(forward=forward).title


# -- data ----------------------------------------------------------------------


class Rows(Dataset):
    def __init__(self):
        self.x, self.labels = pairs()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.labels[index]


class Dummies(Rows):
    def __getitem__(self, index):
        try:
            return super().__getitem__(index)
        except Exception:
            return torch.zeros(6), 0


class KeptDefault(Rows):
    def __getitem__(self, index):
        image = torch.zeros(6)
        try:
            image = self.x[index]
        except OSError:
            pass
        return image, self.labels[index]


class Another(Rows):
    def __getitem__(self, index):
        try:
            return self.x[index], self.labels[index]
        except Exception as error:
            warnings.warn(str(error), stacklevel=1)
            return self[(index + 1) % len(self)]


class RandomLabels(Rows):
    def __getitem__(self, index):
        label = torch.randint(0, 3, ())
        return self.x[index], label


class Shifted(Rows):
    def __getitem__(self, index):
        return self.x[index], self.labels[index - 1]


class SeedsEach(Rows):
    def __getitem__(self, index):
        random.seed(0)
        return self.x[index] + random.random(), self.labels[index]


DATA = {
    Dummies: "replaced by an invented one",
    KeptDefault: "replaced by an invented one",
    Another: "silently replaced by another",
    RandomLabels: "labels are drawn at random",
    Shifted: "the label is read at another index",
    SeedsEach: "the seed is set again",
}


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(Subset(d, [0, 1]))])
@pytest.mark.parametrize("kind", DATA, ids=lambda k: k.__name__)
def test_fault_in_a_dataset_is_named(kind, wrap):
    finding = look(train_data=wrap(kind()))
    assert finding.severity == "warn"
    assert DATA[kind] in finding.title


class Synthetic(Rows):
    def __getitem__(self, index):
        return torch.randn(6), torch.randint(0, 3, ())


class Augmented(Rows):
    def __getitem__(self, index):
        seed = int(torch.randint(0, 2**31, ()))
        torch.manual_seed(seed)
        x = self.x[index] + 0.1 * torch.randn(6)
        return x, self.labels[index]


class Diffusion(Rows):
    def __getitem__(self, index):
        noise, t = torch.randn(6), torch.randint(0, 100, ())
        return self.x[index] + noise, t, noise


class MissingPart(Rows):
    def __getitem__(self, index):
        try:
            extra = self.x[index]
            valid = True
        except OSError:
            extra = torch.zeros(6)
            valid = False
        return extra, self.labels[index], valid


class Windows(Rows):
    def __getitem__(self, index):
        return self.x[index : index + 1, :].flatten(), self.x[index + 1]


class Careful(Rows):
    def __getitem__(self, index):
        try:
            return super().__getitem__(index)
        except OSError as error:
            raise ValueError(f"sample {index}") from error


@pytest.mark.parametrize(
    "kind",
    [Rows, Synthetic, Augmented, Diffusion, MissingPart, Windows, Careful],
    ids=lambda k: k.__name__,
)
def test_healthy_datasets_stay_green(kind):
    assert look(train_data=kind()).severity == "pass"


def test_collate_that_sorts_inputs_alone_is_named():
    def collate(samples):
        xs, ys = zip(*samples, strict=True)
        xs = sorted(xs, key=lambda x: float(x[0]))
        return torch.stack(xs), torch.stack(ys)

    assert "different orders" in look(train_data=Rows(), collate=collate).title


def test_collate_that_sorts_samples_is_no_fault():
    def collate(samples):
        samples = sorted(samples, key=lambda s: float(s[0][0]))
        xs, ys = zip(*samples, strict=True)
        lengths = sorted(len(x) for x in xs)
        return torch.stack(xs), torch.stack(ys), torch.tensor(lengths)

    assert look(train_data=Rows(), collate=collate).severity == "pass"


# -- where source comes from ---------------------------------------------------


def test_source_of_a_notebook_cell_is_read():
    text = textwrap.dedent("""\
        import torch.nn.functional as F
        %matplotlib inline
        def loss(outputs, batch):
            return F.cross_entropy(F.softmax(outputs, 1), batch[1])
    """)
    path = "/tmp/ipykernel_7/123.py"
    linecache.cache[path] = (len(text), None, text.splitlines(True), path)
    space: dict = {}
    exec(compile(text.replace("%matplotlib", "pass #"), path, "exec"), space)  # noqa: S102
    assert "123.py:4 in loss" in look(loss=space["loss"]).title
    del linecache.cache[path]


def test_absent_source_is_skipped_quietly():
    space: dict = {"F": F}
    exec("def loss(o, b):\n    return F.cross_entropy(F.softmax(o, 1), b[1])", space)  # noqa: S102
    finding = look(loss=space["loss"])
    assert finding.severity == "skip"
    assert "no source" in finding.title


def test_a_line_that_is_allowed_is_left_alone():
    def loss(outputs, batch):
        aux, main = outputs.abs().mean(), F.cross_entropy(outputs, batch[1])
        return main + aux.item()  # nbutils: allow S5.detached-term

    assert look(loss=loss).severity == "pass"


def test_installed_code_is_not_read():
    model = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    finding = look(model=nn.Sequential(model, nn.Linear(6, 3)))
    assert finding.severity == "skip"


def test_reading_runs_nothing():
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        @property
        def dear(self):
            raise AssertionError("read")

        def forward(self, x):
            return self.fc(x) if np.size(x) else self.dear

    assert look(model=Loud()).severity == "pass"
