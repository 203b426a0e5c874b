"""``SetupWizard``: a form in a notebook, a printed summary anywhere else.

``wizard.config`` is a valid config at every moment, so Run All never waits for a
click: until something is applied it is what the arguments, the environment, the saved
file and the preset say together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbutils.config import RunConfig
from nbutils.environment.platform import is_interactive
from nbutils.errors import ConfigError
from nbutils.monitor.display import show
from nbutils.ui.answers import Answers, Problem, Source
from nbutils.ui.kit import has_widgets
from nbutils.ui.notebook import display_form
from nbutils.ui.summary import ConfigSummary
from nbutils.ui.view import WizardView

__all__ = ["SetupWizard"]

_OPEN: dict[str, SetupWizard] = {}
"""The interactive wizard of each name; running its cell again replaces it."""


class SetupWizard:
    """Answers in, :class:`RunConfig` out; it never blocks and never prompts.

    Args:
        preset: Name of the preset to start from; see ``nb.presets()``.
        path: A config file: read if it exists, written by Apply.
        interactive: Show a form; by default where someone can click. Without
            ipywidgets there is none, and the values and how to change them are shown.
            Without a form no widget is created.
        name: Wizards of different names live side by side.
        **overrides: Settings, flat or dotted; stronger than preset and file.

    Raises:
        ConfigError: The arguments, the environment or the file cannot be used.
    """

    def __init__(
        self,
        preset: str | None = None,
        path: str | Path | None = None,
        interactive: bool | None = None,
        name: str = "default",
        **overrides: Any,
    ) -> None:
        source = Source(preset, Path(path) if path is not None else None, overrides)
        self.preset = preset
        self.answers = Answers(source)
        self.view: WizardView | None = None
        self._name = name
        self._applied: RunConfig | None = None
        self._unsaved: Problem | None = None
        self._noticed: list[str] = []
        self._retell: Callable[[ConfigSummary], None] = lambda _summary: None
        self._why_no_form = "" if has_widgets() else _NO_WIDGETS
        if interactive is None:
            interactive = is_interactive()
        if interactive and not self._why_no_form:
            earlier = self._take_over_earlier()
            self.view = WizardView(self)
            if earlier is not None:
                self.view.take_over(earlier)
                earlier.close()
        self.show()

    @property
    def config(self) -> RunConfig:
        """What was last applied, else what the sources resolve to; always valid."""
        pending = self.pending()
        if pending and pending != self._noticed:
            show(_notice(pending))
        self._noticed = pending
        return self._in_use()

    @property
    def errors(self) -> list[str]:
        """One sentence for everything that stands against the present answers."""
        return [problem.text for problem in self.problems()]

    def show(self) -> None:
        """Show the form; without one, the config in use and how to change it."""
        if self.view is None:
            why = self._why_no_form or _HEADLESS
            show(ConfigSummary(self._in_use(), self.answers.preset, why))
        else:
            self._retell = display_form(self.view.frame.root, self._summary())

    def apply(self) -> bool:
        """Judge all answers, take them over, and save them to ``path`` if given.

        Returns:
            Whether the config is in use now. If not, ``errors`` says why; the form
            turns to the first page with a problem.

        Raises:
            ConfigError: The file cannot be written and there is no form to say so.
        """
        config, problems = self.answers.build()
        if config is not None:
            self._applied = config
            self._unsaved = self._save(config)
            if self.view is not None:
                self.view.applied()
        if self.view is None and self._unsaved is not None:
            raise ConfigError([self._unsaved.text])
        if self.view is not None and (problems or self._unsaved):
            self.view.show_problems()
        elif self.view is not None:
            self.answers.moved_by_preset.clear()
            self.view.refresh()
            self._retell(self._summary())
        return config is not None

    def close(self) -> None:
        """Remove the form and every widget model of it; ``config`` stays."""
        if self.view is not None:
            self.view.close()
            self.view = None
        if _OPEN.get(self._name) is self:
            del _OPEN[self._name]

    def problems(self) -> list[Problem]:
        """What stands against the present answers, with the leaf where it is known."""
        _, problems = self.answers.build()
        return problems + ([self._unsaved] if self._unsaved else [])

    def pending(self) -> list[str]:
        """What stands on the form and is not in use; empty without a form."""
        beside = [] if self.view is None else self.view.pending()
        return self.answers.differs_from(self._in_use()) + beside

    def applied_text(self) -> str:
        """What was applied, and where it lies; empty when nothing was."""
        if self._applied is None:
            return ""
        path = self.answers.source.path
        saved = f", saved to {path}" if path is not None and not self._unsaved else ""
        return f"wizard.config holds these settings ({self._applied.hash[:8]}){saved}"

    def _summary(self) -> ConfigSummary:
        """What a reader sees who has no form."""
        return ConfigSummary(self._in_use(), self.answers.preset, _GONE)

    def _in_use(self) -> RunConfig:
        return self._applied if self._applied is not None else self.answers.initial

    def _save(self, config: RunConfig) -> Problem | None:
        path = self.answers.source.path
        if path is None:
            return None
        try:
            config.save(path)
        except OSError as error:
            reason = error.strerror or str(error)
            return Problem(
                f"The config is in use but not saved: {path} cannot be written "
                f"({reason}). Choose a folder that can be, and press Apply again."
            )
        return None

    def _take_over_earlier(self) -> WizardView | None:
        """Go on from the answers of the form that this cell made before.

        Returns:
            That form, for the caller to close.
        """
        earlier = _OPEN.get(self._name)
        _OPEN[self._name] = self
        if earlier is None:
            return None
        self.answers.take_over(earlier.answers)
        if earlier.answers.source == self.answers.source:
            self._applied = earlier._applied
        view, earlier.view = earlier.view, None
        return view

    def __repr__(self) -> str:
        state = "applied" if self._applied is not None else "nothing applied"
        return f"SetupWizard(preset={self.answers.preset!r}, {state})"


_HEADLESS = "No form is shown here; these values are used at once."
_GONE = "The form lives as long as its kernel; run this cell again to have it back."
_NO_WIDGETS = (
    "No form is shown, since ipywidgets is not installed; these values are used at "
    "once. For the form: pip install ipywidgets, then reload the page."
)


def _notice(pending: list[str]) -> str:
    noun = "change is" if len(pending) == 1 else "changes are"
    return (
        f"! {len(pending)} {noun} not applied in the wizard and not used: "
        f"{', '.join(pending)}. Press Apply, then run this cell again."
    )
