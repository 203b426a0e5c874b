"""Law 6: out of memory is known by every name, undone, split, and trained through."""

from __future__ import annotations

import random
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.data.contract import Contract
from nbutils.train.buffers import LiveBuffers
from nbutils.train.careful import CarefulUpdate
from nbutils.train.memory_errors import (
    OutOfMemoryProblem,
    free_memory,
    is_out_of_memory,
    release,
)
from nbutils.train.oom import MicroBatches, Pieces
from nbutils.train.precision import Precision
from nbutils.train.update import HostUpdate

CPU = torch.device("cpu")
FULL = "CUDA out of memory. Tried to allocate 20.00 MiB."
CUDNN = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."

MEMORY: list[BaseException] = [
    torch.OutOfMemoryError(FULL),
    torch.cuda.OutOfMemoryError(FULL),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.90 GiB)"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError(f"{CUDNN} GET was unable to find an engine: not enough workspace"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"),
    RuntimeError("CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES when calling"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, other: 1.2 GB)"),
    RuntimeError("Invalid buffer size: 24.00 GiB"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("HIP error: hipErrorOutOfMemory"),
    RuntimeError("XPU out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("Native API failed: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: "),
    RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400"),
    RuntimeError("unable to mmap 512 bytes from file: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("out of memory"),
    MemoryError(),
    MemoryError("std::bad_alloc"),
    OSError(12, "Cannot allocate memory"),
]

OTHERS: list[BaseException] = [
    RuntimeError("Expected all tensors to be on the same device, but found cuda:0"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x2)"),
    RuntimeError("unsupported memory format option ChannelsLast"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError(f"{CUDNN} This may appear if you passed in a non-contiguous input."),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is "
                 "possible that dataloader's workers are out of shared memory."),
    RuntimeError("the replay memory is out of memory slots"),
    RuntimeError("set expandable_segments to avoid CUDA out of memory errors"),
    ValueError("out of memory"),
    OSError(28, "No space left on device"),
    KeyError("CUDA out of memory"),
]  # fmt: skip


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: str(error)[:50])
def test_oom_every_spelling_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:50])
def test_oom_other_errors_are_not_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def wrapped(cause: BaseException, *, how: str) -> BaseException:
    try:
        try:
            raise cause
        except BaseException as error:
            if how == "from":
                raise ValueError("the library's forward failed") from error
            if how == "hidden":
                raise ValueError("the library's forward failed") from None
            raise ValueError("the library's clean-up failed")  # noqa: B904
    except ValueError as error:
        return error


@pytest.mark.parametrize("how", ["from", "while"])
def test_oom_wrapped_by_a_library_is_recognised(how: str) -> None:
    assert is_out_of_memory(wrapped(torch.OutOfMemoryError(FULL), how=how))
    assert not is_out_of_memory(wrapped(RuntimeError("shape"), how=how))


def test_oom_hidden_by_from_none_is_not_recognised() -> None:
    assert not is_out_of_memory(wrapped(torch.OutOfMemoryError(FULL), how="hidden"))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups and notes are of 3.11")
def test_oom_notes_and_groups_are_looked_through() -> None:
    error = torch.OutOfMemoryError(FULL)
    error.add_note("while reading sample 3")
    group = ExceptionGroup("two", [ValueError("a"), error])  # noqa: F821
    assert is_out_of_memory(group)
    noted = RuntimeError("shapes differ")
    noted.add_note("this is no CUDA out of memory")
    assert not is_out_of_memory(noted)


def test_oom_handled_outside_says_nothing_about_a_new_error() -> None:
    outside = torch.OutOfMemoryError(FULL)
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    error.__context__ = outside  # as Python sets it in an ``except`` block
    assert not is_out_of_memory(error, outside)
    assert is_out_of_memory(error)


def make_micro(model: nn.Module, **options: Any) -> tuple[MicroBatches, list[int]]:
    splits: list[int] = []
    buffers = LiveBuffers(model)
    buffers.keep()
    options = {"enabled": True, "on_split": splits.append, **options}
    return MicroBatches(model, CPU, buffers, **options), splits


def fits(limit: int, seen: list[Any] | None = None):
    """An accumulation that has room for ``limit`` samples at a time."""

    def accumulate(parts: list[Any]) -> list[int]:
        sizes = [len(part) for part in parts]
        if seen is not None:
            seen.append(sizes)
        if max(sizes) > limit:
            raise torch.OutOfMemoryError(FULL)
        return sizes

    return accumulate


@pytest.mark.parametrize(
    ("size", "limit", "found"),
    [(16, 16, None), (16, 15, 8), (16, 4, 4), (5, 3, 3), (5, 2, 2), (7, 1, 1)],
)
def test_micro_batches_are_as_small_as_needed_only(
    size: int, limit: int, found: int | None
) -> None:
    micro, _ = make_micro(nn.Identity())
    sizes = micro.run([torch.zeros(size, 1)], fits(limit))
    assert sum(sizes) == size
    assert micro.micro_batch == found
    assert max(sizes) - min(sizes) <= 1


def test_micro_batch_is_kept_and_smaller_batches_stay_whole() -> None:
    micro, splits = make_micro(nn.Identity())
    micro.run([torch.zeros(16, 1)], fits(4))
    assert splits == [8, 4]
    assert micro.run([torch.zeros(16, 1), torch.zeros(3, 1)], fits(4)) == [4] * 4 + [3]
    assert splits == [8, 4]


def test_micro_batch_is_told_once_it_fitted() -> None:
    told: list[tuple[int, int]] = []
    micro, _ = make_micro(nn.Identity())
    micro.on_learnt = lambda micro_batch, size: told.append((micro_batch, size))
    micro.run([torch.zeros(16, 1)], fits(4))
    micro.run([torch.zeros(16, 1)], fits(4))
    assert told == [(4, 16)]


def test_micro_batch_state_goes_through_a_snapshot() -> None:
    micro, _ = make_micro(nn.Identity())
    micro.run([torch.zeros(16, 1)], fits(4))
    other, splits = make_micro(nn.Identity())
    other.load_state_dict(micro.state_dict())
    assert other.run([torch.zeros(16, 1)], fits(4)) == [4] * 4
    assert splits == []


def fails(times: int, seen: list[int]):
    """An accumulation that runs out of memory so many times, whatever its size."""
    left = [times]

    def accumulate(parts: list[Any]) -> list[int]:
        sizes = [len(part) for part in parts]
        seen.append(max(sizes))
        if left[0] > 0:
            left[0] -= 1
            raise torch.OutOfMemoryError(FULL)
        return sizes

    return accumulate


@pytest.mark.parametrize(
    ("known", "num_failures", "tried"),
    [
        ("nothing", 1, [16, 8]),  # it may never fit
        ("trained with", 1, [16, 16]),
        ("trained with", 2, [16, 16, 8]),  # then less at once, as it is new
        ("trained with", 3, [16, 16, 8, 4]),
        ("recalled", 1, [4, 4]),
        ("recalled", 2, [4, 4, 2]),
        ("resumed", 1, [16, 16]),
    ],
)
def test_size_that_fitted_is_tried_twice_before_it_is_halved(
    known: str, num_failures: int, tried: list[int]
) -> None:
    micro, splits = make_micro(nn.Identity())
    learnt: list[int] = []
    micro.on_learnt = lambda micro_batch, size: learnt.append(micro_batch)
    if known == "recalled":
        micro.start_at(4)
    if known in ("trained with", "resumed"):
        micro.run([torch.zeros(16, 1)], fits(16))
    if known == "resumed":
        earlier, (micro, splits) = micro, make_micro(nn.Identity())
        micro.load_state_dict(earlier.state_dict())
    seen: list[int] = []
    sizes = micro.run([torch.zeros(16, 1)], fails(num_failures, seen))
    assert seen == tried
    assert sum(sizes) == 16
    smaller = sorted(set(tried), reverse=True)[1:]
    assert splits == smaller
    assert learnt == (smaller[-1:] if known != "resumed" else [])


def test_failure_now_and_then_never_halves_what_fits() -> None:
    told: list[bool] = []
    micro, splits = make_micro(nn.Identity(), on_repeat=told.append)
    micro.run([torch.zeros(8, 1)], fits(8))
    for _ in range(9):
        assert micro.run([torch.zeros(8, 1)], fails(1, [])) == [8]
    assert (splits, micro.micro_batch, told) == ([], None, [True] + 8 * [False])


def test_window_that_fails_for_good_leaves_what_is_known_of_its_size() -> None:
    micro, _ = make_micro(nn.Identity())
    micro.run([torch.zeros(2, 1)], fits(2))
    with pytest.raises(OutOfMemoryProblem, match="not even one sample"):
        micro.run([torch.zeros(2, 1)], fits(0))
    assert micro.state_dict() == {"micro_batch": None, "has_fitted": True}


def test_single_sample_gets_a_second_attempt() -> None:
    micro, splits = make_micro(nn.Identity())
    seen: list[int] = []
    assert micro.run([torch.zeros(1, 1)], fails(1, seen)) == [1]
    with pytest.raises(OutOfMemoryProblem, match="not even one sample"):
        micro.run([torch.zeros(1, 1)], fails(2, seen))
    assert seen == [1, 1, 1, 1]
    assert splits == []


def test_batch_that_cannot_be_split_gets_a_second_attempt() -> None:
    task = simple_task(declares=["samples interact"])
    micro, splits = make_micro(task.model, task=task)
    seen: list[int] = []
    assert micro.run([torch.zeros(4, 2)], fails(1, seen)) == [4]
    assert (seen, splits) == ([4, 4], [])


def test_retry_has_the_same_random_numbers_and_buffers() -> None:
    model = nn.BatchNorm1d(2)
    seen: list[Any] = []
    micro, splits = make_micro(model)

    def accumulate(parts: list[torch.Tensor]) -> int:
        draws = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
        seen.append(draws)
        model.running_mean.add_(1.0)
        if len(parts) == 1:
            raise torch.OutOfMemoryError(FULL)
        return len(parts)

    assert micro.run([torch.zeros(4, 2)], accumulate) == 2
    assert seen[0] == seen[1]
    assert model.running_mean.tolist() == [1.0, 1.0]
    assert splits == [2]


def test_retry_late_in_a_run_still_restores_the_generators_in_use() -> None:
    micro, _ = make_micro(nn.Identity())
    for _ in range(20):
        micro.run([torch.zeros(4, 2)], lambda parts: np.random.rand())
    seen: list[float] = []

    def accumulate(parts: list[torch.Tensor]) -> None:
        seen.append(np.random.rand())
        if len(parts) == 1:
            raise torch.OutOfMemoryError(FULL)

    micro.run([torch.zeros(4, 2)], accumulate)
    assert seen[0] == seen[1]


def test_retry_drops_partial_gradients_of_model_loss_and_optimizer() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, outputs: torch.Tensor, _batch: Any) -> torch.Tensor:
            return (outputs * self.scale).mean()

    model, loss, loose = nn.Linear(1, 1), Scaled(), nn.Parameter(torch.ones(1))
    owned = [*model.parameters(), *loss.parameters(), loose]
    micro, _ = make_micro(
        model, task=nb.Task(model, loss, [0]), optimizer=torch.optim.SGD(owned, lr=1)
    )

    def accumulate(parts: list[torch.Tensor]) -> None:
        for part in parts:
            (loss(model(part), None) * loose).backward()
        if len(parts) == 1:
            raise torch.OutOfMemoryError(FULL)

    micro.run([torch.ones(2, 1)], accumulate)
    found = [parameter.grad.clone() for parameter in owned]
    for parameter in owned:
        parameter.grad = None
    accumulate([torch.ones(1, 1), torch.ones(1, 1)])
    assert found == [parameter.grad for parameter in owned]


def test_single_sample_that_does_not_fit_says_so_and_undoes_the_window() -> None:
    model = nn.BatchNorm1d(2)
    micro, _ = make_micro(model)
    before = torch.get_rng_state()

    def accumulate(_parts: object) -> None:
        torch.rand(3)
        model.running_mean.add_(1.0)
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(torch.OutOfMemoryError, match="not even one sample") as caught:
        micro.run([torch.zeros(2, 2)], accumulate)
    assert isinstance(caught.value, nb.NbutilsError)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.running_mean.tolist() == [0.0, 0.0]


def test_other_errors_pass_untouched() -> None:
    micro, splits = make_micro(nn.Identity())
    with pytest.raises(RuntimeError, match="illegal memory access"):
        micro.run([torch.zeros(2, 1)], _illegal)
    assert splits == []


def _illegal(_parts: object) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_inside_a_handled_oom_another_error_is_not_taken_for_one() -> None:
    micro, splits = make_micro(nn.Identity())
    try:
        raise torch.OutOfMemoryError(FULL)
    except torch.OutOfMemoryError:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            micro.run([torch.zeros(2, 1)], _illegal)
    assert splits == []


def test_splitting_off_raises_what_was_raised() -> None:
    micro, splits = make_micro(nn.Identity(), enabled=False)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        micro.run([torch.zeros(2, 1)], fits(1))
    assert splits == []


def simple_task(**options: Any) -> nb.Task:
    model = nn.Linear(2, 1)
    return nb.Task(model, lambda o, b: o.mean(), [0], **options)


@pytest.mark.parametrize(
    ("options", "batch", "words"),
    [
        ({"declares": ["samples interact"]}, torch.zeros(4, 2), "samples .* interact"),
        ({"count_targets": lambda b: 1}, torch.zeros(4, 2), "count 1 . 1 targets, and"),
        (
            {},
            {"ids": torch.arange(9), "offsets": torch.tensor([0, 3, 5]), "y": [1] * 3},
            "cannot be split",
        ),
    ],
)
def test_batches_that_are_no_sum_of_parts_end_the_run_with_the_reason(
    options: dict[str, Any], batch: Any, words: str
) -> None:
    task = simple_task(**options)
    micro, splits = make_micro(task.model, task=task)

    def accumulate(_parts: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(OutOfMemoryProblem, match=words) as caught:
        micro.run([batch], accumulate)
    assert "batch_size" in str(caught.value)
    assert splits == []
    assert micro.micro_batch is None


class Opaque:
    """A batch of the user's own class, whose size only count_targets knows."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


def opaque_task(*, fails: bool) -> nb.Task:
    def forward(model: nn.Module, batch: Opaque) -> torch.Tensor:
        if fails:
            raise torch.OutOfMemoryError(FULL)
        return model(batch.x)

    return nb.Task(
        nn.Linear(2, 1),
        lambda outputs, batch: outputs.square().mean(),
        list(torch.ones(8, 2)),
        forward=forward,
        collate=lambda samples: Opaque(torch.stack(samples)),
        count_targets=lambda batch: len(batch.x),
    )


def test_batch_of_unknown_size_trains_whole_and_says_that_it_cannot_be_split() -> None:
    more: dict[str, Any] = {"epochs": 1, "preflight": "skip", "panel": "off"}
    train = nb.TrainingCoordinator(opaque_task(fails=False), run_dir="a", **more).train
    assert train().stop_reason == "completed"
    train = nb.TrainingCoordinator(opaque_task(fails=True), run_dir="b", **more).train
    with pytest.raises(OutOfMemoryProblem, match="size of this batch cannot be told"):
        train()


def test_contract_decides_what_is_cut() -> None:
    contract = Contract({"0": "float32 (T, B, 2)", "1": "int64 (B,)"})
    task = simple_task(contract=contract, count_targets=lambda batch: len(batch[1]))
    micro, _ = make_micro(task.model, task=task)
    batch = (torch.zeros(7, 4, 2), torch.arange(4))

    def accumulate(parts: list[Any]) -> list[Any]:
        if len(parts) == 1:
            raise torch.OutOfMemoryError(FULL)
        return [(tuple(x.shape), y.tolist()) for x, y in parts]

    shapes = micro.run([batch], accumulate)
    assert shapes == [((7, 2, 2), [0, 1]), ((7, 2, 2), [2, 3])]


class Leaky(nn.Module):
    """Keeps weak references to its activations; has no room for more than two."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.alive: list[int] = []
        self.seen: list[weakref.ref[torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.alive.append(sum(ref() is not None for ref in self.seen))
        hidden = self.inner(x).exp()
        self.seen = [weakref.ref(hidden)]
        if len(x) > 2:
            holds_the_graph = hidden * 2
            raise torch.OutOfMemoryError(f"{FULL} {holds_the_graph.shape}")
        return hidden.exp()


def attempt_with(model: Leaky) -> list[int]:
    micro, _ = make_micro(model)

    def accumulate(parts: list[torch.Tensor]) -> None:
        for part in parts:
            model(part).sum().backward()
            model.seen.clear()

    micro.run([torch.ones(8, 3)], accumulate)
    return model.alive


def test_activations_of_a_failed_attempt_are_freed_before_the_next() -> None:
    assert attempt_with(Leaky()) == [0] * 6


def test_activations_of_a_wrapped_failure_are_freed() -> None:
    class Wrapping(Leaky):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return super().forward(x)
            except torch.OutOfMemoryError as error:
                raise RuntimeError("block 3 failed") from error

    assert attempt_with(Wrapping()) == [0] * 6


def test_frames_that_a_notebook_keeps_of_an_earlier_cell_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IPython keeps the traceback of the last failed cell, and with it its tensors."""
    kept: list[weakref.ref[torch.Tensor]] = []

    def failed_cell() -> None:
        large = torch.zeros(1000)
        kept.append(weakref.ref(large))
        raise ValueError("an earlier cell")

    try:
        failed_cell()
    except ValueError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
        monkeypatch.setattr(sys, "last_exc", error, raising=False)
        monkeypatch.setattr(sys, "last_traceback", error.__traceback__, raising=False)
        shell = type("Shell", (), {})()
        shell.InteractiveTB = type("Tracebacks", (), {})()
        shell.InteractiveTB.tb = error.__traceback__
        fake = type(sys)("IPython")
        fake.get_ipython = lambda: shell  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", fake)
    assert kept[0]() is not None
    release(torch.OutOfMemoryError(FULL))
    free_memory(CPU)
    assert kept[0]() is None


class Hungry(torch.optim.SGD):
    """Moves its first group, then finds no memory for the second."""

    def step(self, closure: Any = None) -> None:
        weight = self.param_groups[0]["params"][0]
        self.state[weight]["momentum"] = torch.zeros(1)
        with torch.no_grad():
            weight.add_(1.0)
        raise torch.OutOfMemoryError(FULL)


def test_oom_while_the_optimizer_makes_its_state_leaves_the_weights() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = Hungry(model.parameters(), lr=0.1)
    guard = nb.RunConfig().guard
    update = CarefulUpdate(HostUpdate(optimizer, Precision("fp32", CPU), guard, None))
    loss = model(torch.ones(3, 2)).mean()
    loss.backward()
    with pytest.raises(OutOfMemoryProblem, match="weights are unharmed") as caught:
        update(loss.detach())
    assert "8-bit optimizer" in str(caught.value)
    assert torch.equal(model.weight, before)
    assert not optimizer.state
    assert model.weight.grad is None


def test_oom_in_a_later_update_points_to_the_checkpoint() -> None:
    model = nn.Linear(2, 1)
    optimizer = Hungry(model.parameters(), lr=0.1)
    optimizer.state[model.weight]["momentum"] = torch.zeros(1)
    guard = nb.RunConfig().guard
    update = CarefulUpdate(HostUpdate(optimizer, Precision("fp32", CPU), guard, None))
    loss = model(torch.ones(3, 2)).mean()
    loss.backward()
    with pytest.raises(OutOfMemoryProblem, match="resume from the last checkpoint"):
        update(loss.detach())


def test_other_errors_of_the_update_pass() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = nb.RunConfig().guard
    update = CarefulUpdate(HostUpdate(optimizer, Precision("fp32", CPU), guard, None))
    with pytest.raises(nb.ContractError, match="no gradient"):
        update(torch.zeros(()))
    with pytest.raises(nb.ContractError, match="no gradient"):
        update(torch.zeros(()))


def test_pieces_count_each_sample_once_and_keep_order() -> None:
    splits: list[int] = []
    pieces = Pieces(CPU, simple_task(), on_split=splits.append)
    room = {"samples": 6}
    done: list[float] = []

    def attempt(piece: torch.Tensor) -> list[float]:
        if len(piece) > room["samples"]:
            raise torch.OutOfMemoryError(FULL)
        if piece[0, 0] >= 5:
            room["samples"] = 2  # gets tighter in the middle of a batch
            if len(piece) > 2:
                raise torch.OutOfMemoryError(FULL)
        return piece[:, 0].tolist()

    rows = torch.arange(20.0).reshape(10, 2)
    pieces.run(rows, attempt, done.extend)
    assert done == rows[:, 0].tolist()
    assert splits == [5, 3, 2]
    assert pieces.state_dict() == {"piece": 2, "has_fitted": True}


def test_pieces_one_sample_that_does_not_fit_raises() -> None:
    pieces = Pieces(CPU, simple_task(), on_split=lambda size: None)

    def attempt(_piece: object) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemoryProblem, match="not even one sample"):
        pieces.run(torch.zeros(3, 2), attempt, print)


@pytest.mark.parametrize(("size", "tried"), [(1, [1, 1]), (6, [6, 3, 3])])
def test_pieces_of_a_first_failure(size: int, tried: list[int]) -> None:
    """One sample is tried again as it is, more samples in halves."""
    splits: list[int] = []
    pieces = Pieces(CPU, simple_task(), on_split=splits.append)
    seen: list[int] = []
    attempt = fails(1, seen)
    pieces.run(torch.zeros(size, 2), lambda piece: attempt([piece]), lambda _: None)
    assert seen == tried


def test_pieces_that_fitted_are_tried_twice_before_they_are_halved() -> None:
    splits: list[int] = []
    told: list[bool] = []
    pieces = Pieces(CPU, simple_task(), on_split=splits.append, on_repeat=told.append)
    count: list[int] = []

    def evaluate(num_failures: int) -> list[int]:
        seen: list[int] = []
        attempt = fails(num_failures, seen)
        pieces.run(torch.zeros(8, 2), lambda piece: attempt([piece]), count.extend)
        return seen

    assert [evaluate(n) for n in (0, 1, 1)] == [[8], [8, 8], [8, 8]]
    assert (splits, told) == ([], [True, False])
    other = Pieces(CPU, simple_task(), on_split=splits.append)
    other.load_state_dict(pieces.state_dict())
    pieces = other
    assert evaluate(2) == [8, 8, 4, 4]
    assert splits == [4]
    assert sum(count) == 32


def test_pieces_switched_off_raise_what_was_raised() -> None:
    pieces = Pieces(CPU, simple_task(), enabled=False, on_split=lambda size: None)

    def attempt(_piece: object) -> None:
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        pieces.run(torch.zeros(3, 2), attempt, print)
