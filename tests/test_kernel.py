"""Stop in real processes: a Jupyter kernel, and a plain one that gets signals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
import hashlib, signal, time, torch
torch.set_num_threads(1)
import nbutils as nb
from nbutils.testing import make_task

class Slow(nb.Callback):
    def on_step_end(self, state):
        print("window", state.step, flush=True)
        time.sleep(0.05)

class Linger(nb.Callback):
    def __init__(self, hook):
        self.hook = hook
        setattr(self, hook, self.linger)
    def linger(self, state):
        print("in", self.hook, flush=True)
        time.sleep(0.3)

class SlowRows(torch.utils.data.Dataset):
    def __init__(self, data, pause):
        self.data, self.pause = data, pause
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        if index == 7:
            print("reading", flush=True)
        time.sleep(self.pause)
        return self.data[index]

def train(folder, *callbacks, pause=None, **more):
    task = make_task()
    if pause is not None:
        task.train_data = SlowRows(task.train_data, pause)
    own = dict(batch_size=8, epochs=4, preflight="skip", panel="off") | more
    result = nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **own).train()
    tensors = task.model.state_dict().values()
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
    print("ended:", result.stop_reason, result.steps, digest[:12], flush=True)

def handlers():
    numbers = signal.SIGINT, signal.SIGTERM
    print("handlers:", *map(signal.getsignal, numbers), flush=True)
"""


class Kernel:
    """A kernel, and the text that its cells print."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(
        self,
        code: str,
        interrupt_at: str | None = None,
        delays_s: tuple[float, ...] = (),
    ) -> str:
        """Execute a cell.

        Args:
            interrupt_at: Interrupt once the cell has printed this,
            delays_s: or after each of these pauses from then on.
        """
        request = self.client.execute(code)
        text, deadline = "", time.monotonic() + 90
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != request:
                continue
            content: dict[str, Any] = message["content"]
            text += content.get("text", "") + "\n".join(content.get("traceback", []))
            text += content.get("data", {}).get("text/plain", "")
            if interrupt_at is not None and interrupt_at in text:
                for delay in delays_s or (0.0,):
                    time.sleep(delay)
                    self.manager.interrupt_kernel()
                interrupt_at = None
            if content.get("execution_state") == "idle":
                return text
        raise TimeoutError(f"the cell did not end: {text[-500:]}")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    manager = KernelManager(
        kernel_name="python3", transport="ipc", ip=str(folder / "socket")
    )
    manager.start_kernel(cwd=str(folder))
    kernel = Kernel(manager)
    text = kernel.run(SETUP)
    assert "Error" not in text, text
    yield kernel
    kernel.client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def whole(kernel: Kernel) -> str:
    """How the run that nobody stops ends."""
    return ended(kernel.run("train('whole'); handlers()"))


def ended(text: str) -> str:
    """Reason, steps and weights that a run has ended with."""
    assert "ended: " in text, text
    return text.split("ended: ")[1].splitlines()[0]


def assert_continues(kernel: Kernel, folder: str, whole: str) -> None:
    text = kernel.run(f"train({folder!r}); handlers()")
    assert ended(text) == whole
    assert "default_int_handler" in text.split("handlers: ")[1]


def test_interrupt_returns_a_result_and_the_next_run_completes(
    kernel: Kernel, whole: str
) -> None:
    text = kernel.run("train('run', Slow())", interrupt_at="window 3")
    reason, steps, _ = ended(text).split()
    assert reason == "interrupt", text
    assert 3 <= int(steps) < 20
    assert_continues(kernel, "run", whole)


@pytest.mark.parametrize(
    "hook", ["on_fit_start", "on_evaluate_end", "on_checkpoint", "on_epoch_end"]
)
def test_interrupt_outside_the_steps_ends_well(
    kernel: Kernel, whole: str, hook: str
) -> None:
    text = kernel.run(f"train('{hook}', Linger('{hook}'))", interrupt_at=f"in {hook}")
    assert ended(text).startswith("interrupt"), text
    assert_continues(kernel, hook, whole)


def test_interrupt_at_random_moments_always_leaves_a_run_that_continues(
    kernel: Kernel, whole: str
) -> None:
    draw = random.Random(4)
    for number in range(4):
        folder, delay = f"random{number}", draw.uniform(0, 0.6)
        code = f"print('go', flush=True); train('{folder}', Slow())"
        text = kernel.run(code, interrupt_at="go", delays_s=(delay,))
        # before the first window there is nothing to save: the interrupt is raised
        is_early = "KeyboardInterrupt" in text
        assert is_early or ended(text).split()[0] in ("interrupt", "completed"), text
        assert_continues(kernel, folder, whole)


def test_interrupt_while_the_loader_starts_finishes_the_first_window(
    kernel: Kernel, whole: str
) -> None:
    code = "train('loader', pause=0.01)"
    text = kernel.run(code, interrupt_at="reading", delays_s=(0.01,))
    assert ended(text).startswith("interrupt"), text
    text = kernel.run("train('loader', pause=0)")
    assert ended(text) == whole


def test_interrupt_in_preflight_raises_and_leaves_no_trace(
    kernel: Kernel, whole: str
) -> None:
    code = "train('proof', pause=0.02, preflight='run')"
    text = kernel.run(code, interrupt_at="reading", delays_s=(0.05,))
    assert "KeyboardInterrupt" in text, text
    assert "ended: " not in text
    text = kernel.run("import os; print(os.path.exists('proof')); handlers()")
    assert text.startswith("False")
    assert "default_int_handler" in text
    assert_continues(kernel, "proof", whole)


def test_second_interrupt_raises_now(kernel: Kernel, whole: str) -> None:
    code = "train('twice', Slow(), Linger('on_stop'))"
    text = kernel.run(code, interrupt_at="window 2", delays_s=(0.0, 0.15))
    assert "KeyboardInterrupt" in text, text
    assert "ended: " not in text
    assert_continues(kernel, "twice", whole)


PLAIN = (
    SETUP
    + """
import os
train("whole")
for folder in ("term", "file", "int", "time"):
    train(folder, Slow(), max_hours=0.2 / 3600 if folder == "time" else None)
    train(folder)
    handlers()
try:
    train("twice", Slow(), Linger("on_stop"))
except KeyboardInterrupt:
    print("raised", flush=True)
train("twice")
handlers()
train("proof", pause=0.02, preflight="run")
"""
)


class Plain:
    """A Python process without a kernel, and the lines that it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PLAIN],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def until(self, start: str) -> str:
        """The next line that begins with ``start``."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if line.startswith(start):
                return line.strip().removeprefix("ended: ")
        raise AssertionError(f"no line {start!r}: {seen[-5:]}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Plain]:
    plain = Plain(tmp_path)
    yield plain
    plain.process.kill()
    plain.process.wait()
    assert plain.process.stdout is not None
    plain.process.stdout.close()


def test_plain_process_stops_in_every_way_and_continues(plain: Plain) -> None:
    whole = plain.until("ended")
    assert whole.startswith("completed 20")
    usual = f"handlers: {signal.default_int_handler!r} {signal.Handlers.SIG_DFL}"
    actions = {
        "terminated": lambda: plain.send(signal.SIGTERM),
        "stop file": lambda: (plain.folder / "file" / "STOP").touch(),
        "interrupt": lambda: plain.send(signal.SIGINT),
        "time": lambda: None,
    }
    for reason, act in actions.items():
        plain.until("window 2")
        act()
        stopped = plain.until("ended")
        assert stopped.startswith(reason)
        assert 2 <= int(stopped.split()[-2]) < 20
        assert plain.until("ended") == whole
        assert plain.until("handlers").split(" at ")[0] == usual.split(" at ")[0]
    plain.until("window 2")
    plain.send(signal.SIGINT)
    plain.until("in on_stop")
    plain.send(signal.SIGINT)
    plain.until("raised")
    assert plain.until("ended") == whole
    plain.until("handlers")
    plain.until("reading")  # of the checks: nothing has begun that could be saved
    plain.send(signal.SIGTERM)
    assert plain.process.wait(30) == -signal.SIGTERM
    assert not os.path.exists(plain.folder / "proof" / "checkpoints")
