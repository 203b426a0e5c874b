"""Draw each page of the wizard from a real JupyterLab; needs Chromium.

Usage: ``python scripts/draw_wizard.py [PATTERN]``, for instance ``wizard-2*``; without
a pattern all pictures are drawn, in about a minute.
"""

from __future__ import annotations

import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "images"
CELL = 'import nbutils as nb\nwizard = nb.SetupWizard(preset="vision/quick")'
WAIT_MS = 90_000


def main(pattern: str = "*") -> int:
    """Pages 1 to 5 in the light theme, the preset's diff, an error, one in the dark."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser.lab import lab_page, lab_server, notebook, run_command

    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        notebook(Path(folder) / "wizard.ipynb", [CELL])
        with (
            lab_server(Path(folder)) as address,
            lab_page(address, "wizard.ipynb") as page,
        ):
            page.set_default_timeout(WAIT_MS)
            page.set_viewport_size({"width": 1280, "height": 1900})
            page.add_style_tag(content=".Toastify{display:none}")
            run_command(page, "notebook:run-all-cells")
            page.get_by_text("Step 1 of 5").wait_for()
            Pictures(page, pattern).draw()
    return 0


class Pictures:
    """Walks through the pages and takes pictures.

    Args:
        page: The notebook in a browser.
        pattern: Names of the pictures to keep.
    """

    def __init__(self, page: Any, pattern: str) -> None:
        self.page = page
        self.pattern = pattern

    def draw(self) -> None:
        """All pictures, in the order in which a user comes by."""
        self.page.get_by_label("Start from preset").select_option("vision/folder")
        self.page.get_by_text("What changed").click()
        self.take("wizard-1-preset")
        self.press("Undo this preset", "A tested starting point")
        self.press("Look at the data", "images in 10 classes")
        self.take("wizard-1-data")
        self.run("notebook:run-all-cells")  # a new form, with nothing looked up
        self.page.locator(".nbu-found").wait_for(state="detached")
        self.press("Compare presets on this machine", "Time of training")
        self.page.locator(".nbu-compare").get_by_text("vision/smoke").wait_for()
        self.take("wizard-1-compare")
        self.step("Model", "Step 2 of 5")
        self.press("Check the model", "It fits")
        self.take("wizard-2-model")
        self.step("Training", "Step 3 of 5")
        self.fill("Price of an hour", "0.5")
        self.press("Measure a step", "for training")
        self.take("wizard-3-training")
        self.fill("Learning rate", "fast")
        self.press("Next", "such as 3e-4")
        self.take("wizard-3-error")
        self.fill("Learning rate", "0.002")
        self.step("Tracking & storage", "Step 4 of 5")
        self.page.get_by_label("Tracker", exact=True).select_option("wandb")
        self.page.get_by_label("W&B API key").wait_for()
        self.take("wizard-4-tracking")
        self.step("Review", "Step 5 of 5")
        self.press("Run the static checks", "Preflight of vision")
        self.press("Apply", "wizard.config holds these settings")
        self.take("wizard-5-review")
        self.theme("JupyterLab Dark")
        self.step("Model", "Step 2 of 5")
        self.take("wizard-2-dark")

    def run(self, command: str) -> None:
        """Execute a command of JupyterLab."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", command)

    def step(self, name: str, shown: str) -> None:
        """Go to a page by its button."""
        self.press(name, shown)

    def press(self, name: str, shown: str) -> None:
        """Press a button and wait for what it shows."""
        self.page.get_by_role("button", name=name).click()
        self.page.locator(".nbu-wiz").get_by_text(shown).first.wait_for()

    def fill(self, label: str, text: str) -> None:
        """Type into a field and leave it."""
        field = self.page.get_by_label(label, exact=True)
        field.fill(text)
        field.press("Tab")

    def theme(self, name: str) -> None:
        """Change the theme of JupyterLab."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute("
            "'apputils:change-theme', {theme})",
            name,
        )
        self.page.wait_for_timeout(1500)

    def take(self, name: str) -> None:
        """One picture of the whole form."""
        if not fnmatch.fnmatch(name, self.pattern):
            return
        self.page.mouse.move(5, 5)
        self.page.wait_for_timeout(500)
        path = TARGET / f"{name}.png"
        self.page.locator(".nbu-wiz").screenshot(path=path)
        print(f"{path.name}  {path.stat().st_size // 1000} kB")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
