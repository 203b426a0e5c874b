from __future__ import annotations

import gc
import random
import signal

import numpy as np
import pytest
import torch
from helpers_data import Broken, Noisy, Stream, make_config, make_task
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as GraphLoader

from nbutils.data import collate, make_loader
from nbutils.data.map_loader import MapLoader
from nbutils.data.stream_loader import StreamLoader
from nbutils.data.tensor_loader import TensorLoader
from nbutils.errors import ContractError

X, Y = torch.randn(10, 3), torch.arange(10)


def loader_of(data, split="train", task_options=None, device=None, size=None, **config):
    options = dict(task_options or {})
    task = make_task(data, **options)
    if split != "train":
        task = make_task((X, Y), **{f"{split}_data": data}, **options)
    return make_loader(
        task, split, make_config(**config), batch_size=size, device=device
    )


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return all(same(a, b) for a, b in zip(first, second, strict=True))


def visited(loader) -> list[list[int]]:
    return [batch[1].tolist() for batch in loader]


def slow_collate(samples):
    return collate(samples)


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def assert_untouched(before):
    now = states()
    assert torch.equal(before[0], now[0])
    assert np.array_equal(before[1], now[1])
    assert before[2] == now[2]


# --- which loader, and that the fast one equals the slow one


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_tensor_loader_equals_map_loader(split, drop_last):
    fast = loader_of((X, Y), split, drop_last=drop_last)
    slow = loader_of((X, Y), split, {"collate": slow_collate}, drop_last=drop_last)
    assert type(fast) is TensorLoader
    assert type(slow) is MapLoader
    for epoch, batch in [(0, 0), (3, 1)]:
        fast.set_position(epoch, batch)
        slow.set_position(epoch, batch)
        assert same(list(fast), list(slow))
    assert (len(fast), fast.num_samples) == (len(slow), slow.num_samples)


def test_tensor_loader_dict_and_subset_give_rows_of_the_data():
    batches = list(loader_of({"x": X, "y": Y}, "val"))
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), X)
    part = Subset(Subset(TensorDataset(X, Y), [9, 5, 1, 3]), [3, 0])
    loader = loader_of(part, "val")
    assert type(loader) is TensorLoader
    assert visited(loader) == [[3, 9]]


def test_tensor_loader_batch_changed_in_place_leaves_the_data():
    data = X.clone()
    for batch in loader_of((data, Y), shuffle=False):
        batch[0].zero_()
    assert torch.equal(data, X)


def test_tensor_subclass_takes_the_slow_path():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return 2 * x, y

    loader = loader_of(Doubled(X, Y), "val")
    assert type(loader) is MapLoader
    assert torch.equal(next(iter(loader))[0], 2 * X[:4])
    assert type(loader_of(Subset(Doubled(X, Y), [0]), "val")) is MapLoader


def test_list_of_samples_and_graphs_are_read():
    strings = [{"text": str(number), "y": number} for number in range(5)]
    first = next(iter(loader_of(strings, "val")))
    assert first["text"] == ["0", "1", "2", "3"]
    graphs = [Data(x=torch.ones(n, 3), y=n) for n in range(1, 6)]
    batches = list(loader_of(graphs, "val"))
    assert isinstance(batches[0], Batch)
    assert [batch.num_graphs for batch in batches] == [4, 1]


# --- order, position, indices


@pytest.mark.parametrize("data", [(X, Y), Noisy(10)])
def test_order_train_depends_on_seed_and_epoch_only(data):
    loader = loader_of(data)
    first = visited(loader)
    assert sorted(index for batch in first for index in batch) == list(range(10))
    assert [loader.indices(number) for number in range(3)] == first
    loader.set_position(1)
    second = visited(loader)
    assert second != first
    torch.rand(3)
    loader.set_position(0)
    assert visited(loader) == first
    assert visited(loader_of(data, seed=1)) != first


@pytest.mark.parametrize("split", ["val", "test"])
def test_order_evaluation_is_that_of_the_data(split):
    loader = loader_of(Noisy(10), split, drop_last=True)
    assert visited(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_order_shuffle_off_keeps_the_data_order():
    assert visited(loader_of((X, Y), shuffle=False))[0] == [0, 1, 2, 3]


def test_position_inside_an_epoch_reads_nothing_before_it():
    data = Noisy(10)
    loader = loader_of(data)
    expected = [loader.indices(2)]
    loader.set_position(0, 2)
    assert visited(loader) == expected
    assert data.reads == expected[0]


@pytest.mark.parametrize("data", [(X, Y), Noisy(10)])
def test_position_at_the_end_yields_nothing(data):
    loader = loader_of(data)
    loader.set_position(0, 3)
    assert list(loader) == []
    loader = loader_of(data, drop_last=True)
    loader.set_position(0, 2)
    assert list(loader) == []


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (0, 4)])
def test_position_outside_the_epoch_raises(position):
    with pytest.raises(ContractError, match=r"expected. Was the run saved with other"):
        loader_of((X, Y)).set_position(*position)


@pytest.mark.parametrize("number", [-1, 3])
def test_indices_of_no_batch_raises(number):
    with pytest.raises(ContractError, match=f"has no batch {number}; 0 to 2"):
        loader_of((X, Y)).indices(number)


def test_batch_size_argument_goes_first():
    assert len(loader_of((X, Y), size=2)) == 5
    with pytest.raises(ContractError, match="batch_size is 0"):
        loader_of((X, Y), size=0)


# --- randomness


def test_workers_give_the_same_augmented_samples():
    here = loader_of(Noisy(10))
    there = loader_of(Noisy(10), num_workers=2)
    try:
        for epoch, batch in [(0, 0), (1, 1)]:
            here.set_position(epoch, batch)
            there.set_position(epoch, batch)
            assert same(list(here), list(there))
        there.set_position(0)
        next(iter(there))  # left inside an epoch
        here.set_position(2)
        there.set_position(2)
        before = states()
        assert same(list(here), list(there))
        assert_untouched(before)
    finally:
        there.close()
        gc.collect()


def test_workers_seeded_collate_gives_the_same_batches():
    def mix_up(samples):
        x, y = collate(samples)
        return x * torch.rand(()), y

    samples = [(torch.ones(3), number) for number in range(6)]
    options = {"collate": mix_up}
    there = loader_of(samples, task_options=options, num_workers=1)
    try:
        assert same(list(loader_of(samples, task_options=options)), list(there))
    finally:
        there.close()
        gc.collect()


def test_augmentation_differs_between_train_epochs_not_between_evaluations():
    train, val = loader_of(Noisy(4), shuffle=False), loader_of(Noisy(4), "val")
    first = (next(iter(train))[0], next(iter(val))[0])
    train.set_position(1)
    val.set_position(1)
    assert not torch.equal(first[0], next(iter(train))[0])
    assert torch.equal(first[1], next(iter(val))[0])


def test_augmentation_does_not_depend_on_the_batch_size():
    rows = [torch.cat([b[0] for b in loader_of(Noisy(9), size=n)]) for n in (2, 5)]
    assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("data", [(X, Y), Noisy(10), [(X[0], 1)] * 5, Stream(9)])
def test_fetching_leaves_the_generators_untouched(data):
    loader = loader_of(data)
    before = states()
    for _ in loader:
        assert_untouched(before)
    assert_untouched(before)


# --- a DataLoader as data


def test_dataloader_settings_are_taken_where_the_config_is_silent():
    given = DataLoader(Noisy(10), batch_size=3, shuffle=True, drop_last=True)
    loader = loader_of(given, batch_size=5, drop_last=False, shuffle=False)
    assert type(loader) is MapLoader
    assert (loader.plan.batch_size, len(loader), loader.num_samples) == (3, 3, 9)
    assert loader.plan.shuffle
    assert loader.plan.collate is default_collate
    plain = loader_of(DataLoader(Noisy(10), batch_size=3))
    assert not plain.plan.shuffle


def test_dataloader_settings_yield_to_what_the_user_set():
    given = DataLoader(Noisy(10), batch_size=3, shuffle=True, drop_last=True)
    loader = loader_of(
        given,
        batch_size=5,
        shuffle=False,
        drop_last=False,
        given=("batch_size", "shuffle", "drop_last", "num_workers"),
    )
    assert visited(loader) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_dataloader_of_evaluation_is_never_shuffled():
    given = DataLoader(Noisy(6), batch_size=3, shuffle=True)
    assert visited(loader_of(given, "val")) == [[0, 1, 2], [3, 4, 5]]


def test_dataloader_collate_is_kept_and_the_tasks_own_goes_first():
    given = DataLoader(TensorDataset(X, Y), batch_size=4)
    fast = loader_of(given)
    assert type(fast) is TensorLoader
    assert type(next(iter(fast))) is list  # as torch's own collate makes it
    own = DataLoader(Noisy(4), collate_fn=lambda samples: len(samples))
    assert list(loader_of(own, size=4)) == [4]
    assert list(loader_of(own, task_options={"collate": lambda s: "own"}, size=4)) == [
        "own"
    ]


def test_dataloader_of_graphs_keeps_its_collate():
    graphs = [Data(x=torch.ones(n, 3), y=n) for n in range(1, 6)]
    loader = loader_of(GraphLoader(graphs, batch_size=2, shuffle=True))
    assert type(loader) is MapLoader
    assert sorted(b.num_graphs for b in loader) == [1, 2, 2]


def test_dataloader_worker_start_is_kept():
    started = []
    given = DataLoader(Noisy(4), worker_init_fn=started.append)
    assert loader_of(given).plan.worker_options[0][0] == "worker_init_fn"


def test_workers_run_the_users_start():
    def start(worker):
        torch.set_default_dtype(torch.float64)

    class Typed(Noisy):
        def __getitem__(self, index):
            return torch.ones(1), index

    given = DataLoader(Typed(4), num_workers=1, worker_init_fn=start, prefetch_factor=3)
    loader = loader_of(given, size=2)
    try:
        assert next(iter(loader))[0].dtype == torch.float64
    finally:
        loader.close()
        gc.collect()


def test_workers_ignore_interrupts_and_end_on_terminate():
    class Handlers(Noisy):
        def __getitem__(self, index):
            interrupt, end = map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))
            return interrupt is signal.SIG_IGN, end is signal.SIG_DFL

    loader = loader_of(Handlers(2), num_workers=1)
    try:
        assert [flags.all().item() for flags in next(iter(loader))] == [True, True]
    finally:
        loader.close()
        gc.collect()


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": WeightedRandomSampler([1.0] * 10, 10), "batch_size": 4},
        {"sampler": RandomSampler(range(10), num_samples=5), "batch_size": 4},
        {"batch_sampler": BatchSampler(SequentialSampler(range(10)), 4, False)},
        {"batch_size": None},
    ],
)
def test_dataloader_with_its_own_sampling_is_a_stream(options):
    given = DataLoader(Noisy(10), **options)
    loader = loader_of(given)
    assert type(loader) is StreamLoader
    assert len(list(loader)) == len(loader)
    assert loader.indices(0) is None


def test_stream_epoch_is_repeatable_and_position_skips():
    weights = WeightedRandomSampler([1.0] * 10, 10)
    loader = loader_of(DataLoader(Noisy(10), sampler=weights, batch_size=4))
    first = list(loader)
    torch.rand(3)
    assert same(list(loader), first)
    loader.set_position(0, 1)
    assert same(list(loader), first[1:])
    loader.set_position(1)
    assert not same(list(loader), first)


def test_stream_generator_of_the_user_is_reseeded():
    sampler = RandomSampler(
        range(10), num_samples=5, generator=torch.Generator().manual_seed(1)
    )
    loader = loader_of(DataLoader(Noisy(10), sampler=sampler, batch_size=5))
    assert visited(loader) == visited(loader)


def test_stream_is_told_the_epoch():
    class Told(Stream):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    data = Told(3)
    loader = loader_of(data)
    loader.set_position(4)
    list(loader)
    assert data.epoch == 4


def test_stream_iterable_dataset_has_no_length():
    loader = loader_of(Stream(6))
    assert type(loader) is StreamLoader
    assert (loader.num_batches, loader.num_samples) == (None, None)
    assert visited(loader) == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(TypeError, match="does not know its number of batches"):
        len(loader)
    loader.close()


def test_stream_iterable_dataset_with_length_counts():
    class Sized(Stream):
        def __len__(self):
            return self.length

    loader = loader_of(Sized(10), drop_last=True)
    assert (len(loader), loader.num_samples) == (2, 8)
    assert loader_of(Sized(10)).num_samples == 10


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": None}, None),
        ({"sampler": WeightedRandomSampler([1.0] * 10, 7), "batch_size": 4}, 7),
    ],
)
def test_stream_counts_samples_where_it_can(options, expected):
    loader = loader_of(DataLoader(Noisy(10), **options))
    assert loader.num_samples == expected


def test_stream_settings_that_do_not_fit_raise():
    sampler = WeightedRandomSampler([1.0] * 10, 10)
    given = DataLoader(Noisy(10), sampler=sampler, batch_size=4)
    assert len(loader_of(given, size=4)) == 3
    for options in ({"size": 2}, {"batch_size": 2, "given": ("batch_size",)}):
        with pytest.raises(
            ContractError, match=r"batch_size is 2, .* has 4 by a sampler"
        ):
            loader_of(given, **options)
    with pytest.raises(ContractError, match="batches by itself"):
        loader_of(given, task_options={"collate": slow_collate})


def test_stream_that_ends_early_raises():
    with pytest.raises(ContractError, match="gave no batch: it ended at once"):
        list(loader_of(Stream(0)))
    loader = loader_of(Stream(6))
    loader.set_position(0, 5)
    with pytest.raises(ContractError, match=r"ended after 2 batches.*batch 5"):
        list(loader)


def test_stream_of_length_zero_raises():
    class Sized(Stream):
        def __len__(self):
            return self.length

    with pytest.raises(ContractError, match="its length is 0"):
        loader_of(Sized(3), drop_last=True)


# --- errors


def test_empty_epoch_raises_with_the_fix():
    with pytest.raises(
        ContractError, match=r"10 samples, fewer than batch_size=16.*10"
    ):
        loader_of((X, Y), batch_size=16, drop_last=True)


def test_empty_data_raises_with_the_fix():
    samples = [(X[0], 1)]
    task = make_task((X, Y), val_data=samples)
    samples.clear()  # emptied after the task was made
    with pytest.raises(ContractError, match=r"'val' has 0 samples.*Check the path"):
        make_loader(task, "val", make_config())


def notes(error) -> str:
    return " ".join(getattr(error, "__notes__", ["unsupported"]))


def test_error_of_a_dataset_names_split_and_index():
    with pytest.raises(OSError, match=r"scan.png is cut off") as caught:
        list(loader_of(Broken(), "val"))
    assert notes(caught.value) in ("while reading sample 2 of 'val'", "unsupported")


def test_error_of_a_dataset_in_a_worker_is_raised_here():
    loader = loader_of(Broken(), "val", num_workers=1)
    try:
        with pytest.raises(OSError, match=r"scan.png is cut off"):
            list(loader)
    finally:
        loader.close()
        gc.collect()


def test_error_of_collate_names_the_samples():
    ragged = [torch.ones(1), torch.ones(2)]
    with pytest.raises(ContractError, match="has shape") as caught:
        list(loader_of(ragged, "val"))
    expected = "while collating samples [0, 1] of 'val'"
    assert notes(caught.value) in (expected, "unsupported")


def test_error_of_a_stream_names_the_batch():
    class Failing(Stream):
        def __iter__(self):
            yield torch.ones(1), 0
            raise OSError("shard is gone")

    with pytest.raises(OSError, match="shard is gone") as caught:
        list(loader_of(Failing(2), size=1))
    assert notes(caught.value) in ("while reading batch 1 of 'train'", "unsupported")
