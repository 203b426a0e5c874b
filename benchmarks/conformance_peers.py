"""The ten laws of the engine as experiments, run on nbutils and on six libraries.

Each library is used as its documentation recommends, in a process of its own with a
time limit; where the usual way fails, the documented option that mends it is tried.

    python benchmarks/conformance_peers.py [--save] [--peers lightning] [--laws 3a 4b]

The first run makes an environment with the pinned versions of
``benchmarks/peers/requirements.txt``, which takes minutes; later runs use it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers.table import as_markdown, as_text  # noqa: E402

REQUIREMENTS = HERE / "peers" / "requirements.txt"
RESULT = HERE / "results" / "conformance_peers.md"
PEERS = (
    "nbutils",
    "lightning",
    "transformers",
    "accelerate",
    "fastai",
    "skorch",
    "ignite",
)


def make_environment(venv: Path) -> Path:
    """The Python of an environment that holds the pinned requirements."""
    python = venv / "bin" / "python"
    stamp = venv / ".requirements"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {REQUIREMENTS.relative_to(ROOT)} into {venv} (minutes) ...")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)  # noqa: S603
    install = [str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    subprocess.run(install, check=True)  # noqa: S603
    stamp.write_text(wanted)
    return python


def run_peer(
    python: Path, name: str, laws: list[str], limit_s: float
) -> dict[str, Any]:
    """What the experiments found on one library; what it did not reach is missing."""
    command = [str(python), "-m", "benchmarks.peers.worker", name, *laws]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    worker = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    clock = threading.Timer(limit_s, os.killpg, (worker.pid, signal.SIGKILL))
    clock.start()
    try:
        output, errors = worker.communicate()
    finally:
        clock.cancel()
    lines = [json.loads(line) for line in output.splitlines() if line[:1] == "{"]
    head = lines[0] if lines else {"name": name, "versions": {}, "torch": "?"}
    broken = "" if worker.returncode == 0 else f"ended with {worker.returncode}: "
    found = {line["key"]: line for line in lines[1:]}
    return {**head, "found": found, "broken": broken and broken + errors[-400:]}


def main() -> None:
    """Run, print, and with ``--save`` write the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--venv", type=Path, default=HERE / ".peers-venv")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--laws", nargs="+", default=[], help="such as 1a 3c; all")
    parser.add_argument("--limit", type=float, default=240, help="seconds per library")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    python = make_environment(options.venv.absolute())
    peers = []
    for name in options.peers:
        print(f"{name} ...", file=sys.stderr, flush=True)
        peers.append(run_peer(python, name, options.laws, options.limit))
    facts = (
        f"{datetime.date.today().isoformat()}, torch {peers[0]['torch']}, "
        f"Python {platform.python_version()}, CPU, one thread"
    )
    print(as_text(peers, facts))
    if options.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(as_markdown(peers, facts), encoding="utf-8")
        print(f"written: {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
