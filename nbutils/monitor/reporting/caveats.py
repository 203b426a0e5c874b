"""What a run and its report do not prove; said before any number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section
from nbutils.monitor.reporting.measured import interval_of, main_test
from nbutils.monitor.runview import format_number

__all__ = ["caveats", "caveats_section", "verdict_of"]

_MAX_SHOWN = 8


def caveats_section(ground: Ground) -> Section:
    """The sentences as a list."""
    from html import escape

    items = "".join(f"<li>{escape(text)}</li>" for text in caveats(ground))
    return Section("not-proven", "What this does not prove", f"<ul>{items}</ul>")


def caveats(ground: Ground) -> Iterator[str]:
    """A sentence each, the gravest first."""
    yield from _about_files(ground)
    yield from _about_end(ground)
    yield from _about_checks(ground)
    yield from _about_splits(ground)
    yield from _about_test(ground)
    seed, _ = ground.record.settings.get("seed", ("", ""))
    told = f" ({seed})" if seed else ""
    yield (
        f"One seed{told}: how much another seed would change the numbers is not known. "
        "The intervals tell the chance in the test data, not in training."
    )


def verdict_of(ground: Ground) -> Mapping[str, Any]:
    """What the checks before the run said; empty when there were none."""
    found = ground.record.run.get("verdict") or ground.preflight.get("verdict")
    return found if isinstance(found, Mapping) else {}


def _about_files(ground: Ground) -> Iterator[str]:
    for problem in ground.problems[:_MAX_SHOWN]:
        yield f"Not all files could be read: {problem}"


def _about_end(ground: Ground) -> Iterator[str]:
    record = ground.record
    planned, step = record.view.start.get("planned_steps"), record.view.step
    if ground.status == "finished" and record.stop_reason in ("target", "patience"):
        return
    if isinstance(planned, int) and step < planned:
        share = f" ({step / planned:.0%})" if planned else ""
        yield f"The run did {step:,} of {planned:,} planned steps{share}."
    elif ground.status in ("failed", "killed"):
        yield "The run did not end by itself; what came after its last event is lost."


def _about_checks(ground: Ground) -> Iterator[str]:
    verdict = verdict_of(ground)
    if not verdict:
        setting, _ = ground.record.settings.get("preflight", ("", ""))
        why = " (preflight: skip)" if setting == "skip" else ""
        yield f"No checks ran before training{why}: model, loss and data are unproven."
        return
    ids = verdict.get("ids") or {}
    for severity, text in (
        ("fail", "Checks that failed, and training went on: "),
        ("warn", "Checks that warned: "),
        ("skip", "Checks that were skipped: "),
    ):
        if named := _named(ids, severity, ground):
            yield f"{text}{named}."
    if verdict.get("depth") == "static":
        yield "The checks were static only: no data was read and no step was tried."


def _named(ids: Mapping[str, Any], severity: str, ground: Ground) -> str:
    findings = ground.preflight.get("findings")
    titles = {
        str(item.get("id")): str(item.get("title", ""))
        for item in (findings if isinstance(findings, list) else ())
        if isinstance(item, Mapping)
    }
    chosen = [str(name) for name, found in ids.items() if found == severity]
    told = [f"{n} ({titles[n]})" if titles.get(n) else n for n in chosen[:_MAX_SHOWN]]
    rest = len(chosen) - len(told)
    return "; ".join(told) + (f"; and {rest} more" if rest > 0 else "")


def _about_splits(ground: Ground) -> Iterator[str]:
    view = ground.record.view
    sizes = ground.record.run.get("samples")
    sizes = sizes if isinstance(sizes, Mapping) else {}
    has_val = any(name.startswith("val_") for row in view.rows[-1:] for name in row)
    if view.rows and not has_val:
        yield (
            "No validation data: which weights are best is not known, and overfitting "
            "would not show."
        )
    left_out = ground.record.run.get("left_out")
    if isinstance(left_out, int) and left_out:
        yield f"{left_out:,} files could not be read and are in no split."
    if "test" in sizes and sizes["test"] is None and not ground.tests:
        yield "The task has no test data: there is no number on data never used."
    elif not ground.tests:
        yield "The test data was not evaluated: run.evaluate('test')."


def _about_test(ground: Ground) -> Iterator[str]:
    found = main_test(ground)
    if found is None:
        return
    _, test = found
    looks = ground.record.run.get("num_tests")
    if isinstance(looks, int) and looks > 1:
        yield (
            f"The test data was looked at {looks} times; a number chosen among several "
            "looks is flattered."
        )
    metrics = [n for n, v in test["metrics"].items() if isinstance(v, (int, float))]
    lacking = [name for name in metrics if interval_of(test, name) is None]
    if lacking:
        yield f"No interval for: {', '.join(lacking[:_MAX_SHOWN])}; the table says why."
    baselines = test.get("baselines") or ()
    if not baselines:
        yield "No trivial baseline was evaluated on the test data."
    for baseline in baselines:
        found_differences = baseline.get("differences") or {}
        level = [n for n, d in found_differences.items() if _is_level(d)]
        if level:
            yield (
                f"Not told apart from the baseline '{baseline.get('name')}', or worse: "
                f"{', '.join(level[:_MAX_SHOWN])}."
            )
    if isinstance(test.get("num_samples"), int) and test["num_samples"] < 100:
        num = format_number(test["num_samples"])
        yield f"The test set is small ({num} samples): see how wide the intervals are."


def _is_level(difference: Any) -> bool:
    verdict = difference.get("verdict") if isinstance(difference, Mapping) else None
    return verdict in ("not told apart", "worse")
