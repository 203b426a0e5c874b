"""Laws 1, 6, 7 and 9: the work that is done, and what it costs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.peers.bench import Bench, Verdict, as_failed, judge
from benchmarks.peers.job import Job
from benchmarks.peers.tasks import (
    IGNORED,
    Blobs,
    Classifier,
    OneHot,
    Padded,
    Sgd,
    Shares,
    Tagger,
    collate_padded,
    mean_output,
    out_of_memory,
    token_loss,
)

__all__ = ["EXPERIMENTS"]

NUM_SAMPLES, BATCH, WINDOW = 28, 4, 4  # 7 batches: windows of 4 and 3
ROUNDING = 1e-6


def _shares(bench: Bench, epochs: int, **more: Any) -> Job:
    return Job(
        model=Shares(NUM_SAMPLES),
        loss=mean_output,
        train=OneHot(NUM_SAMPLES),
        optimizer=Sgd,
        folder=bench.folder(),
        epochs=epochs,
        accumulation=WINDOW,
        variant=bench.variant,
        **more,
    )


def plain_run(bench: Bench) -> Verdict:
    """A plain epoch of ten batches: the harness drives this library as it should."""
    seen = bench.run(lambda: bench.job(folder=bench.folder(), shuffle=True)).value
    if seen["error"]:
        return as_failed(seen["error"])
    trained = {i for batch in seen["seen"] for i, _ in batch}
    text = f"{len(seen['steps'])} updates, {len(trained)} of 40 samples"
    return judge(len(seen["steps"]) == 10 and len(trained) == 40, text)


def partial_window(bench: Bench) -> Verdict:
    """Seven batches, four to a window: the gradient is a mean over the window."""
    seen = bench.run(lambda: _shares(bench, 1)).value
    if seen["error"]:
        return as_failed(seen["error"])
    edge = BATCH * WINDOW
    expected = torch.zeros(2, NUM_SAMPLES)
    expected[0, :edge] = 1 / edge
    expected[1, edge:] = 1 / (NUM_SAMPLES - edge)
    found = [step["grads"] for step in seen["steps"]]
    if len(found) != 2:
        return as_failed(f"{len(found)} update(s), 2 expected: 4 batches, then 3")
    worst = float((torch.tensor(found) - expected).abs().max())
    last = found[1][-1]
    text = f"last sample weighs {last:.4f} in its window of 12, expected {1 / 12:.4f}"
    return judge(worst < ROUNDING, text)


def counted_tokens(bench: Bench) -> Verdict:
    """Padded sequences: two batches of four equal one of eight, by their tokens."""

    def job() -> Job:
        return Job(
            model=Tagger(),
            loss=token_loss,
            train=Padded(),
            collate=collate_padded,
            count=lambda labels: int((labels != IGNORED).sum()),
            optimizer=Sgd,
            folder=bench.folder(),
            accumulation=2,
            variant=bench.variant,
        )

    seen = bench.run(job).value
    if seen["error"]:
        return as_failed(seen["error"])
    model, data = Tagger(), Padded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for first in range(0, len(data), 8):
        x, y = collate_padded([data[i] for i in range(first, first + 8)])
        optimizer.zero_grad()
        token_loss(model(x), y).backward()
        optimizer.step()
    reference = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    worst = float((torch.tensor(seen["weights"]) - reference).abs().max())
    return judge(worst < ROUNDING, f"weights differ by {worst:.1e} from one big batch")


def no_leak(bench: Bench) -> Verdict:
    """Two epochs, then a second fit: no update mixes samples of two passes."""

    def twice() -> Job:
        job = _shares(bench, 2)
        bench.peer.fit(job)
        job.folder = bench.folder()
        job.epochs = 1
        return job

    seen = bench.run(twice).value
    if seen["error"]:
        return as_failed(seen["error"])
    edge = BATCH * WINDOW
    mixed = [
        number
        for number, step in enumerate(seen["steps"], 1)
        if any(step["grads"][:edge]) and any(step["grads"][edge:])
    ]
    count = len(seen["steps"])
    return judge(
        not mixed,
        f"{count} updates, of which {mixed or 'none'} mix the end of one pass with "
        "the start of the next",
    )


def memory_error(bench: Bench) -> Verdict:
    """From batch 3 on only four of eight samples fit: same result as with room."""

    def trap(number: int, x: Any) -> None:
        if number >= 3 and len(x) > 4:
            out_of_memory()

    def job(trap: Any) -> Job:
        return bench.job(
            model=Classifier(trap=trap), folder=bench.folder(), batch_size=8, epochs=2
        )

    free = bench.run(lambda: job(None)).value
    tight = bench.run(lambda: job(trap)).value
    if tight["error"]:
        return as_failed(f"raised {tight['error'][:40]}")
    pairs = zip(free["weights"], tight["weights"], strict=True)
    worst = max(abs(a - b) for a, b in pairs)
    updates = f"{len(tight['steps'])} updates for {len(free['steps'])}"
    return judge(worst < 1e-5, f"weights differ by {worst:.1e} after {updates}")


def schedule_end(bench: Bench) -> Verdict:
    """Linear to zero, windows of 4 and 3, three epochs: zero at the sixth update."""
    seen = bench.run(lambda: _shares(bench, 3, schedule="linear", lr=0.6)).value
    if seen["error"]:
        return as_failed(seen["error"])
    rates = [step["lr"] for step in seen["steps"]]
    shown = " ".join(f"{rate:.2f}" for rate in rates)
    is_spent = rates[-1] <= 1.5 * 0.6 / len(rates) and min(rates[:-1]) > 0
    is_falling = rates[0] >= 0.6 * (1 - 1.5 / len(rates))
    return judge(
        is_spent and is_falling, f"learning rates of the {len(rates)} updates: {shown}"
    )


def skipped_step(bench: Bench) -> Verdict:
    """The first scaled loss overflows: the schedule waits for the first update."""
    calls: list[int] = []

    def loss(outputs: Any, _targets: Any) -> Any:
        calls.append(1)
        factor = 1e38 if len(calls) == 1 else 1.0
        return outputs.float().mean() * factor

    def job() -> Job:
        made = _shares(bench, 1, schedule="linear", lr=0.6, fp16=True)
        made.accumulation, made.loss = 1, loss
        return made

    seen = bench.run(job).value
    if seen["error"]:
        return as_failed(seen["error"])
    rates = [step["lr"] for step in seen["steps"]]
    text = f"{len(rates)} updates of 7, the first at {rates[0]:.3f} of 0.600"
    return judge(len(rates) == 6 and abs(rates[0] - 0.6) < ROUNDING, text)


class _Reads(TorchDispatchMode):
    """Counts how often a tensor's value is asked for by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def host_reads(bench: Bench) -> Verdict:
    """Values read by the host per step, from the slope between two lengths."""
    counts: list[int] = []

    def job() -> Job:
        for size in (40, 120):
            with _Reads() as reads:
                made = bench.job(
                    model=Classifier(), train=Blobs(size), folder=bench.folder()
                )
                bench.peer.fit(made)
            counts.append(reads.count)
        made.train, made.folder = Blobs(4), bench.folder()
        made.lr = (counts[1] - counts[0]) / 20  # carried out of the child as a rate
        return made

    seen = bench.run(job).value
    if seen["error"] or not seen["steps"]:
        return Verdict("n.a.", seen["error"] or "no update")
    return Verdict("info", f"{seen['steps'][-1]['lr']:.1f} values read per step")


EXPERIMENTS = {
    "0": ("control: a plain epoch trains each sample once", plain_run),
    "1a": ("a partial window is a mean over what it holds", partial_window),
    "1b": ("windows are weighted by their tokens", counted_tokens),
    "1c": ("no window spans two epochs or fits", no_leak),
    "6": ("out of memory: same effective batch, same result", memory_error),
    "7a": ("the schedule ends with the run", schedule_end),
    "7b": ("the schedule waits for a skipped AMP step", skipped_step),
    "9": ("values read by the host per step (CPU)", host_reads),
}
