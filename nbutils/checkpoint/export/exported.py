"""What an export gives back: where each file lies, and how well it was read back."""

from __future__ import annotations

from html import escape
from pathlib import Path

__all__ = ["Exported"]

_CELL = "padding:2px 9px;text-align:left"


class Exported(dict[str, Path]):
    """Paths by format, under the names that were asked for.

    Attributes:
        parity: Largest relative difference of each format.
        sizes: Bytes on disk of each format.
        notes: What a format could not hold, in a sentence each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parity: dict[str, float] = {}
        self.sizes: dict[str, int] = {}
        self.notes: list[str] = []

    def __str__(self) -> str:
        width = max([12, *map(len, self)])
        lines = [
            f"{name:<{width}} {path}  ({self._facts(name)})"
            for name, path in self.items()
        ]
        return "\n".join([*lines, *self.notes])

    def _facts(self, name: str) -> str:
        size = _readable(self.sizes[name])
        return f"read back; differs by {self.parity[name]:.1e}; {size}"

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th style="{_CELL}">{title}</th>'
            for title in ("format", "file", "size", "read back, differs by")
        )
        rows = "".join(
            f'<tr><td style="{_CELL}">{escape(name)}</td>'
            f'<td style="{_CELL}"><code>{escape(str(path))}</code></td>'
            f'<td style="{_CELL}">{_readable(self.sizes[name])}</td>'
            f'<td style="{_CELL}">{self.parity[name]:.1e}</td></tr>'
            for name, path in self.items()
        )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return (
            f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table>{notes}"
        )


def _readable(num_bytes: int) -> str:
    """A size as people write it.

    Example:
        >>> _readable(2_500_000)
        '2.5 MB'
    """
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
