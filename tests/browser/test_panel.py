"""The live panel in JupyterLab: tabs close, kernels restart, the run is still there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser.lab import lab_page, lab_server, notebook, run_cell, run_command
from nbutils.launch.background import attach

SETUP = """
import os, time, torch
import nbutils as nb
from nbutils.testing import make_task

class Slow(nb.Callback):
    def on_step_end(self, state):
        time.sleep(pause)

def coordinator(folder, epochs=8):
    return nb.TrainingCoordinator(
        make_task(), run_dir=folder, callbacks=[Slow()], batch_size=8, epochs=epochs,
        preflight="skip",
    )
print("ready")
"""
OUTPUT = ".jp-OutputArea"
LIVE = ".nbu-dash"
AXE = """() => [...document.querySelectorAll('.nbu-dash [role=progressbar]')].map(
    e => [e.getAttribute('aria-label'), e.getAttribute('aria-valuenow')])"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with lab_server(folder) as address:
        yield address


def reopened(page: Any, address: str, name: str) -> Any:
    """The tab closed, and the notebook opened in another one."""
    other = page.context.browser.new_page(viewport={"width": 1280, "height": 1400})
    other.set_default_timeout(60_000)
    page.close(run_before_unload=False)
    other.goto(f"{address}/lab/tree/{name}?token=tok")
    other.wait_for_selector(".jp-Notebook")
    return other


def await_kernel(page: Any) -> None:
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
        "?.status === 'idle'"
    )


def outputs(folder: Path, name: str, cell: int) -> list[dict[str, Any]]:
    """What the saved notebook holds of a cell."""
    return json.loads((folder / name).read_text())["cells"][cell]["outputs"]


def start_all(page: Any) -> None:
    """Run all cells, and do not wait for them."""
    command = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
    page.evaluate(f"() => {{ {command} }}")


def save(page: Any) -> None:
    run_command(page, "docmanager:save")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")


def test_panel_tab_closed_during_training_shows_the_end_when_reopened(folder, address):
    cells = [SETUP + "pause = 0.25", "result = coordinator('runs/tab').train()"]
    notebook(folder / "tab.ipynb", cells)
    with lab_page(address, "tab.ipynb") as page:
        start_all(page)
        page.locator(LIVE).get_by_text("• training").wait_for()
        page.locator(f"{LIVE} svg").first.wait_for()
        ((label, now),) = page.evaluate(AXE)
        assert label == "Progress"
        assert 0 <= int(now) < 100
        save(page)
        page = reopened(page, address, "tab.ipynb")
        page.reload()  # and once more, in the middle
        page.wait_for_selector(".jp-Notebook")
        page.locator(LIVE).get_by_text("✓ finished").wait_for(timeout=90_000)
        assert page.locator(f"{LIVE} svg").count() >= 2
        assert page.evaluate(AXE) == [["Progress", "100"]]
        assert page.get_by_text("Error displaying widget").count() == 0


def test_panel_ends_as_plain_html_and_show_run_draws_the_same_curves(folder, address):
    cells = [
        SETUP + "pause = 0.05",
        "result = coordinator('runs/kept').train()",
        "import nbutils as nb\nnb.show_run('runs/kept', follow=True)",
    ]
    notebook(folder / "kept.ipynb", cells)
    with lab_page(address, "kept.ipynb") as page:
        run_cell(page, 0)
        page.get_by_text("ready", exact=True).wait_for()
        run_cell(page, 1)
        page.locator(LIVE).get_by_text("✓ finished").wait_for()
        curves = page.evaluate(_CURVES)
        assert len(curves) >= 3
        page.evaluate(
            "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
            ".restart()"
        )
        await_kernel(page)
        run_cell(page, 2)
        page.locator(LIVE).nth(1).wait_for()
        page.wait_for_function(f"({_CURVES})().length == {2 * len(curves)}")
        assert page.evaluate(_CURVES)[len(curves) :] == curves
        save(page)
        for cell in (1, 2):
            (output,) = outputs(folder, "kept.ipynb", cell)
            assert sorted(output["data"]) == ["text/html", "text/plain"]
        text = (folder / "kept.ipynb").read_text()
        assert "widget-view" not in text
        assert len(text) < 100_000


_CURVES = """() => [...document.querySelectorAll('.nbu-dash svg path[fill=none]')]
    .map(path => path.getAttribute('d'))"""


def test_panel_interrupt_button_saves_and_returns(folder, address):
    cells = [
        SETUP + "pause = 0.2",
        "result = coordinator('runs/cut', epochs=200).train()",
        "print('reason:', result.stop_reason, os.listdir('runs/cut/checkpoints'))",
    ]
    notebook(folder / "cut.ipynb", cells)
    with lab_page(address, "cut.ipynb") as page:
        start_all(page)
        page.locator(LIVE).get_by_text("• training").wait_for()
        page.get_by_text(re.compile(r"step [1-9]")).first.wait_for()
        page.locator("[data-command='notebook:interrupt-kernel']").first.click()
        page.get_by_text("reason: interrupt ['").wait_for()
        assert "step-" in page.get_by_text("reason: interrupt").inner_text()
        page.locator(LIVE).get_by_text("• stopped").wait_for()


def test_panel_stop_file_ends_the_run(folder, address):
    cells = [
        SETUP + "pause = 0.2",
        "result = coordinator('runs/stop', epochs=200).train()",
        "print('reason:', result.stop_reason)",
    ]
    notebook(folder / "stop.ipynb", cells)
    with lab_page(address, "stop.ipynb") as page:
        start_all(page)
        page.locator(LIVE).get_by_text("• training").wait_for()
        (folder / "runs" / "stop" / "STOP").touch()
        page.get_by_text("reason: stop file").wait_for()


@pytest.mark.usefixtures("nothing_runs_on")
def test_panel_of_a_background_run_has_a_button_that_stops_it(folder, address):
    cells = [
        SETUP + "pause = 0.2",
        "run = coordinator('runs/back', epochs=200).train(background=True)",
        "result = run.wait()\nprint('reason:', result.stop_reason)",
    ]
    notebook(folder / "back.ipynb", cells)
    with lab_page(address, "back.ipynb") as page:
        for cell in (0, 1):
            run_cell(page, cell)
        page.get_by_text("it outlives this one").wait_for()
        page.locator(LIVE).get_by_text("• training").wait_for(timeout=90_000)
        page.get_by_text(re.compile(r"step [1-9]")).first.wait_for()
        save(page)
        page = reopened(page, address, "back.ipynb")
        page.locator(LIVE).get_by_text("• training").wait_for()  # still live
        page.get_by_role("button", name="Stop and save").click()
        page.locator(LIVE).get_by_text("• stopped").wait_for()
        await_kernel(page)
        run_cell(page, 2)
        page.get_by_text("reason: stop file").wait_for()


@pytest.fixture
def nothing_runs_on(folder: Path) -> Iterator[None]:
    """A run of its own process ends with the test, whatever the test does."""
    yield
    run = attach(folder / "runs" / "back")
    run.stop()
    run.wait(60)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_panel_is_readable_in_both_themes(folder, address, theme):
    kind = theme.split()[-1]
    cells = [SETUP + "pause = 0.02", f"result = coordinator('runs/{kind}').train()"]
    name = f"{kind}.ipynb"
    notebook(folder / name, cells)
    with lab_page(address, name) as page:
        page.evaluate(
            "theme => window.jupyterapp.commands.execute("
            "'apputils:change-theme', {theme})",
            theme,
        )
        start_all(page)
        page.locator(LIVE).get_by_text("✓ finished").wait_for()
        page.wait_for_timeout(500)
        page.locator(LIVE).screenshot(path=folder / f"{name}.png")
        contrasts = page.evaluate(_CONTRASTS)
        assert len(contrasts) > 20
        assert min(contrasts.values()) >= 4.5, contrasts


# Contrast of each piece of text against what lies behind the panel.
_CONTRASTS = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  ).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const dash = document.querySelector('.nbu-dash');
  let back = dash;
  while (rgb(getComputedStyle(back).backgroundColor)[3] === 0)
    back = back.parentElement;
  const ground = rgb(getComputedStyle(back).backgroundColor);
  const found = {};
  for (const e of dash.querySelectorAll('span, b, td, th, div, text')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e);
    const ink = rgb(e.tagName === 'text' ? style.fill : style.color);
    let opacity = 1;
    for (let p = e; p && p !== back; p = p.parentElement)
      opacity *= Number(getComputedStyle(p).opacity);
    const seen = ink.slice(0, 3).map((c, i) => c * opacity + ground[i] * (1 - opacity));
    const [a, b] = [light(seen), light(ground)].sort((x, y) => y - x);
    found[e.tagName + ' ' + e.textContent.trim().slice(0, 24)] = (a + .05) / (b + .05);
  }
  return found;
}"""
