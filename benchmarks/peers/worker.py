"""Runs the experiments on one library; a line of JSON for each.

python -m benchmarks.peers.worker lightning [1a 3c ...]
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["experiments", "main"]

LAWS = ("laws_work", "laws_report", "laws_resume")


def experiments() -> dict[str, tuple[str, Any]]:
    """Every experiment by its number, in order."""
    found: dict[str, tuple[str, Any]] = {}
    for name in LAWS:
        found |= importlib.import_module(f"benchmarks.peers.{name}").EXPERIMENTS
    order = sorted(found, key=lambda key: (int(key.rstrip("abcd")), key))
    return {key: found[key] for key in order}


def _verdicts(peer: Any, wanted: list[str], scratch: Path) -> Iterator[dict[str, Any]]:
    from benchmarks.peers.bench import Bench, Verdict

    benches: dict[str, Bench] = {}
    for key, (title, function) in experiments().items():
        if wanted and key not in wanted:
            continue
        started = time.perf_counter()
        verdict = Verdict("n.a.", peer.absent.get(key, ""))
        usual = ""
        for variant in ("", *peer.options.get(key, ())) if not verdict.evidence else ():
            folder = scratch / (variant or "usual").replace("/", "-")
            bench = benches.setdefault(variant, Bench(peer, variant, folder))
            try:
                found = function(bench)
            except Exception:
                found = Verdict("error", traceback.format_exc()[-600:])
            if not variant or found.grade == "pass":
                verdict = found
                verdict.option = variant
            found.evidence = _without_paths(found.evidence, scratch)
            if found.grade != "FAIL":
                break
            way = f"with {variant}" if variant else "as usual"
            usual += f"{way}: {found.evidence}. "
        yield {
            "key": key,
            "title": title,
            "grade": verdict.grade,
            "option": verdict.option,
            "evidence": verdict.evidence,
            "usual": usual,
            "note": peer.notes.get(key, ""),
            "seconds": round(time.perf_counter() - started, 1),
        }


def _without_paths(text: str, scratch: Path) -> str:
    """Evidence holds on any machine: no folders of this one."""
    text = re.sub(rf"{re.escape(str(scratch))}/[^/]+/tmp\w+/", "", text)
    return re.sub(r"/\S*/site-packages/", "", text).strip().rstrip(".")


def main(name: str, wanted: list[str]) -> None:
    """Print what was found, one JSON object a line."""
    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports torch's compiler
    peer = importlib.import_module(f"benchmarks.peers.with_{name}").PEER
    versions = {package: _version(package) for package in peer.packages}
    head = {"name": peer.name, "versions": versions, "torch": torch.__version__}
    print(json.dumps(head), flush=True)
    keep = os.environ.get("PEERS_SCRATCH")
    with tempfile.TemporaryDirectory() as scratch:
        for row in _verdicts(peer, wanted, Path(keep or scratch)):
            print(json.dumps(row), flush=True)


def _version(package: str) -> str:
    if package == "nbutils":
        return str(importlib.import_module("nbutils").__version__)
    return version(package)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
