"""Draw the pictures of the live panel in a real JupyterLab; needs Chromium.

Usage: ``PYTHONPATH=tests python scripts/draw_panel.py``
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser.lab import lab_page, lab_server, notebook

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
CELL = """
import time, torch, nbutils as nb
from sklearn.datasets import load_digits

class Pace(nb.Callback):
    def on_step_end(self, state):
        time.sleep(0.02)

digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
torch.manual_seed(0)
order = torch.randperm(len(x))
train, val = order[:1400], order[1400:]
model = torch.nn.Sequential(
    torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Dropout(0.3),
    torch.nn.Linear(128, 10),
)
accuracy = lambda outputs, batch: (outputs.argmax(1) == batch[1]).float().mean()
task = nb.Task(
    model, torch.nn.CrossEntropyLoss(), (x[train], y[train]), (x[val], y[val]),
    metrics={"accuracy": accuracy}, name="digits",
)
settings = dict(
    epochs=18, batch_size=16, lr=2e-3, schedule="onecycle", monitor="val_accuracy",
    mode="max",
)
nb.preflight(task, **settings)
"""
TRAIN = """
result = nb.TrainingCoordinator(
    task, run_dir="runs/digits-mlp", callbacks=[Pace()], **settings
).train()
"""
MAX_BYTES = 150_000


def main() -> int:
    """One picture while the run goes on, one of its end."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notebook(folder / "panel.ipynb", [CELL, TRAIN])
        with lab_server(folder) as address, lab_page(address, "panel.ipynb") as page:
            command = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
            page.evaluate(f"() => {{ {command} }}")
            page.add_style_tag(content=".Toastify{display:none}")
            panel = page.locator(".nbu-dash")
            panel.get_by_text(re.compile("epoch 1[1-5] of")).wait_for(timeout=240_000)
            shots = {"panel-live": picture(page, folder)}
            panel.get_by_text("finished").wait_for(timeout=240_000)
            page.wait_for_timeout(500)
            shots["panel-final"] = picture(page, folder)
    for name, data in shots.items():
        (TARGET / f"{name}.png").write_bytes(data)
        print(f"{name}.png  {len(data) // 1000} kB")  # noqa: T201
    return int(any(len(data) > MAX_BYTES for data in shots.values()))


def picture(page: Any, folder: Path) -> bytes:
    """The panel as it stands, under a path that is not of this machine."""
    page.evaluate(
        """folder => {
          const dash = document.querySelector('.nbu-dash');
          const texts = document.createTreeWalker(dash, NodeFilter.SHOW_TEXT);
          while (texts.nextNode())
            texts.currentNode.data =
              texts.currentNode.data.replace(folder, '/workspace');
        }""",
        str(folder),
    )
    return page.locator(".nbu-dash").screenshot()


if __name__ == "__main__":
    sys.exit(main())
