"""What was trained, on what and with what, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nbutils.monitor.reporting.caveats import verdict_of
from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import (
    Section,
    badge,
    folded,
    mapping,
    moment,
    table,
)
from nbutils.monitor.runview import columns, format_number

__all__ = [
    "checks_section",
    "data_section",
    "epochs_section",
    "machine_section",
    "record_section",
    "reproduce_section",
    "settings_section",
]

_MAX_CARD_BYTES = 400_000
_MAX_ROWS = 90
_SPLITS = ("train", "val", "test")
_TOLD_ELSEWHERE = (
    "tests",
    "test_metrics",
    "verdict",
    "sessions",
    "samples",
    "data_fingerprints",
    "best",
)


def checks_section(ground: Ground) -> Section:
    """The preflight card as it was shown, or its verdict in a line."""
    title = "Checks before the run"
    card = ground.record.path / "preflight.html"
    verdict = verdict_of(ground)
    if card.is_file() and card.stat().st_size <= _MAX_CARD_BYTES:
        html = card.read_text(encoding="utf-8", errors="replace")
        if not html.lstrip().lower().startswith(("<!doctype", "<html")):
            return Section("checks", title, html)
        source = escape(html, quote=True)
        frame = f'<iframe sandbox srcdoc="{source}" title="preflight" '
        style = 'style="width:100%;height:26em;border:0"></iframe>'
        return Section("checks", title, frame + style)
    if not verdict:
        return Section("checks", title, "", "checks: none ran before training")
    ids = verdict.get("ids") or {}
    sign = badge("pass", "passed") if verdict.get("passed") else badge("fail", "failed")
    told = f" depth {verdict.get('depth')}, {moment(verdict.get('time'))}"
    listed = table(("check", "outcome"), list(ids.items())) if ids else ""
    return Section("checks", title, f"<p>{sign}{escape(told)}</p>{listed}")


def data_section(ground: Ground) -> Section:
    """Samples and fingerprint of each split."""
    run = ground.record.run
    sizes = run.get("samples")
    sizes = sizes if isinstance(sizes, Mapping) else {}
    parts = verdict_of(ground).get("parts") or {}
    prints = parts.get("data") if isinstance(parts, Mapping) else None
    prints = run.get("data_fingerprints") or prints or {}
    rows = [
        (split, _size(sizes.get(split), split in sizes), prints.get(split) or "-")
        for split in _SPLITS
        if split in sizes or split in prints
    ]
    facts = []
    if whole := run.get("task_fingerprint"):
        facts.append(f"Model, code and data together: {whole}.")
    if run.get("left_out"):
        facts.append(f"{run['left_out']:,} files could not be read and were left out.")
    if not rows and not facts:
        return Section("data", "Data", "", "what the run recorded about its data")
    body = (
        table(("split", "samples", "fingerprint"), rows, numeric=(1,)) if rows else ""
    )
    note = "A fingerprint changes with the type, the number and the first of the "
    note += "samples, not with each of them."
    told = " ".join([*facts, note])
    return Section("data", "Data", f'{body}<p class="note">{escape(told)}</p>')


def _size(value: Any, is_recorded: bool) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value
    return "none" if is_recorded else "-"


def settings_section(ground: Ground) -> Section:
    """What was set and by whom; the defaults folded."""
    settings = ground.record.settings
    if not settings:
        return Section("settings", "Settings", "", "config.yaml")
    changed = [(n, v, origin) for n, (v, origin) in settings.items() if origin]
    default = [(n, v) for n, (v, origin) in settings.items() if not origin and v]
    head = ("setting", "value", "from")
    shown = table(head, changed) if changed else "<p>All settings are default.</p>"
    rest = table(("setting", "value"), default)
    folds = folded(f"Settings left at their default ({len(default)})", rest)
    return Section("settings", "Settings", shown + folds)


def machine_section(ground: Ground) -> Section:
    """The doctor's facts, of the last process."""
    if not ground.environment:
        return Section("machine", "Machine", "", "environment.json")
    facts = ground.environment.get("facts")
    facts = facts if isinstance(facts, Mapping) else ground.environment
    advice = ground.environment.get("advice")
    told = ""
    if isinstance(advice, list) and advice:
        said = [str(a.get("what", a)) if isinstance(a, Mapping) else a for a in advice]
        items = "".join(f"<li>{escape(str(text))}</li>" for text in said[:20])
        told = f"<p>What the doctor advised:</p><ul>{items}</ul>"
    return Section("machine", "Machine", mapping(facts) + told)


def reproduce_section(ground: Ground) -> Section:
    """The lines that do it again, and what they need."""
    run, settings = ground.record.run, ground.record.settings
    if not settings:
        return Section(
            "again", "Do it again", "", "config.yaml, so no line to repeat it"
        )
    path = ground.record.path.resolve() / "config.yaml"
    recipe, _ = settings.get("recipe", ("null", ""))
    if recipe in ("null", ""):
        lines = [
            "import nbutils as nb",
            f'config = nb.RunConfig.load("{path}")',
            "task = ...  # the same model, loss and data: your own code makes them",
            "nb.TrainingCoordinator(task, config).train()",
        ]
    else:
        lines = [f"nbutils run {path}"]
    needs = []
    code = run.get("code")
    if isinstance(code, Mapping) and code.get("commit"):
        dirty = ", with changes that are not committed" if code.get("is_dirty") else ""
        needs.append(f"code at commit {code['commit']}{dirty}")
    if run.get("task_fingerprint"):
        needs.append(f"task fingerprint {run['task_fingerprint']}")
    if run.get("config_hash"):
        needs.append(f"config hash {run['config_hash']}")
    seed, _ = settings.get("seed", ("", ""))
    if seed:
        needs.append(f"seed {seed}")
    text = escape("\n".join(lines))
    told = f'<p class="note">It is the same run if: {escape("; ".join(needs))}.</p>'
    exact = (
        '<p class="note">On a CPU, with the same versions, it ends bit for bit the '
        "same; on an accelerator up to the order in which it adds.</p>"
    )
    body = f"<pre>{text}</pre>{told if needs else ''}{exact}"
    return Section("again", "Do it again", body)


def epochs_section(ground: Ground) -> Section:
    """One line an epoch; of many, the first, the best, the last and some between."""
    rows, best = ground.record.view.rows, ground.record.best
    if not rows:
        return Section("epochs", "Epochs", "", "a finished epoch in events.jsonl")
    names = columns(rows)
    shown = _chosen(rows, best.get("step"))
    marked = [
        place
        for place, row in enumerate(shown)
        if best.get("step") is not None and row.get("step") == best["step"]
    ]
    cells = [
        [*(row.get(name) for name in names), "best" if place in marked else ""]
        for place, row in enumerate(shown)
    ]
    cut = len(rows) - len(shown)
    note = f"{cut:,} of {len(rows):,} epochs are left out; metrics.csv has all."
    body = table(
        [*names, ""],
        cells,
        caption=note if cut else "",
        numeric=range(len(names)),
        marked=marked,
    )
    is_long = len(shown) > 12
    body = (
        folded(f"All {len(rows):,} epochs" if not cut else note, body)
        if is_long
        else body
    )
    return Section("epochs", "Epochs", body)


def _chosen(rows: list[dict[str, Any]], best_step: Any) -> list[dict[str, Any]]:
    if len(rows) <= _MAX_ROWS:
        return rows
    stride = -(-len(rows) // (_MAX_ROWS - 30))
    kept = {*range(5), *range(len(rows) - 20, len(rows)), *range(0, len(rows), stride)}
    kept |= {i for i, row in enumerate(rows) if row.get("step") == best_step}
    return [rows[i] for i in sorted(kept)]


def record_section(ground: Ground) -> Section:
    """What else ``run.json`` holds, folded."""
    rest = {k: v for k, v in ground.record.run.items() if k not in _TOLD_ELSEWHERE}
    if not rest:
        return Section("record", "Record", "", "run.json")
    summary = f"run.json ({format_number(len(rest))} entries)"
    return Section("record", "Record", folded(summary, mapping(rest)))
