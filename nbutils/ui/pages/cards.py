"""What was found, as HTML: data, model, time, presets. All text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from nbutils.config import RunConfig
from nbutils.data.looks import DataLook, Thumbnail
from nbutils.preflight.checks.run.pace import duration_text
from nbutils.preflight.estimates import Feasibility, RunEstimate
from nbutils.preflight.fake.plan import size_text
from nbutils.ui.pages.findings import PresetRow

__all__ = ["comparison_html", "estimate_html", "look_html", "model_html"]

MAX_BARS = 12
MANY = 4096
"""Largest batch that is told as a number."""


def look_html(look: DataLook) -> str:
    """Facts, what deserves attention, samples and the classes."""
    head = _head("pass" if not look.remarks else "warn", look.title)
    return _card(
        head
        + _remarks(look.remarks)
        + _pairs(look.facts)
        + _pictures(look.thumbnails)
        + _bars(look.class_counts, is_partial=look.is_partial)
    )


def model_html(
    found: Feasibility,
    num_classes: int,
    *,
    is_assumed: bool,
    remarks: Sequence[str] = (),
) -> str:
    """Sizes of the model, its memory against the device's, and what to change."""
    plan = found.plan
    room = f"{size_text(found.room_bytes)} of {found.device} ({found.device_name})"
    needed = f"{size_text(plan.total)} at a batch of {plan.batch_size}"
    if found.fits:
        head = _head("pass", f"It fits: {needed}, of {room}")
    else:
        head = _head("fail", f"It does not fit: {needed}; there are {room}")
    kind, reason = found.precision
    classes = f"{num_classes}" + (
        ", assumed: the data could not be counted" if is_assumed else ", as counted"
    )
    inputs = "; ".join(found.inputs.values())
    facts = [
        ("parameters", f"{plan.num_parameters:,}, {plan.num_trainable:,} trained"),
        ("takes", f"{inputs}; B is the batch"),
        ("gives", "; ".join(found.outputs.values())),
        ("classes", classes),
        ("precision", f"{kind} ({reason})"),
        ("weights", size_text(plan.weights)),
        ("gradients", size_text(plan.gradients)),
        (f"state of {plan.optimizer_name}", size_text(plan.optimizer)),
        ("kept for the backward pass", size_text(plan.activations)),
        ("free now", size_text(found.free_bytes)),
        ("largest batch that fits", _largest(found.largest_batch)),
        ("basis", f"a step on tensors without values; {plan.basis}"),
    ]
    return _card(head + _remarks(remarks) + _advice(found) + _pairs(facts))


def estimate_html(found: RunEstimate, config: RunConfig, price: float | None) -> str:
    """Steps, time and cost of the run, and how the numbers came about."""
    pace = found.pace
    least = "about" if pace.is_measured else "at least"
    batch_s = pace.batch_s(config.data.batch_size, config.data.num_workers)
    if found.total_s is None:
        title = f"{least} {duration_text(batch_s)} a batch; the data is not there"
    else:
        title = f"{least} {duration_text(found.total_s)} for training"
    done = "trained on" if pace.read_s is None else "read and trained on"
    facts = [("a batch", f"{least} {duration_text(batch_s)}, {done}")]
    if found.steps_per_epoch is not None and found.epoch_s is not None:
        steps = f"{found.steps_per_epoch:,} updates"
        facts.append(
            ("an epoch", f"{least} {duration_text(found.epoch_s)}: {steps}, validated")
        )
    if found.steps is not None and found.total_s is not None:
        capped = ", ended by max_hours" if found.is_capped else ""
        text = f"{least} {duration_text(found.total_s)}: {found.steps:,} updates"
        facts.append(("the run", text + capped))
    facts.append(("cost", _cost(found, price, least)))
    facts.append(("basis", pace.basis))
    facts.append(("not included", "saving, the preflight, and starting up"))
    return _card(_head("info", title) + _pairs(facts))


def comparison_html(rows: Sequence[PresetRow], chosen: str | None) -> str:
    """All presets side by side."""
    names = ("Preset", "Model", "Parameters", "Memory", "Time of training", "Cost")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_preset_row(row, is_chosen=row.name == chosen) for row in rows)
    return _card(
        f'<table class="nbu-table nbu-compare"><tr>{head}</tr>{body}</table>'
        '<div class="nbu-help">Memory: counted on tensors without values. At least: '
        "counted operations at the rate that a matrix product reaches here. "
        "“Measure a step” on the page Training tells more of the chosen settings."
        "</div>"
    )


def _preset_row(row: PresetRow, *, is_chosen: bool) -> str:
    name = f"{escape(row.name)}{'<small>chosen</small>' if is_chosen else ''}"
    start = f'<tr><th scope="row">{name}</th>'
    model = escape(str(row.config.model.architecture))
    if row.feasibility is None or row.estimate is None:
        return (
            f'{start}<td>{model}</td><td colspan="4">✗ {escape(row.problem)}</td></tr>'
        )
    found, estimate = row.feasibility, row.estimate
    verdict = "✓ fits" if found.fits else "✗ too large for"
    inputs = next(iter(found.inputs.values()), "")
    cells = [
        f"{model}<small>{escape(inputs)}</small>",
        f"{found.plan.num_parameters / 1e6:,.2f} M",
        f"{size_text(found.plan.total)}<small>{verdict} {escape(found.device)}, "
        f"batch {found.plan.batch_size}</small>",
        _preset_time(row.config, estimate),
        _preset_cost(estimate),
    ]
    return start + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _preset_time(config: RunConfig, estimate: RunEstimate) -> str:
    least = "about" if estimate.pace.is_measured else "at least"
    if estimate.total_s is not None:
        epochs = f"{config.train.epochs} epochs"
        steps = f"{config.train.max_steps} steps" if config.train.max_steps else epochs
        return f"{least} {duration_text(estimate.total_s)}<small>{steps}</small>"
    size = config.data.batch_size
    batch_s = estimate.pace.batch_s(size, config.data.num_workers)
    return (
        f"{least} {duration_text(batch_s * 1000 / size)}<small>per 1,000 samples; its "
        "data is not here</small>"
    )


def _preset_cost(estimate: RunEstimate) -> str:
    if estimate.cost is None:
        return "–"
    least = "about" if estimate.pace.is_measured else "at least"
    return f"{least} {estimate.cost:.2f}"


def _cost(found: RunEstimate, price: float | None, least: str) -> str:
    if price is None:
        return "not known; give the price of an hour above"
    if found.cost is None:
        return "not known, since the length is not"
    return f"{least} {found.cost:.2f}, at {price:g} an hour"


def _largest(batch: int) -> str:
    """To two digits; more would pretend to know them."""
    if batch >= MANY:
        return f"over {MANY:,}"
    unit = 10 ** max(len(str(batch)) - 2, 0)
    return f"about {batch // unit * unit:,}" if batch else "none, not even one sample"


def _advice(found: Feasibility) -> str:
    if found.fits:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found.advice)
    cards = ", ".join(found.cards)
    rent = f"<li>rent a card that holds it: {escape(cards)}</li>" if cards else ""
    return f'<div class="nbu-advice">What to change:<ul>{items}{rent}</ul></div>'


def _card(inner: str) -> str:
    return f'<div class="nbu-found" role="status">{inner}</div>'


def _head(status: str, title: str) -> str:
    symbol = {"pass": "✓", "warn": "!", "fail": "✗", "info": "≈"}[status]
    return f'<div class="nbu-foundhead nbu-{status}">{symbol} {escape(title)}</div>'


def _remarks(remarks: Sequence[str]) -> str:
    return "".join(f'<p class="nbu-remark">! {escape(text)}</p>' for text in remarks)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<span class="nbu-fact">{escape(label)}</span><span>{escape(text)}</span>'
        for label, text in pairs
    )
    return f'<div class="nbu-facts">{cells}</div>'


def _pictures(thumbnails: Sequence[Thumbnail]) -> str:
    cells = "".join(
        f'<figure><img src="{escape(t.uri)}" alt="{escape(t.label)}: {escape(t.name)}">'
        f'<figcaption title="{escape(t.name)}">{escape(t.label)}</figcaption></figure>'
        for t in thumbnails
    )
    return f'<div class="nbu-thumbs">{cells}</div>' if cells else ""


def _bars(counts: Mapping[str, int], *, is_partial: bool) -> str:
    """A bar for each class; of many, the largest and the smallest."""
    if not counts:
        return ""
    most = max(counts.values()) or 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown, left = list(counts.items()), 0
    if len(ranked) > MAX_BARS:
        half = MAX_BARS // 2
        shown, left = ranked[:half] + ranked[-half:], len(ranked) - MAX_BARS
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="nbu-barcell">'
        f'<span class="nbu-bar" style="width:{100 * count / most:.1f}%"></span></td>'
        f"<td>{count:,}</td></tr>"
        for name, count in shown
    )
    of = "of those counted" if is_partial else ""
    more = f"; {left:,} classes between these are not shown" if left else ""
    caption = f"Samples per class {of}{more}".strip()
    return f'<table class="nbu-bars"><caption>{caption}</caption>{rows}</table>'
