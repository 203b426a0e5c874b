"""The table of all libraries, as text and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

__all__ = ["as_markdown", "as_text"]

LEGEND = (
    "pass* = with a documented option, named below; FAIL = measured, evidence below; "
    "n.a. = the library makes no such claim, or it cannot be tried on a CPU."
)


def as_text(peers: list[dict[str, Any]], facts: str) -> str:
    """For a terminal."""
    rows = list(_rows(peers))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([facts, "", *lines, "", LEGEND, *_notes(peers, "{}", "  {}: {}")])


def as_markdown(peers: list[dict[str, Any]], facts: str) -> str:
    """For the results folder."""
    head, *rows = _rows(peers)
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    notes = _notes(peers, "\n## {}\n", "- **{}**: {}")
    parts = [
        "# The laws of the engine, on nbutils and its peers",
        "",
        f"Written by `python benchmarks/conformance_peers.py --save`. {facts}.",
        "",
        *lines,
        "",
        LEGEND,
        *notes,
    ]
    return "\n".join(parts) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rows(peers: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Header, one row an experiment, and the counts."""
    yield ["", "experiment", *(_title(peer) for peer in peers)]
    titles: dict[str, str] = {}
    for peer in peers:
        titles |= {key: row["title"] for key, row in peer["found"].items()}
    for key, title in titles.items():
        yield [key, title, *(_cell(peer["found"].get(key)) for peer in peers)]
    for grade in ("pass", "pass*", "FAIL", "n.a."):
        counts = [Counter(map(_cell, _laws(peer))) for peer in peers]
        yield ["", f"number of {grade}", *(str(count[grade]) for count in counts)]


def _laws(peer: dict[str, Any]) -> list[dict[str, Any]]:
    """Every experiment but the control."""
    return [row for key, row in peer["found"].items() if key != "0"]


def _title(peer: dict[str, Any]) -> str:
    first = next(iter(peer["versions"].values()), "?")
    return f"{peer['name']} {first}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not reached"
    if row["grade"] == "info":
        return row["evidence"].split()[0]
    return row["grade"] + ("*" if row["grade"] == "pass" and row["option"] else "")


def _notes(peers: list[dict[str, Any]], head: str, line: str) -> Iterator[str]:
    """Evidence for everything that is not a plain pass."""
    for peer in peers:
        versions = ", ".join(f"{k} {v}" for k, v in peer["versions"].items())
        yield head.format(f"{peer['name']} ({versions})")
        if peer["broken"]:
            yield line.format("broken", _short(peer["broken"], 300))
        for key, row in peer["found"].items():
            text = _evidence(row)
            if text:
                yield line.format(f"{key} {_cell(row)}", text)


def _evidence(row: dict[str, Any]) -> str:
    grade, note = row["grade"], row["note"]
    if grade == "pass" and not row["option"]:
        return note
    if grade == "info":
        return ""
    text = row["evidence"]
    if row["option"]:
        text = f"with {row['option']}: {text}. {row['usual']}"
    elif row["usual"]:
        text = row["usual"]
    return _short(text.strip(), 600) + (f" Note: {note}" if note else "")


def _short(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 2] + " …"
