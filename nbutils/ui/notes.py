"""What stands beside each field: why it is wrong, what was found, what changed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbutils.ui.answers import Answers, Problem
from nbutils.ui.fields import FormBuilder

__all__ = ["Notes"]


class Notes:
    """Keeps the note of every field in line with the answers.

    Args:
        answers: What the user answered.
        form: The fields.
    """

    def __init__(self, answers: Answers, form: FormBuilder) -> None:
        self._answers = answers
        self._form = form
        self._found: dict[str, tuple[Any, str]] = {}

    def tell_trouble(self, step: str, sentences: Sequence[str]) -> None:
        """Say what a look found beside the field it is about, until that changes."""
        leaves = self._answers.leaves
        here = {name for name in self._found if leaves[name].step == step}
        for name in here:
            del self._found[name]
        for sentence in sentences:
            if leaf := self._answers.leaf_in(sentence):
                self._found[leaf] = (self._answers.raw[leaf], sentence)

    def refresh(self, problems: Sequence[Problem]) -> None:
        """Write each note anew.

        Args:
            problems: What stands against the answers; of a field, the first is told.
        """
        answers = self._answers
        by_leaf = {p.leaf: p for p in reversed(problems) if p.leaf}
        self._found = {
            name: (raw, text)
            for name, (raw, text) in self._found.items()
            if answers.raw[name] == raw
        }
        for name, field in self._form.fields.items():
            field.annotate(
                by_leaf.get(name),
                answers.moved_by_preset.get(name),
                follows=answers.followed.get(name, ""),
                found=self._found.get(name, ("", ""))[1],
            )
