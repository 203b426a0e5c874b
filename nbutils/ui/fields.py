"""Form fields for config leaves, from core widgets that 7.7 and 8.x share.

Numbers are typed as text: a field that clamps or rounds in silence would train
something other than what was asked for. What does not fit is said beside the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from nbutils.ui.answers import Problem
from nbutils.ui.kit import Kit
from nbutils.ui.leaves import Leaf, format_value, label_of

__all__ = ["FIELD", "LABEL_WIDTH", "NOTE", "Field", "FormBuilder", "heading_html"]

Edited = Callable[[str, Any], None]

GROUPS = {
    "train": "Length, device and best model",
    "optim": "Loss, optimizer and schedule",
    "schedule": "Loss, optimizer and schedule",
    "loss": "Loss, optimizer and schedule",
    "precision": "Precision and safety",
    "guard": "Precision and safety",
    "checkpoint": "Checkpoints",
    "tracking": "Tracking",
    "preflight": "Checks and display",
    "display": "Checks and display",
}
"""Heading over the fields of a section, on pages with more than one; in this order."""

LABEL_WIDTH = "190px"
FIELD = {"width": "400px", "margin": "2px 12px 2px 0"}
NOTE = {"flex": "1 1 240px", "width": "auto", "min_width": "200px", "margin": "2px 0"}
_ROW = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}
_COLUMN = {"width": "100%"}


class Field:
    """One leaf: its widget and the note beside it (help, change or error)."""

    def __init__(self, kit: Kit, leaf: Leaf, raw: Any, on_edit: Edited) -> None:
        self.leaf = leaf
        self.widget = _widget(kit, leaf, raw)
        self.note = kit.make("HTML", layout=NOTE)
        self.row = kit.make("HBox", layout=_ROW, children=(self.widget, self.note))
        self._on_edit = on_edit
        self._is_quiet = False
        self.widget.observe(self._changed, names="value")
        self.annotate(None, None)

    def put(self, raw: Any) -> None:
        """Show an answer that did not come from the user's hand."""
        self._is_quiet = True
        try:
            self.widget.value = raw
        finally:
            self._is_quiet = False

    def annotate(
        self,
        problem: Problem | None,
        moved: tuple[Any, Any] | None,
        *,
        follows: str = "",
        found: str = "",
    ) -> None:
        """Say what is wrong, what was found, what changed it, else the help.

        Args:
            problem: Why the answer cannot be used.
            moved: The values before and after a preset was chosen.
            follows: The leaf that the answer follows from.
            found: What a look at the data or the model says against the answer.
        """
        if problem is not None:
            html = f'<span class="nbu-error">✗ {escape(problem.text)}</span>'
        elif found:
            html = f'<span class="nbu-error">! {escape(found)}</span>'
        elif follows:
            html = (
                f'<span class="nbu-followed">follows {escape(label_of(follows))}</span>'
                f' <span class="nbu-help">{escape(self.leaf.help)}</span>'
            )
        elif moved is not None:
            was = format_value(moved[0]) or "none"
            html = (
                f'<span class="nbu-moved">changed by preset, was {escape(was)}</span> '
                f'<span class="nbu-help">{escape(self.leaf.help)}</span>'
            )
        else:
            html = f'<span class="nbu-help">{escape(self.leaf.help)}</span>'
        if self.note.value != html:
            self.note.value = html

    def _changed(self, change: dict[str, Any]) -> None:
        if not self._is_quiet:
            self._on_edit(self.leaf.name, change["new"])


class FormBuilder:
    """Builds pages of fields and keeps them by leaf name.

    Args:
        kit: Makes and registers every widget.
        on_edit: Called with ``(leaf name, raw answer)`` on each edit by the user.
    """

    def __init__(self, kit: Kit, on_edit: Edited) -> None:
        self.fields: dict[str, Field] = {}
        self.toggles: dict[str, Any] = {}
        self._kit = kit
        self._on_edit = on_edit
        self._after: Mapping[str, Any] = {}

    def page(
        self,
        step: str,
        leaves: Sequence[Leaf],
        raw: dict[str, Any],
        *,
        top: Sequence[Any] = (),
        bottom: Sequence[Any] = (),
        after: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """A column of rows; advanced leaves stay hidden until asked for.

        Args:
            step: Name of the page.
            leaves: Its settings.
            raw: Their raw answers.
            top: Widgets above them.
            bottom: Widgets below them.
            after: Widgets right below a leaf, by its name.
        """
        self._after = after
        order = list(GROUPS)
        leaves = sorted(leaves, key=lambda leaf: _rank(order, leaf.section))
        plain = self._rows([leaf for leaf in leaves if not leaf.advanced], raw)
        hidden = self._rows([leaf for leaf in leaves if leaf.advanced], raw)
        num_hidden = sum(leaf.advanced for leaf in leaves)
        tail = self._advanced(step, hidden, num_hidden) if hidden else []
        children = (*top, *plain, *tail, *bottom)
        return self._kit.make("VBox", layout=_COLUMN, children=children)

    def first_of(self, page: Any) -> Any:
        """The first widget of a page that takes the keyboard."""
        here = (f.widget for f in self.fields.values() if f.row in page.children)
        return next(here, None)

    def reveal(self, name: str) -> None:
        """Make a field visible if it is an advanced one."""
        leaf = self.fields[name].leaf
        if leaf.advanced:
            self.toggles[leaf.step].value = True

    def _rows(self, leaves: Sequence[Leaf], raw: dict[str, Any]) -> list[Any]:
        """Rows under the headings of their groups; one group needs no heading."""
        rows: list[Any] = []
        titles = list(dict.fromkeys(GROUPS.get(leaf.section, "") for leaf in leaves))
        for title in titles:
            if titles[1:]:
                rows.append(self._kit.make("HTML", value=heading_html(title)))
            members = [leaf for leaf in leaves if GROUPS.get(leaf.section, "") == title]
            for leaf in members:
                rows.append(self._row(leaf, raw))
                rows += [self._after[leaf.name]] if leaf.name in self._after else []
        return rows

    def _row(self, leaf: Leaf, raw: dict[str, Any]) -> Any:
        field = Field(self._kit, leaf, raw[leaf.name], self._on_edit)
        self.fields[leaf.name] = field
        return field.row

    def _advanced(self, step: str, rows: list[Any], num_hidden: int) -> list[Any]:
        """A button that folds a box out, reachable by keyboard in every version."""
        closed = f"▸ Show {num_hidden} advanced settings"
        toggle = self._kit.make(
            "ToggleButton",
            value=False,
            description=closed,
            tip="Settings that seldom need a change",
            layout={"width": "260px", "margin": "10px 0 4px 0"},
        )
        shut, wide = {"display": "none"}, {"width": "100%"}
        box = self._kit.make("VBox", layout=shut, children=tuple(rows))
        shut_layout = box.layout
        open_layout = self._kit.layout(wide)

        def fold(change: dict[str, Any]) -> None:
            is_open = bool(change["new"])
            box.layout = open_layout if is_open else shut_layout
            toggle.description = "▾ Hide advanced settings" if is_open else closed

        toggle.observe(fold, names="value")
        self.toggles[step] = toggle
        return [toggle, box]


def _rank(order: Sequence[str], section: str) -> int:
    return order.index(section) if section in order else len(order)


def heading_html(title: str) -> str:
    """The heading over a group of fields."""
    return (
        f'<div class="nbu-heading" role="heading" aria-level="3">{escape(title)}</div>'
    )


def _widget(kit: Kit, leaf: Leaf, raw: Any) -> Any:
    """The one widget kind that fits a leaf."""
    common: dict[str, Any] = {"tip": leaf.tooltip, "layout": FIELD}
    if leaf.kind == "flag":
        return kit.make(
            "Checkbox", value=raw, description=leaf.label, indent=False, **common
        )
    common["label_width"] = LABEL_WIDTH
    if leaf.kind == "choice":
        return kit.make(
            "Dropdown",
            options=list(leaf.choices),
            value=raw,
            description=leaf.label,
            **common,
        )
    return kit.make(
        "Text",
        value=raw,
        description=leaf.label,
        placeholder="none" if leaf.optional else "",
        continuous_update=False,
        **common,
    )
