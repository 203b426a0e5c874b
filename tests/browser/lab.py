"""A JupyterLab of our own and a page in it, for tests that need a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    """A Chromium of the system, else Playwright's own; none where there is neither."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is not None or importlib.util.find_spec("playwright") is None:
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        own = play.chromium.executable_path
    return own if Path(own).exists() else None


def notebook(path: Path, cells: list[str]) -> Path:
    """A notebook file with these code cells."""
    made = [
        {
            "cell_type": "code",
            "id": f"cell{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": spec},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@contextmanager
def lab_server(folder: Path) -> Iterator[str]:
    """JupyterLab over a folder, on a free port; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--port-retries=0"),
        "--IdentityProvider.token=tok",
        "--ServerApp.disable_check_xsrf=True",
        "--expose-app-in-browser",
        "--LabApp.news_url=",
        f"--ServerApp.root_dir={folder}",
    ]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=_environ(folder), stdout=log, stderr=log
        )
        try:
            _await_ready(server, f"http://127.0.0.1:{port}/api/status?token=tok")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)


@contextmanager
def lab_page(address: str, name: str) -> Iterator[Any]:
    """The notebook ``name`` open in a browser, its kernel idle."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=browser_path(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(60_000)
        page.goto(f"{address}/lab/tree/{name}?token=tok&reset")
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function(
            "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.status === 'idle'"
        )
        try:
            yield page
        finally:
            browser.close()


def run_command(page: Any, command: str) -> None:
    """Execute a command of JupyterLab."""
    page.evaluate("name => window.jupyterapp.commands.execute(name)", command)


def run_cell(page: Any, index: int) -> None:
    """Run one cell of the open notebook."""
    page.evaluate(
        "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }",
        index,
    )
    run_command(page, "notebook:run-cell")


def _environ(folder: Path) -> dict[str, str]:
    """A home of its own, and nothing that would make the kernel headless."""
    hidden = ("CI", "NBUTILS_", "PYTEST_", "JUPYTER", "JPY_", "KAGGLE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    paths = {"HOME": str(folder), "PYTHONPATH": str(ROOT)}
    return kept | paths | {"PYTHONWARNINGS": "ignore"}


def _await_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until our own server answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (our own)
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("JupyterLab did not answer within 60 s")
