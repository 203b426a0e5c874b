"""Small things that several tests of the user interface need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets

from nbutils.ui.wizard import SetupWizard


def live_models() -> Mapping[str, Any]:
    """Every open widget model of this process, in version 7 and in 8."""
    if hasattr(ipywidgets.widgets.widget, "_instances"):
        return ipywidgets.widgets.widget._instances
    return ipywidgets.Widget.widgets


def wizard_of(**arguments: Any) -> SetupWizard:
    """An interactive wizard over the small vision preset."""
    return SetupWizard(**({"preset": "vision/quick", "interactive": True} | arguments))


def answer(wizard: SetupWizard, name: str, raw: Any) -> None:
    """Answer as a user does: through the widget."""
    wizard.view.form.fields[name].widget.value = raw


def turn_to(wizard: SetupWizard, step: str) -> None:
    """Click the step in the header."""
    next(b for b in wizard.view.frame.headers if step in b.description).click()
