"""Draw pictures of the README; needs Chromium.

Usage: ``python scripts/draw_readme.py [runs/vision-quick]``; without a run directory
only the doctor's card, of a rented machine with three faults.
"""

from __future__ import annotations

import shutil
import sys
from base64 import b64encode
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from nbutils.environment.device import Capabilities
from nbutils.environment.doctor import DoctorReport
from nbutils.environment.facts import facts_of
from nbutils.environment.gpu import Gpu
from nbutils.environment.machine import Machine
from nbutils.environment.platform import Platform
from nbutils.environment.rules import advise
from nbutils.environment.storage import Storage

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
STYLE = "body{margin:0;padding:10px;background:#fff;display:inline-flex;gap:12px}"
REPORT_HEIGHT_PX = 1330
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


GIB = 2**30
POD = Machine(
    python="3.12.3",
    system="Linux 6.8.0-58-generic (x86_64)",
    platform=Platform(
        name="runpod",
        variant="pod",
        is_headless=False,
        persistent_dir=Path("/workspace"),
        scratch_dir=Path("/tmp"),
        reason="RUNPOD_POD_ID is set",
        lifetime="as long as this pod; terminating it deletes them",
    ),
    device="cuda",
    device_reason="auto: a CUDA device is available",
    abilities=Capabilities(
        name="NVIDIA GeForce RTX 4090",
        memory_bytes=24 * GIB,
        bf16=True,
        fp16=True,
        compile=True,
        num_cores=12,
        num_threads=12,
        attention=("flash", "memory-efficient", "math"),
        architecture="sm_89",
    ),
    cuda_trouble="",
    memory_bytes=62 * GIB,
    available_bytes=55 * GIB,
    storage=Storage(
        path=Path("/root/project"),
        free_bytes=17 * GIB,
        problem="",
        is_persistent=False,
        shm_bytes=30 * GIB,
        shm_free_bytes=30 * GIB,
        filesystem="overlay",
        write_bytes_per_s=900e6,
    ),
    secrets={"WANDB_API_KEY": "environment variable WANDB_API_KEY", "HF_TOKEN": ""},
    versions={
        "torch": "2.13.0",
        "torchvision": "0.29.2",
        "numpy": "2.4.6",
        "ipywidgets": "8.1.9",
    },
    torch_requirement=">=2.14.0",
    torch_cuda="12.8",
    driver="580.65.06",
    gpu=Gpu(
        driver="580.65.06",
        total_bytes=24 * GIB,
        taken_bytes=11 * GIB,
        others=("pid 4127 python (11264 MiB)",),
        keeps_state="Enabled",
    ),
    open_files=1_048_576,
    host_cores=12,
)
"""An example; nothing of it is measured."""


def main(run_dir: Path | None) -> int:
    """The doctor's card; of a run its verdict card, and curves beside confusion."""
    TARGET.mkdir(parents=True, exist_ok=True)
    found = (path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=next(found, None), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 980, "height": 400})
        doctor = DoctorReport(facts_of(POD), tuple(advise(POD)))
        draw(page, "doctor", f'<div style="width:940px">{doctor._repr_html_()}</div>')
        if run_dir is not None:
            draw_run(page, run_dir)
        browser.close()
    return 0


def draw_run(page: Page, run_dir: Path) -> None:
    """Verdict card, figures and the head of the report of a run."""
    card = (run_dir / "preflight.html").read_text(encoding="utf-8")
    figures = "".join(
        image(run_dir / "figures" / name, height=470)
        for name in ("curves.png", "confusion.png")
    )
    draw(page, "preflight", f'<div style="width:940px">{card}</div>')
    draw(page, "results", figures)
    page.goto((run_dir / "report.html").resolve().as_uri())
    path = TARGET / "report.png"
    page.set_viewport_size({"width": 1000, "height": REPORT_HEIGHT_PX})
    page.screenshot(path=path)
    print(f"{path.name}  {path.stat().st_size // 1000} kB")  # noqa: T201


def draw(page: Page, name: str, body: str) -> None:
    """Write a picture of what a page would show."""
    page.set_content(f"<style>{STYLE}</style><body>{body}</body>")
    path = TARGET / f"{name}.png"
    page.locator("body").screenshot(path=path)
    print(f"{path.name}  {path.stat().st_size // 1000} kB")  # noqa: T201


def image(path: Path, height: int) -> str:
    """A picture inside the page."""
    data = b64encode(path.read_bytes()).decode("ascii")
    return f'<img height="{height}" src="data:image/png;base64,{data}">'


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
