"""R1: samples with a seeded fault, each beside a healthy twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks import CATALOGUE
from nbutils.preflight.checks.data import samples as r1
from nbutils.preflight.session import run_checks


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int = 200, seed: int = 0, features: int = 6, classes: int = 3):
    """Features that tell their class, a little."""
    x = torch.randn(count, features, generator=draw(seed))
    y = torch.randint(classes, (count,), generator=draw(seed + 100))
    x[:, 0] += 2.0 * y
    return x, y


def net(features: int = 6, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))


def look(train, val=None, *, model=None, loss=None, settings=None, **options):
    """The finding of R1 alone."""
    task = Task(model or net(), loss or nn.CrossEntropyLoss(), train, val, **options)
    config = RunConfig().replace(**(settings or {}))
    return run_checks(task, config, [r1.CHECK])[0]


def warned(finding, *texts: str) -> None:
    told = f"{finding.title}\n{finding.actual}\n{finding.fix}\n{finding.expected}"
    assert finding.severity == "warn", finding
    for text in texts:
        assert text in told, told


def quiet(finding) -> None:
    assert finding.severity == "pass", (finding.title, finding.actual)


class Read(Dataset):
    """Samples made by a function of the index."""

    def __init__(self, make, count: int = 100) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        return self.make(index)


# -- leakage across splits -----------------------------------------------------


def test_r1_clean_splits_pass():
    quiet(look(rows(), rows(50, seed=1)))


def test_r1_val_that_holds_training_rows_warns():
    x, y = rows()
    fresh = rows(40, seed=1)
    val = torch.cat([fresh[0], x[:10]]), torch.cat([fresh[1], y[:10]])
    warned(look((x, y), val), "copies of training samples", "10 of 50")


def test_r1_val_that_is_a_part_of_train_warns():
    x, y = rows()
    warned(look((x, y), (x[:40], y[:40])), "every val sample is a training sample")
    quiet(look((x, y), (x[:40], y[:40]), declares=("validation is train",)))
    quiet(look((x[:24], y[:24]), (x[:24], y[:24])))  # a sketch that overfits


def test_r1_same_dataset_twice_warns():
    data = TensorDataset(*rows())
    warned(look(data, data), "val is train")


def test_r1_second_random_split_overlaps():
    data = TensorDataset(*rows())
    train, _ = random_split(data, [160, 40], generator=draw(1))
    _, val = random_split(data, [160, 40], generator=draw(2))
    warned(look(train, val), "val shares samples with train", "rows of val")
    quiet(look(*random_split(data, [160, 40], generator=draw(1))))


def test_r1_samplers_over_one_dataset_are_looked_through():
    data = TensorDataset(*rows())
    order = torch.randperm(200, generator=draw(3)).tolist()

    def loader(chosen):
        return DataLoader(data, 16, sampler=SubsetRandomSampler(chosen))

    quiet(look(loader(order[:150]), loader(order[150:])))
    warned(look(loader(order[:150]), loader(order[100:])), "shares samples")


def test_r1_augmented_subsets_share_rows():
    x, y = rows()
    data = Read(lambda i: (x[i] + torch.randn(6), int(y[i])), 200)
    overlapping = look(Subset(data, range(150)), Subset(data, range(100, 200)))
    warned(overlapping, "50 of 100 (50%)")
    quiet(look(Subset(data, range(150)), Subset(data, range(150, 200))))


def test_r1_augmented_copies_in_train_warn():
    x, y = rows(200, features=12)

    def split(chosen, noise):
        def make(i):
            return x[chosen[i]] + noise * torch.randn(12), int(y[chosen[i]])

        return Read(make, len(chosen))

    given = {"model": net(12)}
    leaky = look(split(range(200), 0.1), split(range(0, 200, 4), 0.0), **given)
    warned(leaky, "near copies of training inputs", "50 of 50")
    quiet(look(split(range(150), 0.1), split(range(150, 200), 0.0), **given))


def test_r1_families_of_one_parameter_are_no_near_copies():
    def waves(seed):
        phase = 6 * torch.rand(150, 1, generator=draw(seed))
        return torch.sin(phase + torch.arange(16) / 3), (phase[:, 0] > 3).long()

    quiet(look(waves(0), waves(1), model=net(16, 2)))


def test_r1_files_that_both_splits_list_warn():
    class Files(Dataset):
        def __init__(self, numbers) -> None:
            self.paths = [f"pictures/{number}.png" for number in numbers]

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index):
            return torch.randn(6), index % 3

    leaky = look(Files(range(120)), Files(range(100, 140)))
    warned(leaky, "val reads files of train", "pictures/100.png")
    quiet(look(Files(range(120)), Files(range(120, 160))))


def test_r1_stream_that_validates_on_its_own_beginning_warns():
    x, y = rows(400)

    class Stream(IterableDataset):
        def __init__(self, start: int, end: int) -> None:
            self.rows = range(start, end)

        def __iter__(self):
            return iter([(x[i], y[i]) for i in self.rows])

    warned(look(Stream(0, 300), Stream(0, 64)), "every val sample")
    quiet(look(Stream(0, 300), Stream(300, 400)))


def test_r1_one_dataset_of_fresh_samples_shares_none():
    data = Read(lambda i: (torch.randn(6), int(torch.randint(3, ()))), 200)
    quiet(look(data, data))


def test_r1_inputs_that_repeat_by_nature_are_no_leak():
    def codes(seed):
        ids = torch.randint(4, (200, 3), generator=draw(seed))
        return F.one_hot(ids, 4).flatten(1).float(), ids.sum(1) % 3

    quiet(look(codes(0), codes(1), model=net(12)))


def test_r1_leak_in_a_large_split_is_found():
    x, y = rows(20_000)
    fresh = rows(4_000, seed=1)
    val = torch.cat([fresh[0], x[:800]]), torch.cat([fresh[1], y[:800]])
    warned(look((x, y), val), "copies of training samples")


# -- placeholders --------------------------------------------------------------


def pictures(count: int = 100, seed: int = 0):
    x = torch.rand(count, 1, 8, 8, generator=draw(seed))
    return x, torch.arange(count) % 3


def seeing() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("share", [8, 92])
@pytest.mark.parametrize("value", [0.0, -1.7])
def test_r1_dummies_with_true_labels_warn(share, value):
    x, y = pictures()
    x[torch.randperm(100, generator=draw())[:share]] = value
    warned(look((x, y), model=seeing()), "placeholders", f"{share} of 100")


def test_r1_empty_pictures_of_one_class_pass():
    x, y = pictures()
    x[:30], y[:30] = 0.0, 0
    quiet(look((x, y), model=seeing()))


def test_r1_dataset_that_ignores_its_index_warns():
    x, y = pictures()
    warned(
        look(Read(lambda i: (x[0], int(y[i]))), model=seeing()),
        "every training sample has the same input",
    )
    warned(look(Read(lambda i: (x[i % 5], int(y[i % 5]))), model=seeing()), "5 inputs")
    quiet(look(Read(lambda i: (x[i], int(y[i]))), model=seeing()))


def test_r1_oversampled_rows_pass():
    x, y = rows(100)
    extra = torch.arange(20).repeat(4)
    quiet(look((torch.cat([x, x[extra]]), torch.cat([y, y[extra]]))))


def test_r1_same_inputs_of_different_classes_warn():
    x, y = rows(100)
    both = torch.cat([x, x]), torch.cat([y, (y + 1) % 3])
    warned(look(both), "different classes", "100%")


# -- classes -------------------------------------------------------------------


def test_r1_one_class_in_train_warns():
    x, _ = rows()
    warned(look((x, torch.zeros(200).long())), "train holds one class only")


def test_r1_sorted_set_cut_at_its_end_warns():
    x, y = rows(300)
    order = y.argsort()
    x, y = x[order], y[order]
    finding = look((x[:240], y[:240]), (x[240:], y[240:]))
    warned(finding, "val holds one class only")
    order = torch.randperm(300, generator=draw())
    x, y = x[order], y[order]
    quiet(look((x[:240], y[:240]), (x[240:], y[240:])))


def test_r1_classes_that_train_never_shows_warn():
    x, y = rows(200, classes=3)
    val = rows(60, seed=1, classes=3)
    keep = y < 2
    warned(look((x[keep], y[keep]), val), "train never shows", "classes 2")


def test_r1_rare_class_missing_in_val_passes():
    x, y = rows(200, classes=2)
    y[:4] = 2
    quiet(look((x, y), rows(40, seed=1, classes=2)))


def test_r1_imbalance_passes():
    x, y = rows(400)
    y = (torch.rand(400, generator=draw()) < 0.05).long()
    quiet(look((x, y), rows(60, seed=1, classes=2), model=net(6, 2)))


def test_r1_sorted_samples_without_shuffling_warn():
    x, y = rows()
    order = y.argsort()
    data = x[order], y[order]
    warned(look(data, settings={"shuffle": False}), "sorted by class", "shuffle=True")
    quiet(look(data, settings={"shuffle": True}))
    warned(look(DataLoader(TensorDataset(*data), 16)), "sorted by class")
    quiet(look(DataLoader(TensorDataset(*data), 16, shuffle=True)))
    quiet(look((x, y), settings={"shuffle": False}))


def test_r1_sorted_stream_warns():
    x, y = rows(400)

    class Stream(IterableDataset):
        def __init__(self, order: Tensor) -> None:
            self.order = order

        def __iter__(self):
            return iter([(x[i], y[i]) for i in self.order])

    settings = {"batch_size": 32}
    finding = look(Stream(y.argsort()), settings=settings)
    warned(finding, "sorted by class")
    quiet(look(Stream(torch.arange(400)), settings=settings))


def test_r1_drifting_regression_without_shuffling_passes():
    x = torch.linspace(0, 1, 200)[:, None] + 0.1 * torch.randn(200, 4)
    data = (x, x.sum(1, keepdim=True))
    quiet(
        look(
            data, model=nn.Linear(4, 1), loss=nn.MSELoss(), settings={"shuffle": False}
        )
    )


def test_r1_labels_of_minus_one_and_one_for_bce_warn():
    x, y = rows(classes=2)

    def loss(outputs, batch):
        return F.binary_cross_entropy_with_logits(outputs[:, 0], batch[1])

    signs = (x, 2.0 * y - 1)
    warned(look(signs, model=net(6, 1), loss=loss), "from 0 to 1", "-1")
    quiet(look((x, y.float()), model=net(6, 1), loss=loss))


def test_r1_scaled_labels_cut_to_integers_warn():
    x, y = rows()

    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch[1].long())

    scaled = (y - y.float().mean()) / y.float().std()
    warned(look((x, scaled.abs()), loss=loss), "lose their fractions")
    quiet(look((x, y.float()), loss=loss))


# -- reading again -------------------------------------------------------------


def test_r1_labels_drawn_on_reading_warn():
    x, y = rows()

    def random_label(i):
        return x[i], int(torch.randint(3, ()))

    warned(look(Read(random_label)), "labels change")
    noisy = Read(lambda i: (x[i] + 0.05 * torch.randn(6), int(torch.randint(3, ()))))
    warned(look(noisy), "the input hardly does")
    quiet(look(Read(lambda i: (x[i] + 0.05 * torch.randn(6), int(y[i])))))


def test_r1_rotation_as_a_label_passes():
    x, _ = pictures()

    def turned(i):
        turns = int(torch.randint(4, ()))
        return torch.rot90(x[i], turns, (1, 2)), turns

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    quiet(look(Read(turned), model=model))


# -- the answer in the input ---------------------------------------------------


def test_r1_target_left_among_the_features_warns():
    x, y = rows()
    leaky = torch.cat([x[:, :5], y[:, None].float()], dim=1)
    warned(look((leaky, y)), "the answer is among the inputs", "column 5")
    quiet(look((x, y)))


def test_r1_one_hot_target_left_among_the_features_warns():
    x, y = rows()
    leaky = torch.cat([x[:, :3], F.one_hot(y, 3).float()], dim=1)
    warned(look((leaky, y)), "columns 3, 4, 5")
    quiet(look((torch.cat([x[:, :3], F.one_hot(y % 2, 3).float()], 1), y)))


def test_r1_regression_target_left_among_the_features_warns():
    x, _ = rows()
    y = x[:, :5].sum(1, keepdim=True) + torch.randn(200, 1, generator=draw(5))
    leaky = torch.cat([x[:, :5], 3 * y + 1], dim=1)
    given = {"model": nn.Linear(6, 1), "loss": nn.MSELoss()}
    warned(look((leaky, y), **given), "column 5")
    quiet(look((x, y), **given))


def test_r1_sketch_whose_target_is_a_feature_passes():
    x = torch.randn(200, 6, generator=draw())
    given = {"model": nn.Linear(6, 1), "loss": nn.MSELoss()}
    quiet(look((x, x[:, :1] * 3), **given))
    quiet(look((x, x.sum(1, keepdim=True)), **given))
    one = {"model": nn.Linear(1, 1), "loss": nn.MSELoss()}
    quiet(look((x[:, :1], 2 * x[:, :1] + 1), **one))


def test_r1_inputs_as_targets_pass():
    x = torch.randn(200, 6, generator=draw())
    quiet(
        look(
            (x, x),
            (x[::4] + 0.1, x[::4] + 0.1),
            model=nn.Linear(6, 6),
            loss=nn.MSELoss(),
        )
    )
    quiet(look((x, x.argmax(1)), model=net(6, 6)))
    one_hot = F.one_hot(torch.arange(200) % 2).float()
    quiet(look((one_hot, torch.arange(200) % 2), model=net(2, 2)))


# -- preparation ---------------------------------------------------------------


def test_r1_raw_bytes_without_a_norm_warn():
    x, y = pictures()
    raw = x * 255
    warned(look((raw, y), model=seeing()), "not normalised", "Conv2d")
    quiet(look((x, y), model=seeing()))
    normed = nn.Sequential(nn.BatchNorm2d(1), *seeing())
    quiet(look((raw, y), model=normed))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = seeing()

        def forward(self, x):
            return self.inner(x / 255)

    quiet(look((raw, y), model=Scaled()))


def test_r1_codes_for_missing_values_warn():
    x, y = rows()
    x[torch.rand(200, 6, generator=draw(7)) < 0.04] = -999.0
    warned(look((x, y)), "-999")


def test_r1_val_of_another_scale_warns():
    x, y = pictures()
    vx, vy = pictures(40, seed=1)
    normed = (x - 0.5) / 0.29
    warned(look((normed, y), (vx, vy), model=seeing()), "scaled differently")
    warned(look((x, y), (vx * 255, vy), model=seeing()), "scaled differently")
    quiet(look((normed, y), ((vx - 0.5) / 0.29, vy), model=seeing()))


def test_r1_val_targets_of_another_scale_warn():
    x, _ = rows()
    y = 50 * x.sum(1, keepdim=True)
    given = {"model": nn.Linear(6, 1), "loss": nn.MSELoss()}
    vx, _ = rows(60, seed=1)
    vy = 50 * vx.sum(1, keepdim=True)
    warned(look((x, y / y.std()), (vx, vy), **given), "targets are scaled differently")
    quiet(look((x, y), (vx, vy), **given))


def test_r1_series_with_a_trend_passes():
    walk = torch.randn(500, generator=draw(2)).cumsum(0) + torch.linspace(0, 80, 500)
    windows = walk.unfold(0, 9, 1)
    x, y = windows[:, :8], windows[:, 8:]
    given = {"model": nn.Linear(8, 1), "loss": nn.MSELoss()}
    finding = look((x[:380] / 80, y[:380] / 80), (x[400:] / 80, y[400:] / 80), **given)
    quiet(finding)


# -- shifted labels ------------------------------------------------------------


@pytest.mark.parametrize("lag", [1, -1])
def test_r1_labels_shifted_by_a_row_warn(lag):
    x, y = rows(300)
    warned(look((x, y.roll(lag))), "labels look shifted by 1")


def test_r1_labels_without_a_relation_pass():
    x, y = rows(300)
    quiet(look((x, y[torch.randperm(300, generator=draw(9))])))
    quiet(look((x, torch.arange(300) % 3)))


def test_r1_regression_targets_shifted_by_a_row_warn():
    x = torch.randn(200, 4, generator=draw())
    y = x.sum(1, keepdim=True)
    given = {"model": nn.Linear(4, 1), "loss": nn.MSELoss()}
    warned(look((x, y.roll(1, 0)), **given), "shifted by 1", "share explained")
    quiet(look((x, y), **given))
    quiet(look((x, torch.randn(200, 1, generator=draw(4))), **given))


def test_r1_next_value_of_a_series_is_no_shifted_label():
    windows = torch.randn(400, generator=draw()).unfold(0, 5, 1)
    given = {"model": nn.Linear(4, 1), "loss": nn.MSELoss()}
    quiet(look((windows[:, :4], windows[:, 4:]), **given))


# -- windows and numbers -------------------------------------------------------


def test_r1_random_split_of_overlapping_windows_warns():
    windows = torch.randn(400, generator=draw()).cumsum(0).unfold(0, 13, 1)
    x, y = windows[:, :12], windows[:, 12:]
    given = {"model": nn.Linear(12, 1), "loss": nn.MSELoss()}
    order = torch.randperm(len(x), generator=draw(1))
    a, b = order[:300], order[300:]
    warned(look((x[a], y[a]), (x[b], y[b]), **given), "overlap training windows")
    quiet(look((x[:300], y[:300]), (x[310:], y[310:]), **given))


def test_r1_splits_that_number_classes_differently_warn():
    train, (x, y) = rows(300), rows(80, seed=1)
    for inputs, labels in (train, (x, y)):
        inputs[:, 0] += 6.0 * labels
    warned(look(train, (x, (y + 1) % 3)), "number their classes differently")
    quiet(look(train, (x, y)))
    quiet(look(train, (x, y[torch.randperm(80, generator=draw(4))])))


def test_r1_tables_of_classes_that_differ_warn():
    def named(table):
        data = Read(lambda i: (torch.randn(6), i % 3))
        data.class_to_idx = table
        return data

    ours, theirs = {"cat": 0, "dog": 1, "fox": 2}, {"dog": 0, "fox": 1, "cat": 2}
    warned(look(named(ours), named(theirs)), "number their classes", "'cat' is 0 and 2")
    quiet(look(named(ours), named(dict(ours))))


def test_r1_another_vocabulary_in_val_warns():
    ids = torch.randint(30, (200, 12), generator=draw())
    y = ids[:, 0] % 3
    model = nn.Sequential(nn.EmbeddingBag(200, 8), nn.Linear(8, 3))
    warned(
        look((ids, y), (ids[:60] + 100, y[:60]), model=model), "other ids than train"
    )
    fresh = torch.randint(30, (60, 12), generator=draw(1))
    quiet(look((ids, y), (fresh, fresh[:, 0] % 3), model=model))


def test_r1_pictures_divided_twice_warn():
    x, y = pictures()
    warned(look((x / 255, y), model=seeing()), "nearly vanish")
    normed = nn.Sequential(nn.BatchNorm2d(1), *seeing())
    quiet(look((x / 255, y), model=normed))


# -- other forms of data -------------------------------------------------------


def test_r1_dicts_and_whole_batches_are_understood():
    x, y = rows()
    data = Read(lambda i: {"feat": x[0 if i % 2 else i], "label": y[i], "name": f"{i}"})
    finding = look(
        data,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["label"]),
        forward=lambda model, batch: model(batch["feat"]),
    )
    warned(finding, "placeholders", "51 of 100")


def test_r1_is_in_the_catalogue():
    assert r1.CHECK in CATALOGUE
