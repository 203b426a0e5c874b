"""The wizard in JupyterLab, as a newcomer meets it; needs a Chromium."""

from __future__ import annotations

from browser.lab import lab_page, lab_server, notebook, run_cell, run_command

CELLS = [
    "from nbutils.ui.notebook import attach\nattach()\n"
    "from nbutils.ui.wizard import SetupWizard\n"
    'wizard = SetupWizard(preset="vision/quick")',
    'print("lr is", wizard.config.optim.lr)',
]


def test_wizard_in_jupyterlab_edit_next_apply_and_use(tmp_path):
    notebook(tmp_path / "wizard.ipynb", CELLS)
    with lab_server(tmp_path) as address, lab_page(address, "wizard.ipynb") as page:
        run_command(page, "notebook:run-all-cells")  # returns: nothing waits
        page.get_by_text("Step 1 of 5: Data").wait_for()
        page.get_by_text("lr is").last.wait_for()
        following = page.get_by_role("button", name="Next")
        following.click()
        following.click()
        page.get_by_text("Step 3 of 5: Training").wait_for()

        rate = page.get_by_label("Learning rate", exact=True)
        rate.fill("abc")
        rate.press("Tab")
        following.click()
        page.get_by_role("alert").get_by_text("such as 3e-4").wait_for()
        assert page.get_by_text("Step 3 of 5: Training").is_visible()

        rate.fill("0.0625")
        rate.press("Tab")
        page.get_by_text("1 unapplied change").wait_for()
        following.click()
        page.get_by_text("Step 4 of 5").wait_for()
        following.click()
        page.get_by_text("Step 5 of 5: Review").wait_for()
        page.get_by_role("button", name="Apply").click()
        page.get_by_text("Applied").wait_for()
        run_cell(page, 1)
        page.get_by_text("lr is 0.0625").wait_for()
        assert page.locator('.nbu-wiz [title="null"]').count() == 0


def test_wizard_in_jupyterlab_every_input_has_a_name(tmp_path):
    notebook(tmp_path / "wizard.ipynb", CELLS[:1])
    with lab_server(tmp_path) as address, lab_page(address, "wizard.ipynb") as page:
        run_command(page, "notebook:run-all-cells")
        for step in ("Data", "Model", "Training", "Tracking & storage"):
            page.get_by_role("button", name=step).click()
            page.get_by_text(f": {step}").wait_for()
            nameless = page.evaluate(
                "[...document.querySelectorAll('.nbu-wiz input, .nbu-wiz select')]"
                ".filter(e => !e.labels || ![...e.labels].some("
                "l => l.textContent.trim())).length"
            )
            assert nameless == 0
