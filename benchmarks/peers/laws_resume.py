"""Laws 3, 4 and 5: stopping, saving and going on."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.bench import Bench, Verdict, as_failed, as_passed, judge
from benchmarks.peers.tasks import kill, settle

__all__ = ["EXPERIMENTS"]

PER_EPOCH, SAMPLES = 10, 40
WIDE = 256  # a model of 270 kB
FILE_LIMIT = 100_000
PICKLED = (b"PK", b"\x80\x02", b"\x80\x04")  # torch.save, and bare pickles


def _interrupted(
    bench: Bench, *, augment: bool, at: int, **save: Any
) -> dict[str, Any]:
    """Runs: never stopped, killed before batch ``at``, and resumed from that."""

    def trap(number: int, _x: Any) -> None:
        if number == at:
            settle()
            kill()

    found: dict[str, Any] = {}
    home = bench.folder()
    for name, folder, more in (
        ("whole", bench.folder(), {}),
        ("again", bench.folder(), {}),
        ("killed", home, {"trap": trap}),
        ("resumed", home, {"resume": True}),
    ):
        ended = bench.run(
            lambda f=folder, m=more: bench.shuffled(f, augment=augment, **save, **m)
        )
        found[name] = ended.value or {}
        if name == "killed" and ended.signal != signal.SIGKILL:
            found["problem"] = f"was not killed: {ended.error or ended.value['error']}"
    for name in ("whole", "resumed"):
        if found[name].get("error"):
            found["problem"] = f"{name}: {found[name]['error']}"
        elif not found[name]:
            found["problem"] = f"{name}: no result"
    return found


def _middle(bench: Bench, *, augment: bool = False) -> dict[str, Any]:
    name = f"middle {augment}"
    return bench.once(
        name, lambda: _interrupted(bench, augment=augment, at=18, save_steps=5)
    )


def exact_weights(bench: Bench) -> Verdict:
    """Killed in the second epoch, saved every 5 steps: same weights in the end."""
    runs = _middle(bench)
    if "problem" in runs:
        return as_failed(runs["problem"])
    if runs["whole"]["digest"] != runs["again"]["digest"]:
        return Verdict("n.a.", "two whole runs differ, so nothing can be compared")
    pairs = zip(runs["whole"]["weights"], runs["resumed"]["weights"], strict=True)
    worst = max(abs(a - b) for a, b in pairs)
    return judge(worst == 0, f"final weights differ by {worst:.1e}")


def exact_draws(bench: Bench) -> Verdict:
    """The random draws of ``__getitem__`` go on where they stopped."""
    runs = _middle(bench, augment=True)
    if "problem" in runs:
        return as_failed(runs["problem"])
    whole, resumed = runs["whole"]["seen"], runs["resumed"]["seen"]
    if whole != runs["again"]["seen"]:
        return Verdict("n.a.", "two whole runs differ, so nothing can be compared")
    tail = whole[len(whole) - len(resumed) :]
    pairs = [
        (dict(a).get(i), d) for a, b in zip(tail, resumed, strict=False) for i, d in b
    ]
    other = sum(expected != draw for expected, draw in pairs)
    return judge(
        not other and bool(pairs), f"{other} of {len(pairs)} resumed samples differ"
    )


def epoch_order(bench: Bench) -> Verdict:
    """Killed after the first epoch was saved: the second is the second."""
    runs = bench.once(
        "boundary",
        lambda: _interrupted(bench, augment=False, at=PER_EPOCH + 2, save_epochs=True),
    )
    if "problem" in runs:
        return as_failed(runs["problem"])
    whole = [i for batch in runs["whole"]["seen"] for i, _ in batch]
    resumed = [i for batch in runs["resumed"]["seen"] for i, _ in batch]
    first, second = whole[:SAMPLES], whole[SAMPLES:]
    if resumed == second and resumed != first:
        return as_passed("the same order as without the stop")
    if resumed == first:
        return as_failed("the order of the first epoch was replayed")
    same = sum(a == b for a, b in zip(resumed, second, strict=False))
    text = f"{len(resumed)} samples, {same} in the place they have without the stop"
    return as_failed(text)


def each_once(bench: Bench) -> Verdict:
    """Each sample of the interrupted epoch is trained on exactly once."""
    runs = _middle(bench)
    if "problem" in runs:
        return as_failed(runs["problem"])
    whole = [i for batch in runs["whole"]["seen"] for i, _ in batch]
    resumed = [i for batch in runs["resumed"]["seen"] for i, _ in batch]
    done = whole[SAMPLES : len(whole) - len(resumed)] if resumed else []
    epoch = [*done, *resumed]
    unique, count = len(set(epoch)), len(epoch)
    is_once = unique == SAMPLES == count
    return judge(is_once, f"{count} samples trained, {unique} different, of {SAMPLES}")


def _three_epochs(bench: Bench, folder: Path, **more: Any) -> Any:
    return bench.shuffled(folder, width=WIDE, epochs=3, save_epochs=True, **more)


def _continued(bench: Bench, folder: Path, expected: int) -> Verdict:
    """Resume in ``folder``; it should need ``expected`` batches."""
    ended = bench.run(lambda: _three_epochs(bench, folder, resume=True))
    if ended.value is None:
        return as_failed(f"resume: {ended.error or f'signal {ended.signal}'}")
    if ended.value["error"]:
        return as_failed(f"resume raised {ended.value['error'][:110]}")
    count = len(ended.value["seen"])
    text = f"resumed and trained {count} batches, {expected} expected"
    return judge(count == expected, text)


def killed_in_save(bench: Bench) -> Verdict:
    """The system ends the process in the middle of writing the second checkpoint."""

    def trap(number: int, _x: Any) -> None:
        if number == PER_EPOCH + 5:
            settle()
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))

    folder = bench.folder()
    ended = bench.run(lambda: _three_epochs(bench, folder, trap=trap))
    if ended.signal != signal.SIGXFSZ:
        reason = ended.error or (ended.value or {}).get("error", "")
        return Verdict("n.a.", f"the kill did not hit a save: {reason}")
    return _continued(bench, folder, 2 * PER_EPOCH)


def truncated(bench: Bench) -> Verdict:
    """The newest checkpoint's largest file is cut to a half, as by a full disk."""
    folder = _killed_in_third(bench)
    files = newest_files(bench, folder)
    if not files:
        return Verdict("n.a.", "no checkpoint on disk")
    victim = max(files, key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    verdict = _continued(bench, folder, 2 * PER_EPOCH)
    verdict.evidence = f"{victim.relative_to(folder)} cut: {verdict.evidence}"
    return verdict


def newest_files(bench: Bench, folder: Path) -> list[Path]:
    """The files of the checkpoint with the largest number in its path."""

    def number(path: Path) -> int:
        digits = re.findall(r"\d+", str(path.relative_to(folder)))
        return max(map(int, digits), default=0)

    found = [path for path in folder.glob(bench.peer.files) if path.is_file()]
    last = max(map(number, found), default=0)
    return [path for path in found if number(path) == last]


def _killed_in_third(bench: Bench) -> Path:
    """A folder with the checkpoints of two epochs."""

    def trap(number: int, _x: Any) -> None:
        if number == 2 * PER_EPOCH + 5:
            settle()
            kill()

    folder = bench.folder()
    bench.run(lambda: _three_epochs(bench, folder, trap=trap))
    return folder


class _Code:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def no_code(bench: Bench) -> Verdict:
    """A checkpoint that carries code: the code is not run, and whole ones load."""
    clean = _continued(bench, _killed_in_third(bench), PER_EPOCH)
    if clean.grade != "pass":
        return Verdict(clean.grade, f"untouched checkpoint: {clean.evidence}")
    folder = _killed_in_third(bench)
    ran: list[str] = []
    names: list[str] = []
    for path in sorted(newest_files(bench, folder)):
        if path.read_bytes()[:2] not in PICKLED:
            continue
        whole = path.read_bytes()
        marker = folder / "code-was-run"
        torch.save({"code": _Code(marker)}, path)
        bench.run(lambda: _three_epochs(bench, folder, resume=True))
        if marker.exists():
            ran.append(path.name)
            marker.unlink()
        names.append(path.name)
        path.write_bytes(whole)
    text = f"planted in {', '.join(sorted(set(names))) or 'nothing'}; run from "
    return judge(not ran, text + (", ".join(sorted(set(ran))) or "none"))


def interrupt(bench: Bench) -> Verdict:
    """Ctrl-C in the second epoch: orderly end, hooks fired, position saved."""

    def trap(number: int, _x: Any) -> None:
        if number == PER_EPOCH + 7:
            os.kill(os.getpid(), signal.SIGINT)

    folder = bench.folder()
    ends = folder / "ends"

    def job() -> Any:
        made = _three_epochs(bench, folder, trap=trap, save_stop=True)
        made.on_end = lambda: ends.write_text("x")
        return made

    stopped = bench.run(job)
    if stopped.value is None:
        return as_failed(stopped.error or f"signal {stopped.signal}")
    steps = stopped.value["steps"]
    how = stopped.value["error"].split(":")[0] or "returned"
    hooks = "end hook ran" if ends.exists() else "end hook did not run"
    resumed = bench.run(lambda: _three_epochs(bench, folder, resume=True))
    first = (resumed.value or {}).get("started", "")
    known = [step["weights"] for step in steps]
    lost = len(steps) - known.index(first) - 1 if first in known else len(steps)
    text = f"{how}; {hooks}; {lost} of {len(steps)} updates lost"
    if resumed.value and resumed.value["error"]:
        text += f"; resume raised {resumed.value['error'][:80]}"
    return judge(lost == 0 and ends.exists(), text)


def handlers(bench: Bench) -> Verdict:
    """Signal handlers after a whole and after an interrupted fit."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def trap(number: int, _x: Any) -> None:
        if number == 7:
            os.kill(os.getpid(), signal.SIGINT)

    changed: list[str] = []
    for name, step in (("whole", None), ("interrupted", trap)):
        folder = bench.folder()

        def job(step: Any = step, folder: Path = folder) -> Any:
            before = [signal.getsignal(number) for number in numbers]
            made = bench.shuffled(folder, trap=step)
            try:
                bench.peer.fit(made)
            except (KeyboardInterrupt, SystemExit):
                (folder / "interrupted").touch()
            after = [signal.getsignal(number) for number in numbers]
            if before != after:
                (folder / "changed").touch()
            return bench.shuffled(bench.folder(), epochs=1)

        bench.run(job)
        if (folder / "changed").exists():
            changed.append(name)
    text = " and ".join(changed) or "none"
    return judge(not changed, f"handlers left changed by a fit: {text}")


EXPERIMENTS = {
    "3a": ("killed in mid-epoch and resumed: same weights", exact_weights),
    "3b": ("augmentation goes on where it stopped", exact_draws),
    "3c": ("resumed at an epoch's end: the next order, not the first", epoch_order),
    "3d": ("each sample once in the interrupted epoch", each_once),
    "4a": ("killed during a save: the last good one resumes", killed_in_save),
    "4b": ("newest checkpoint truncated: the one before resumes", truncated),
    "4c": ("loading a checkpoint runs no code from it", no_code),
    "5a": ("Ctrl-C: orderly, hooks fire, position saved", interrupt),
    "5b": ("signal handlers as before", handlers),
}
