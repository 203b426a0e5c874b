"""What preflight catches, what it says about healthy programs, and what it costs.

    python benchmarks/preflight.py [--only WORD ...] [--depth rehearsal] [--save]

Reads the gallery (``tests/gallery``): each fault is built with and without the fault,
each program in a process of its own. An alarm counts as right when it holds a word that
the fault's author wrote down for it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gallery.case import Fault, Healthy  # noqa: E402
from gallery.judge import Alarm, Look, load, look, names_it, train_epoch  # noqa: E402

from benchmarks.preflight_costs import cost_table  # noqa: E402
from benchmarks.preflight_table import as_markdown  # noqa: E402

RESULT = HERE / "results" / "preflight.md"
LIMIT_S = 180.0


@dataclass
class Row:
    """One program and what was said about it."""

    name: str
    group: str
    kind: str
    text: str
    stage: str = ""
    seeds: tuple[str, ...] = ()
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    right: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()
    error: str = ""

    @property
    def alarms(self) -> list[Alarm]:
        """What preflight said that nobody foresaw."""
        said = [Alarm(**alarm) for alarm in self.before.get("alarms", ())]
        return [alarm for alarm in said if alarm.source not in self.allowed]

    @property
    def seconds(self) -> float:
        """How long preflight took."""
        return float(self.before.get("seconds", 0.0))


def main() -> None:
    """Run the gallery and print the table."""
    options = _options()
    importlib.import_module("torch._dynamo")  # the first optimizer would, in each child
    _load(options.module)
    jobs = list(_jobs(options))
    rows = []
    with ThreadPoolExecutor(options.workers) as pool:
        for row in pool.map(lambda job: _apart(*job), jobs):
            rows.append(row)
            _tell(row)
    sizes = [] if options.only else cost_table(options.sizes)
    text = as_markdown(rows, options.depth, sizes)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(r) for r in rows], indent=1))
    if options.save:
        RESULT.write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="programs whose name holds a word")
    parser.add_argument("--module", nargs="*", help="files with programs of your own")
    parser.add_argument("--depth", default="standard")
    parser.add_argument("--part", default="0/1", help="such as 0/2: every other one")
    parser.add_argument("--group", nargs="+", default=["fault", "twin", "healthy"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-epoch", action="store_true", help="preflight alone")
    parser.add_argument("--sizes", action="store_true", help="cost per model size")
    parser.add_argument("--json", help="also write the rows here")
    parser.add_argument("--save", action="store_true", help="keep the table")
    return parser.parse_args()


def _load(modules: list[str] | None) -> None:
    """The gallery, or other files written like it."""
    if not modules:
        load()
        return
    for name in modules:
        path = Path(name).resolve()
        sys.path.insert(0, str(path.parent))
        importlib.import_module(path.stem)


def _jobs(options: argparse.Namespace) -> Iterator[tuple[Any, bool, Any]]:
    from gallery.case import FAULTS, HEALTHY

    first, parts = map(int, options.part.split("/"))
    chosen = sorted((*FAULTS, *HEALTHY), key=lambda p: zlib.crc32(p.name.encode()))
    for program in chosen[first::parts]:
        if options.only and not any(word in program.name for word in options.only):
            continue
        for is_faulty in (True, False) if isinstance(program, Fault) else (False,):
            if _row(program, is_faulty).group in options.group:
                yield program, is_faulty, options


def _apart(program: Any, is_faulty: bool, options: argparse.Namespace) -> Row:
    """One program in a forked process with a time limit."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(there, program, is_faulty, options))
    child.start()
    there.close()
    row = _row(program, is_faulty)
    try:
        if here.poll(LIMIT_S):
            found = here.recv()
            row.before, row.after = found["before"], found["after"]
            row.right, row.error = found["right"], found["error"]
        else:
            row.error = f"no answer within {LIMIT_S:.0f} s"
    except EOFError:
        row.error = "the process died"
    child.kill()
    child.join()
    return row


def _row(program: Any, is_faulty: bool) -> Row:
    row = Row(program.name, "healthy", program.kind, program.text)
    if isinstance(program, Healthy):
        row.allowed = tuple(program.may_warn)
        return row
    row.group = "fault" if is_faulty else "twin"
    row.stage, row.seeds = program.stage, program.seeds
    return row


def _child(pipe: Any, program: Any, is_faulty: bool, options: Any) -> None:
    found: dict[str, Any] = {"before": {}, "after": {}, "right": [], "error": ""}
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        try:
            _fill(found, program, is_faulty, options)
        except Exception as error:  # the gallery's fault or ours: shown in the table
            found["error"] = f"{type(error).__name__}: {error}"
    pipe.send(found)
    pipe.close()
    os._exit(0)


def _fill(found: dict[str, Any], program: Any, is_faulty: bool, options: Any) -> None:
    def build() -> Any:
        is_pair = isinstance(program, Fault)
        return program.build(is_faulty) if is_pair else program.build()

    depth = "rehearsal" if program_stage(program) == "rehearsal" else options.depth
    before = look(build(), depth)
    found["before"] = asdict(before)
    if not isinstance(program, Fault):
        return
    found["right"] = _right(program, before)
    if is_faulty and not found["right"] and not options.no_epoch:
        after = train_epoch(build())
        found["after"] = asdict(after)
        found["right"] = [f"in training: {name}" for name in _right(program, after)]


def program_stage(program: Any) -> str:
    """Where the fault shows; empty for a healthy program."""
    return getattr(program, "stage", "")


def _right(program: Fault, found: Look) -> list[str]:
    right = [alarm for alarm in found.alarms if names_it(program, alarm)]
    counts = Counter(f"{alarm.source} {alarm.severity}" for alarm in right)
    return list(counts)


def _tell(row: Row) -> None:
    """One line a program, so that a long run can be watched."""
    said = ", ".join(f"{a.source} {a.severity}: {a.title}" for a in row.alarms)
    is_missed = row.group == "fault" and not row.right
    is_false = row.group != "fault" and row.alarms
    mark = "MISSED" if is_missed else "FALSE" if is_false else "ok"
    right = "; ".join(row.right)
    line = f"{mark:<7}{row.group:<8}{row.name}  [{row.seconds:.1f} s] {right} | {said}"
    print(f"{line} {row.error}"[:400], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
