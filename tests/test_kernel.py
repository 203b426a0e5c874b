"""A real Jupyter kernel: the interrupt button saves, and the next run continues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
import time, torch
torch.set_num_threads(1)
import nbutils as nb
from nbutils.testing import make_task

class Slow(nb.Callback):
    def on_step_end(self, state):
        print("window", state.step, flush=True)
        time.sleep(0.05)

settings = dict(run_dir="run", batch_size=8, epochs=20, preflight="skip", panel="off")
"""
TRAIN = "nb.TrainingCoordinator(make_task(), callbacks=[Slow()], **settings).train()"
REST = "nb.TrainingCoordinator(make_task(), **settings).train()"


class Kernel:
    """A kernel, and the text that its cells print."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, interrupt_at: str | None = None) -> str:
        """Execute a cell; interrupt it once it has printed ``interrupt_at``."""
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
                self.manager.interrupt_kernel()
                interrupt_at = None
            if content.get("execution_state") == "idle":
                return text
        raise TimeoutError(f"the cell did not end: {text[-500:]}")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    manager = KernelManager(kernel_name="python3", transport="ipc")
    manager.start_kernel()
    kernel = Kernel(manager)
    yield kernel
    kernel.client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_interrupt_returns_a_result_and_the_next_run_completes(kernel: Kernel) -> None:
    assert "Error" not in kernel.run(SETUP)
    code = f"result = {TRAIN}\nprint('ended:', result.stop_reason, result.steps)"
    text = kernel.run(code, interrupt_at="window 3")
    assert "ended: interrupt" in text, text
    steps = int(text.split("ended: interrupt ")[1].split()[0])
    assert 3 <= steps < 100
    code = f"result = {REST}\nprint('ended:', result.stop_reason, result.steps)"
    assert "ended: completed 100" in kernel.run(code)
    assert "default_int_handler" in kernel.run(
        "import signal; print(signal.getsignal(signal.SIGINT))"
    )
