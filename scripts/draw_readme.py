"""Draw the pictures of the README from a run directory; needs Chromium.

Usage: ``python scripts/draw_readme.py runs/vision-quick``
"""

from __future__ import annotations

import shutil
import sys
from base64 import b64encode
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
STYLE = "body{margin:0;padding:10px;background:#fff;display:inline-flex;gap:12px}"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(run_dir: Path) -> int:
    """The verdict card, and the curves beside the confusion matrix."""
    card = (run_dir / "preflight.html").read_text(encoding="utf-8")
    figures = "".join(
        image(run_dir / "figures" / name, height=470)
        for name in ("curves.png", "confusion.png")
    )
    TARGET.mkdir(parents=True, exist_ok=True)
    found = (path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=next(found, None), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 980, "height": 400})
        for name, body in (
            ("preflight", f'<div style="width:940px">{card}</div>'),
            ("results", figures),
        ):
            page.set_content(f"<style>{STYLE}</style><body>{body}</body>")
            path = TARGET / f"{name}.png"
            page.locator("body").screenshot(path=path)
            print(f"{path.name}  {path.stat().st_size // 1000} kB")  # noqa: T201
        browser.close()
    return 0


def image(path: Path, height: int) -> str:
    """A picture inside the page."""
    data = b64encode(path.read_bytes()).decode("ascii")
    return f'<img height="{height}" src="data:image/png;base64,{data}">'


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
