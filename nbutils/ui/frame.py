"""What surrounds the wizard's pages: step header, alert, banner, buttons, preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from html import escape
from typing import Any

from nbutils.config import presets
from nbutils.ui.fields import FIELD, LABEL_WIDTH, NOTE
from nbutils.ui.kit import Kit
from nbutils.ui.leaves import format_value, label_of
from nbutils.ui.looks import title_html

__all__ = ["STEPS", "Actions", "Frame", "marks_of"]

STEPS = ("Data", "Model", "Training", "Tracking & storage", "Review")
_NO_PRESET = "no preset: plain defaults"
_WIDE = {"width": "auto"}
_WRAP = {"flex_flow": "row wrap", "width": "100%"}
_BUTTON = {"margin": "0 8px 4px 0", "width": "128px"}
_HEADER = {"width": "auto", "margin": "0 6px 6px 0", "flex": "0 1 auto"}
_SMALL = {"width": "auto", "margin": "4px 0", "align_self": "flex-start"}

Actions = Mapping[str, Callable[..., None]]


class Frame:
    """Widgets around a page; each click and choice goes to one action.

    Args:
        kit: Makes and registers every widget.
        actions: Guarded callbacks: ``go`` takes a page number; ``back``, ``next``,
            ``apply`` and ``undo`` take nothing; ``choose`` takes the change of the
            preset.
        preset: The preset chosen so far.
        saves: Whether Apply writes a file too.
    """

    def __init__(
        self, kit: Kit, actions: Actions, preset: str | None, *, saves: bool
    ) -> None:
        self._kit = kit
        self.title = kit.make("HTML", layout={"margin": "0 0 6px 0"})
        self.alert = kit.make("HTML", layout=_WIDE)
        self.banner = kit.make("HTML", layout=_WIDE)
        self.headers = [
            self._button(step, f"Go to step {i + 1}: {step}", _HEADER, actions["go"], i)
            for i, step in enumerate(STEPS)
        ]
        self.back = self._button("Back", "To the page before", _BUTTON, actions["back"])
        self.next = self._button("Next", "To the next page", _BUTTON, actions["next"])
        self.next.button_style = "primary"
        self.apply = self._button(
            "Apply & save" if saves else "Apply",
            "Check everything and use these settings: wizard.config",
            _BUTTON,
            actions["apply"],
        )
        self.preset = self._preset(preset, actions["choose"])
        self.preset_note = kit.make("HTML", layout=NOTE)
        self.undo = self._button(
            "Undo this preset",
            "Back to the values before it; your own answers stay",
            _SMALL,
            actions["undo"],
        )
        row = kit.make("HBox", layout=_WRAP, children=(self.preset, self.preset_note))
        self.preset_diff = kit.make("HTML", layout=_WIDE)
        self.preset_row = kit.make(
            "VBox",
            layout=_WIDE | {"margin": "0 0 8px 0"},
            children=(row, self.preset_diff, self.undo),
        )
        self.body = kit.make("VBox", layout=_WIDE | {"margin": "4px 0 8px 0"})
        self.root = self._assemble()

    def show_page(self, index: int, page: Any, marks: Sequence[str]) -> None:
        """Put a page into the body and say in the header where the user is."""
        title = title_html(STEPS, index, marks)
        if self.title.value != title:  # announced once per page, not per key
            self.title.value = title
        if self.body.children != (page,):
            self.body.children = (page,)
        for number, (step, button) in enumerate(zip(STEPS, self.headers, strict=True)):
            is_current = number == index and marks[number] != "!"
            mark = "▸" if is_current else marks[number]
            button.description = f"{mark} {number + 1} {step}"
            button.button_style = "primary" if number == index else ""
        is_last = index == len(STEPS) - 1
        self.back.disabled = index == 0
        self.next.layout = self._kit.layout({"display": "none"} if is_last else _BUTTON)
        self.apply.button_style = "success" if is_last else ""

    def tell_preset(
        self, moved: dict[str, tuple[Any, Any]], num_own: int, *, can_undo: bool
    ) -> None:
        """Say what choosing a preset did; before that, what a preset is."""
        self.preset_note.value = _preset_note(moved, num_own)
        self.preset_diff.value = _diff_html(moved)
        hidden = {"display": "none"}
        self.undo.layout = self._kit.layout(_SMALL if can_undo else hidden)

    def _button(
        self,
        text: str,
        tip: str,
        layout: dict[str, str],
        action: Callable[..., None],
        *arguments: Any,
    ) -> Any:
        button = self._kit.make("Button", description=text, tip=tip, layout=layout)
        button.on_click(lambda _button: action(*arguments))
        return button

    def _preset(self, preset: str | None, choose: Callable[..., None]) -> Any:
        dropdown = self._kit.make(
            "Dropdown",
            options=[(_NO_PRESET, None), *((name, name) for name in presets())],
            value=preset,
            description="Start from preset",
            tip="A named starting point; your own changes stay",
            label_width=LABEL_WIDTH,
            layout=FIELD,
        )
        dropdown.observe(choose, names="value")
        return dropdown

    def _assemble(self) -> Any:
        make = self._kit.make
        header = make("HBox", layout=_WRAP, children=tuple(self.headers))
        footer = make(
            "HBox",
            layout=_WRAP | {"margin": "6px 0 0 0"},
            children=(self.back, self.next, self.apply),
        )
        root = make(
            "VBox",
            layout=_WIDE | {"max_width": "920px", "padding": "14px 16px"},
            children=(self.title, header, self.body, self.alert, self.banner, footer),
        )
        root.add_class("nbu-wiz")
        return root


def marks_of(wrong: Set[str], seen: Set[int]) -> list[str]:
    """A sign for each page: ``!`` has a problem, ``✓`` seen, ``•`` to be seen.

    Args:
        wrong: Steps with a problem.
        seen: Numbers of pages that were visited.
    """
    return [
        "!" if step in wrong else "✓" if index in seen else "•"
        for index, step in enumerate(STEPS)
    ]


def _preset_note(moved: dict[str, tuple[Any, Any]], num_own: int) -> str:
    if not moved:
        return (
            '<span class="nbu-help">A tested starting point. Choosing another one '
            "keeps what you changed yourself.</span>"
        )
    kept = f" Kept your own: {num_own}." if num_own else ""
    return (
        f'<span class="nbu-moved">changed by preset: {len(moved)}</span> '
        f'<span class="nbu-help">{kept}</span>'
    )


def _diff_html(moved: dict[str, tuple[Any, Any]]) -> str:
    """What a preset changed, value by value; empty when it changed nothing."""
    if not moved:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(label_of(name))}</th>'
        f"<td>{escape(format_value(old) or 'none')}</td>"
        f"<td>{escape(format_value(new) or 'none')}</td></tr>"
        for name, (old, new) in moved.items()
    )
    return (
        f"<details><summary>What changed</summary>"
        '<table class="nbu-table nbu-diff"><tr><th scope="col">Setting</th>'
        f'<th scope="col">Was</th><th scope="col">Is now</th></tr>{rows}</table>'
        "</details>"
    )
