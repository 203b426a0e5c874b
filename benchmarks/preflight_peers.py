"""The gallery's faults in front of what other libraries offer before a run.

    python benchmarks/preflight_peers.py [--save] [--files faults_losses ...]

Uses the environment of ``conformance_peers.py``, which is made if it is absent. What
preflight says stands in ``results/preflight.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.conformance_peers import make_environment  # noqa: E402

RESULT = HERE / "results" / "preflight_peers.md"
LIMIT_S = 900


def main() -> None:
    """Run every file of the gallery in a process of its own, then print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--venv", type=Path, default=HERE / ".peers-venv")
    parser.add_argument("--files", nargs="+", default=_files(), help="of the gallery")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    python = make_environment(options.venv.absolute())
    rows = [row for name in options.files for row in _rows(python, name)]
    text = _table(rows)
    print(text)
    if options.save:
        RESULT.write_text(text, encoding="utf-8")


def _files() -> list[str]:
    folder = ROOT / "tests" / "gallery"
    return sorted(
        p.stem
        for p in folder.glob("*.py")
        if p.stem.startswith(("faults_", "healthy_"))
    )


def _rows(python: Path, name: str) -> list[dict[str, Any]]:
    """One line a tool and a program; a file that dies keeps what it had said."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    run = subprocess.run(  # noqa: S603
        [str(python), "-m", "benchmarks.peers.sanity", name],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if run.returncode:
        print(f"{name} ended with {run.returncode}: {run.stderr[-400:]}")
    return [json.loads(line) for line in run.stdout.splitlines() if line[:1] == "{"]


def _table(rows: list[dict[str, Any]]) -> str:
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    lines = [
        "# The gallery's faults, and what other libraries say before a run",
        "",
        f"Written by `python benchmarks/preflight_peers.py --save`, "
        f"{datetime.date.today().isoformat()}.",
        "",
        "Named: what was raised or warned holds a word that stands for the fault, and "
        "the twin without the fault does not cause it. Raised: an exception with the "
        "fault and none without. On healthy programs: an exception, for instance since "
        "the tool does not take such batches.",
        "",
        "| tool | faults named | faults raised | healthy programs refused |",
        "| --- | --- | --- | --- |",
    ]
    for tool in tools:
        faults = [r for r in rows if r["tool"] == tool and "fault" in r]
        fine = [r for r in rows if r["tool"] == tool and "healthy" in r]
        named = Counter(r["is_named"] for r in faults)[True]
        raised = Counter(r["is_raised"] for r in faults)[True]
        refused = Counter(r["is_raised"] for r in fine)[True]
        lines.append(
            f"| {tool} | {named} of {len(faults)} | {raised} of {len(faults)} | "
            f"{refused} of {len(fine)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
