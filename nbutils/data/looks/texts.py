"""A look at texts and at records, one a line."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from nbutils.data.looks.look import DataLook

__all__ = ["look_at_jsonl", "look_at_text"]

MAX_BYTES = 4 * 2**20
MAX_LINES = 5000


def look_at_text(path: Path) -> DataLook:
    """Characters, lines and alphabet; of the first 4 MiB if the file is longer."""
    size = path.stat().st_size
    with path.open("rb") as file:
        text = file.read(MAX_BYTES).decode("utf-8", errors="replace")
    is_partial = size > MAX_BYTES
    counts = Counter(text)
    total = len(text)
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    facts = [
        ("lines", f"{text.count(chr(10)) + (not text.endswith(chr(10))):,}"),
        ("different characters", f"{len(counts):,}"),
        ("entropy of single characters", f"{entropy:.2f} bits"),
        ("begins with", first[:100] + (" …" if len(first) > 100 else "")),
    ]
    if is_partial:
        facts.insert(0, ("looked at", f"the first {MAX_BYTES >> 20} MiB"))
    remarks: list[str] = []
    if wrong := counts.get("\ufffd", 0):
        remarks.append(
            f"{wrong:,} characters are not UTF-8; save the file as UTF-8, or they are "
            "lost."
        )
    shown = f"{size:,} bytes" if is_partial else f"{total:,} characters"
    return DataLook(
        title=f"text of {shown}", facts=facts, remarks=remarks, is_partial=is_partial
    )


def look_at_jsonl(path: Path) -> DataLook:
    """Records and their keys; of the first lines if there are many.

    Raises:
        ValueError: A line is no JSON.
    """
    keys: Counter[str] = Counter()
    count, is_partial = 0, False
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if count >= MAX_LINES:
                is_partial = True
                break
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON ({error.msg})") from error
            count += 1
            keys.update(list(record) if isinstance(record, dict) else [])
    told = ", ".join(f"{key} ({n / count:.0%})" for key, n in keys.most_common(12))
    start = "the first " if is_partial else ""
    return DataLook(
        title=f"{start}{count:,} records",
        facts=[("keys", told or "none: the lines are no mappings")],
        num_samples=None if is_partial else count,
        is_partial=is_partial,
    )
