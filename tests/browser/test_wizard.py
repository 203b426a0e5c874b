"""The wizard in JupyterLab, as a newcomer meets it; needs a Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser.lab import lab_page, lab_server, notebook, run_cell, run_command

CELLS = [
    "from nbutils.ui.notebook import attach\nattach()\n"
    "from nbutils.ui.wizard import SetupWizard\n"
    'wizard = SetupWizard(preset="vision/quick")',
    'print("lr is", wizard.config.optim.lr)',
]
STEPS = ("Data", "Model", "Training", "Tracking & storage", "Review")
SECRET = "f00dfacef00dfacef00dfacef00dfacef00dface"  # noqa: S105 (made up)
CHANGE_THEME = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
NAMELESS = re.compile(r"- (?:textbox|combobox|checkbox|button|img)(?:$|:| \[)", re.M)
"""A control in a snapshot of the accessibility tree that has no name."""
SETTLE_MS = 1000
"""The first field of a page takes the keyboard a moment after the page is there."""

FOCUSED = (
    "(() => { const e = document.activeElement;"
    "return (e.labels?.[0]?.textContent || e.textContent || '').trim() })()"
)
# Text with less contrast than WCAG 2.1 AA asks for: 4.5, of large text 3. Colours are
# laid over each other from the page upwards, with the opacity of every parent.
LOW_CONTRAST = """
() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => { const a = top[3] ?? 1;
    return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a)).concat([1]); };
  const light = c => { const [r, g, b] = c.map(v => { v /= 255;
      return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const found = [];
  const walker = document.createTreeWalker(
    document.querySelector('.nbu-wiz'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, holder = node.parentElement;
    if (!node.textContent.trim() || holder.closest('style,script,option,.nbu-hidden'))
      continue;
    if (!holder.getClientRects().length || holder.closest('button:disabled')) continue;
    const chain = [];
    for (let e = holder; e; e = e.parentElement) chain.unshift(e);
    let back = [255, 255, 255, 1], opacity = 1;
    for (const e of chain) {
      const style = getComputedStyle(e);
      opacity *= Number(style.opacity);
      const own = parse(style.backgroundColor);
      if (own.length && (own[3] ?? 1) > 0) back = over(own, back);
    }
    const style = getComputedStyle(holder), text = parse(style.color);
    const front = over([text[0], text[1], text[2], (text[3] ?? 1) * opacity], back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 600;
    const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (a + .05) / (b + .05);
    if (ratio < wanted)
      found.push(`${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 50)}`);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a JupyterLab over it, for all tests here."""
    folder = tmp_path_factory.mktemp("lab")
    with lab_server(folder) as address:
        yield folder, address


@contextmanager
def opened(lab: tuple[Path, str], name: str, cells: list[str] = CELLS) -> Iterator[Any]:
    """The wizard on its first page; each test has a notebook of its own."""
    folder, address = lab
    notebook(folder / name, cells)
    with lab_page(address, name) as page:
        page.add_style_tag(content=".Toastify{display:none}")
        run_command(page, "notebook:run-all-cells")  # returns: nothing waits
        page.get_by_text("Step 1 of 5: Data").wait_for()
        yield page


def turn_to(page: Any, step: str) -> None:
    page.get_by_role("button", name=step).click()
    page.get_by_text(re.compile(rf"^Step . of 5: {step}$")).wait_for()


def fill(page: Any, label: str, text: str) -> None:
    page.wait_for_timeout(SETTLE_MS)
    field = page.get_by_label(label, exact=True)
    field.fill(text)
    field.press("Tab")


def tab_to(page: Any, name: str) -> list[str]:
    """Press Tab until this has the keyboard; what was passed on the way."""
    passed: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        passed.append(page.evaluate(FOCUSED))
        if passed[-1] == name:
            return passed
    raise AssertionError(f"Tab never came to {name}: {passed}")


def test_wizard_in_jupyterlab_edit_next_apply_and_use(lab):
    with opened(lab, "use.ipynb") as page:
        page.get_by_text("lr is").last.wait_for()
        following = page.get_by_role("button", name="Next")
        following.click()
        page.get_by_text("Step 2 of 5").wait_for()
        following.click()
        page.get_by_text("Step 3 of 5: Training").wait_for()

        fill(page, "Learning rate", "abc")
        following.click()
        page.get_by_role("alert").get_by_text("such as 3e-4").wait_for()
        assert page.get_by_text("Step 3 of 5: Training").is_visible()
        fill(page, "Learning rate", "0.0625")
        page.get_by_text("1 unapplied change").wait_for()
        following.click()
        page.get_by_text("Step 4 of 5").wait_for()

        page.get_by_label("Tracker", exact=True).select_option("wandb")
        fill(page, "W&B API key", SECRET)
        page.get_by_text("a key is held").wait_for()
        assert page.get_by_label("W&B API key").input_value() == ""
        following.click()
        page.get_by_text("Step 5 of 5: Review").wait_for()

        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy: The same as a cell").click()
        page.get_by_text("Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("config = nb.RunConfig.preset('vision/quick', lr=0.06")
        page.get_by_label("The same as a YAML file", exact=True).focus()
        page.wait_for_function("document.activeElement.selectionEnd > 0")
        page.keyboard.press("Control+C")
        page.wait_for_function(
            "async () => (await navigator.clipboard.readText()).includes('lr: 0.0625')"
        )

        page.get_by_role("button", name="Apply").click()
        page.get_by_text("Applied").wait_for()
        run_cell(page, 1)
        page.get_by_text("lr is 0.0625").wait_for()
        assert page.locator('.nbu-wiz [title="null"]').count() == 0
        run_command(page, "docmanager:save")
        page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    saved = (lab[0] / "use.ipynb").read_text(encoding="utf-8")
    assert "lr is 0.0625" in saved
    assert SECRET not in saved
    assert not [p for p in lab[0].rglob("*.ipynb") if SECRET in p.read_text("utf-8")]


def test_wizard_in_jupyterlab_reload_and_second_run_keep_everything(lab):
    with opened(lab, "again.ipynb") as page:
        turn_to(page, "Training")
        fill(page, "Epochs", "7")
        page.get_by_role("button", name="Apply").click()
        page.get_by_text("Applied").wait_for()
        fill(page, "Learning rate", "0.03125")
        page.get_by_text("1 unapplied change").wait_for()
        run_command(page, "docmanager:save")
        page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")

        page.reload()
        page.get_by_text("Step 3 of 5: Training").wait_for()
        rate = page.get_by_label("Learning rate", exact=True)
        assert rate.input_value() == "0.03125"
        assert page.get_by_label("Epochs", exact=True).input_value() == "7"
        assert page.get_by_text("1 unapplied change").is_visible()
        page.get_by_role("button", name="Apply").click()
        page.get_by_text("Applied").wait_for()

        run_cell(page, 0)
        page.get_by_text("Step 1 of 5: Data").wait_for()
        assert page.locator(".nbu-wiz").count() == 1
        turn_to(page, "Training")
        assert rate.input_value() == "0.03125"
        run_cell(page, 1)
        page.get_by_text("lr is 0.03125").wait_for()


def test_wizard_in_jupyterlab_restarted_kernel_leaves_the_values_and_a_way_back(lab):
    with opened(lab, "restart.ipynb", CELLS[:1]) as page:
        card = page.locator(".nbu-formless")
        card.wait_for(state="attached")
        assert not card.is_visible()  # while the form is there
        turn_to(page, "Training")
        fill(page, "Epochs", "7")
        page.get_by_role("button", name="Apply").click()
        card.get_by_text("7  (from wizard)").wait_for(state="attached")
        run_command(page, "docmanager:save")
        page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
        page.evaluate(
            "jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        page.reload()
        page.get_by_text("Error displaying widget").wait_for()  # JupyterLab's own words
        page.get_by_text("run this cell again to have it back").wait_for()
        assert "7  (from wizard)" in card.inner_text()
        page.wait_for_function(
            "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.status === 'idle'"
        )
        run_cell(page, 0)
        page.get_by_text("Step 1 of 5: Data").wait_for()
        assert not card.is_visible()


def test_wizard_in_jupyterlab_works_with_the_keyboard_alone(lab):
    with opened(lab, "keys.ipynb") as page:
        page.locator(".nbu-wiz button").first.focus()
        passed = tab_to(page, "Next")
        assert "Start from preset" in passed
        assert "Look at the data" in passed
        page.keyboard.press("Enter")
        page.get_by_text("Step 2 of 5").wait_for()
        page.wait_for_function(f"{FOCUSED} === 'Model name'")  # the first field
        tab_to(page, "Next")
        page.keyboard.press("Space")
        page.get_by_text("Step 3 of 5").wait_for()
        page.wait_for_function(f"{FOCUSED} === 'Epochs'")
        page.keyboard.press("Control+A")
        page.keyboard.type("3")
        tab_to(page, "▸ Show 18 advanced settings")
        page.keyboard.press("Space")
        page.get_by_label("Momentum", exact=True).wait_for()
        tab_to(page, "Momentum")
        page.keyboard.press("Control+A")
        page.keyboard.type("much")
        tab_to(page, "Next")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("'much'").wait_for()
        page.wait_for_function(f"{FOCUSED} === 'Momentum'")  # the first problem
        page.keyboard.press("Control+A")
        page.keyboard.type("0.8")
        tab_to(page, "Apply")
        page.keyboard.press("Enter")
        page.get_by_text("Applied").wait_for()


def test_wizard_in_jupyterlab_pages_are_accessible_in_both_themes(lab):
    with opened(lab, "access.ipynb") as page:
        page.get_by_role("button", name="Look at the data").click()
        page.get_by_text("1,797 images in 10 classes").wait_for()
        page.get_by_label("Start from preset").select_option("vision/folder")
        page.get_by_text("What changed").click()
        turn_to(page, "Review")
        page.get_by_role("button", name="Run the static checks").click()
        page.get_by_text("Preflight of vision").wait_for()
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            page.evaluate(CHANGE_THEME, theme)
            is_light = str("Light" in theme).lower()
            page.wait_for_function(
                f"document.body.dataset.jpThemeLight === '{is_light}'"
            )
            page.wait_for_timeout(500)
            for step in STEPS:
                turn_to(page, step)
                look_for_barriers(page, step)
            turn_to(page, "Training")
            fill(page, "Epochs", "many")
            page.get_by_role("button", name="Next").click()
            page.get_by_role("alert").wait_for()
            look_for_barriers(page, "Training")
            fill(page, "Epochs", "3")
        page.add_style_tag(content=".nbu-help{opacity:.3!important}")
        assert page.evaluate(LOW_CONTRAST)  # it would see a pale text


def look_for_barriers(page: Any, step: str) -> None:
    """Controls without a name, steps without a mark, text that is hard to read."""
    snapshot = page.locator(".nbu-wiz").aria_snapshot()
    assert NAMELESS.findall(snapshot) == [], snapshot
    assert 'heading "Set up the run" [level=2]' in snapshot
    current = page.locator('.nbu-wiz [aria-current="step"]')
    assert current.count() == 1
    assert current.inner_text().startswith(step)
    assert page.locator('.nbu-wiz [title="null"]').count() == 0
    assert page.evaluate(LOW_CONTRAST) == [], step
