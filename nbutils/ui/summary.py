"""A config as people read it: what differs from the defaults, and since when.

Two views of the same facts: a card (HTML or text) where no form is shown, and the
parts of the wizard's review page.
"""

from __future__ import annotations

from html import escape
from typing import Any

from nbutils.config import RunConfig, yaml_text
from nbutils.environment.card import Row, render_card, render_text
from nbutils.ui.leaves import format_value

__all__ = ["ConfigSummary", "replay_code", "replay_yaml", "review_html"]

_ORIGINS = {"wizard": "you, in this form", "argument": "the cell's arguments"}
_MAX_ROWS = 16
_COPY = (
    "const t=this.closest('.nbu-copy').querySelector('textarea');t.focus();t.select();"
    "this.textContent=document.execCommand('copy')?'Copied':'Press Ctrl+C'"
)


class ConfigSummary:
    """The effective config with the origin of each non-default value.

    Args:
        config: What is in use.
        preset: The preset it started from.
        note: One sentence on why this is shown.
    """

    def __init__(self, config: RunConfig, preset: str | None, note: str = "") -> None:
        self._title = "Configuration in use"
        self._preset = preset
        self._rows = _card_rows(config, preset)
        start = f"preset {preset}" if preset else "defaults, no preset"
        self._subtitle = f"{start}. {note}".strip()

    def __str__(self) -> str:
        return render_text(self._title, "info", self._subtitle, self._rows, unfold=True)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return render_card(self._title, "info", self._subtitle, self._rows)


def replay_code(config: RunConfig, preset: str | None) -> str:
    """The line that makes an equal config without the wizard."""
    plain = RunConfig.preset(preset) if preset else RunConfig()
    start, values = plain.leaves(), config.leaves()
    changed = {name: values[name] for name in values if values[name] != start[name]}
    arguments = [repr(preset)] if preset else []
    if config.recipe != plain.recipe:
        arguments.append(f"recipe={config.recipe!r}")
    arguments += [f"{name}={value!r}" for name, value in changed.items()]
    call = "nb.RunConfig.preset" if preset else "nb.RunConfig"
    one_line = f"config = {call}({', '.join(arguments)})"
    if len(one_line) <= 88:
        return one_line
    body = "".join(f"    {argument},\n" for argument in arguments)
    return f"config = {call}(\n{body})"


def review_html(config: RunConfig, preset: str | None) -> str:
    """Everything that Apply will use: changes first, then the rest, then the code.

    Args:
        config: The config that the answers make.
        preset: The preset it started from.
    """
    changes, values = config.changes(), config.leaves()
    changed = "".join(
        _tr(name, value, _ORIGINS.get(origin, origin))
        for name, (value, origin) in changes.items()
    )
    rest = "".join(
        _tr(name, value, "default")
        for name, value in values.items()
        if name not in changes
    )
    head = '<tr><th scope="col">Setting</th><th scope="col">Value</th>'
    head += '<th scope="col">Comes from</th></tr>'
    start = f"preset <code>{escape(preset)}</code>" if preset else "the defaults"
    shown = (
        f'<table class="nbu-table">{head}{changed}</table>'
        if changed
        else "<p>Nothing differs from the defaults.</p>"
    )
    num_rest = sum(name not in changes for name in values)
    return (
        f"<p>Starts from {start}. These values differ from the defaults:</p>{shown}"
        f"<details><summary>{num_rest} settings at their default</summary>"
        f'<table class="nbu-table">{head}{rest}</table></details>'
        + _copy_html(
            "The same as a cell, without this form", replay_code(config, preset)
        )
        + _copy_html("The same as a YAML file", replay_yaml(config))
    )


def replay_yaml(config: RunConfig) -> str:
    """The non-default settings as a file that ``RunConfig.load`` reads."""
    names = {"recipe", "schema_version", *config.changes()}
    above = {"recipe": config.recipe, "schema_version": config.schema_version}
    origins = {name: origin for name, (_, origin) in config.changes().items()}
    kept: list[str] = []
    for line in yaml_text.dump(above | config.leaves(), origins).splitlines():
        is_section = line.endswith(":") and not line.startswith(" ")
        if is_section and kept and kept[-1].endswith(":"):
            kept.pop()  # the section before holds defaults only
        if is_section or line.startswith("#") or line.split(":")[0].strip() in names:
            kept.append(line)
    if kept[-1].endswith(":"):
        kept.pop()
    return "\n".join(kept) + "\n"


def _copy_html(title: str, text: str) -> str:
    """A text to take along: a button copies it, and so does Ctrl+A, Ctrl+C in it.

    The field can be written in, since JupyterLab takes single keys in one that cannot
    for commands; what is written there is used by nobody.
    """
    num_rows = min(text.count("\n") + 1, _MAX_ROWS)
    return (
        f'<div class="nbu-copy"><div class="nbu-copyhead"><span>{escape(title)}</span>'
        f'<button type="button" onclick="{_COPY}" aria-label="Copy: {escape(title)}">'
        f'Copy</button></div><textarea rows="{num_rows}" spellcheck="false" '
        f'aria-label="{escape(title)}" data-lm-suppress-shortcuts="true" '
        f'onfocus="this.select()">{escape(text)}</textarea></div>'
    )


def shown(value: Any) -> str:
    """A value for reading; nothing is called ``none``."""
    return format_value(value) or ("none" if value is None else "''")


def _tr(name: str, value: Any, origin: str) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in (shown(value), origin))
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _card_rows(config: RunConfig, preset: str | None) -> list[Row]:
    changes = config.changes()
    pairs = [(name, f"{shown(v)}  (from {o})") for name, (v, o) in changes.items()]
    rest = sum(name not in changes for name in config.leaves())
    noun = "value differs" if len(pairs) == 1 else "values differ"
    start = f'preset="{preset}", ' if preset else ""
    how = [
        ("in the cell", f"nb.SetupWizard({start}epochs=3)"),
        ("in code", "config = config.replace(epochs=3)"),
        ("environment", "NBUTILS_EPOCHS=3"),
        ("command line", "nbutils run … -p epochs=3"),
        ("form", "open the notebook in Jupyter and run the cell there"),
    ]
    return [
        Row("info", f"{len(pairs)} {noun} from the defaults; {rest} do not", pairs),
        Row("info", "How to change a value", how, folded=True),
    ]
