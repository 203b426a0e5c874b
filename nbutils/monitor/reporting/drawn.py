"""Curves of the run as SVG, and the saved figures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nbutils.monitor.charts import smoothed
from nbutils.monitor.curves import svg_curve
from nbutils.monitor.figures.style import FIGURE_DPI
from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section, folded
from nbutils.monitor.runview import NO_METRIC

__all__ = ["Gallery", "curves_section", "figures_section", "image_tag"]

Points = list[tuple[float, float]]

_DRAWN_ELSEWHERE = (*NO_METRIC, "train_loss", "val_loss")
_MAX_CHARTS = 12
_NOISY = 60
"""From so many points on, a moving mean says more than the steps do."""
_MAX_FIGURES = 12
_BROAD_PX = 800
_NOTEBOOK_BYTES = 30_000
_MAX_PAGE_BYTES = 1_100_000
"""Of all figures together, before they are written as text."""
_MAX_FILE_BYTES = 40_000_000
_NAMES = {
    "confusion": "Which classes are taken for which",
    "classes": "Share of each class that was found, worst first",
    "reliability": "How often it is right when it is this sure",
    "values": "Predicted and true values, and their residuals",
    "mistakes": "Samples it got wrong, or was least sure about",
}


def curves_section(ground: Ground) -> Section:
    """Loss, metrics and learning rate over the steps; the machine's numbers folded."""
    view = ground.record.view
    if not view.loss.points and not view.rows:
        return Section("curves", "Curves", "", "steps or epochs in events.jsonl")
    loss: dict[str, Points] = {}
    if view.loss.points:
        loss["loss of a step"] = view.loss.points
    for name in ("train_loss", "val_loss"):
        if points := _column(view.rows, name):
            loss[name] = points
    if len(view.loss.points) >= _NOISY:
        loss["moving mean"] = smoothed(view.loss.points, 0.02)
    values = [y for points in loss.values() for _, y in points if y > 0]
    is_wide = bool(values) and max(values) > 30 * min(values)
    wide = {"title": "Loss", "x_label": "step", "muted": "loss of a step"}
    first = svg_curve(loss, width=760, height=310, log_y=is_wide, **wide)  # type: ignore[arg-type]
    charts = [first, *_metric_charts(view.rows)][:_MAX_CHARTS]
    if view.lr.points:
        lr = {"learning rate": view.lr.points}
        charts.append(svg_curve(lr, title="Learning rate", x_label="step"))
    body = f'<div class="curves">{"".join(charts)}</div>{_turns(ground)}'
    return Section("curves", "Curves", body + _machine_charts(view.monitored))


def _turns(ground: Ground) -> str:
    """Where the best weights, resumes and rollbacks lie on the axis."""
    view, best = ground.record.view, ground.record.best
    parts = []
    if best.get("step") is not None:
        parts.append(f"best {best.get('metric')} at step {best['step']:,}")
    for kind, key, word in (
        ("resume", "step", "resumed at"),
        ("rollback", "to_step", "rolled back to"),
    ):
        steps = [e.get(key) for e in view.notable if e["kind"] == kind]
        known = [f"{step:,}" for step in steps if isinstance(step, int)]
        if known:
            more = f" and {len(known) - 8} more" if len(known) > 8 else ""
            parts.append(f"{word} {', '.join(known[:8])}{more}")
    return f'<p class="note">{escape("; ".join(parts))}.</p>' if parts else ""


def _metric_charts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    fractions: dict[str, Points] = {}
    charts: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row):
        points = _column(rows, name)
        if name in _DRAWN_ELSEWHERE or not points:
            continue
        if all(0 <= y <= 1 for _, y in points) and len(fractions) < 6:
            fractions[name] = points
        else:
            charts.append(svg_curve({name: points}, title=name, x_label="step"))
    if fractions:
        title = "Metrics" if len(fractions) > 1 else next(iter(fractions))
        charts.insert(0, svg_curve(fractions, title=title, x_label="step"))
    return charts


def _machine_charts(monitored: Mapping[str, Any]) -> str:
    charts = [
        svg_curve({name: series.points}, title=name, x_label="step", width=340)
        for name, series in sorted(monitored.items())
        if len(series.points) > 1
    ][: 2 * _MAX_CHARTS]
    if not charts:
        return ""
    body = f'<div class="curves">{"".join(charts)}</div>'
    return folded(f"Machine, gradients and throughput ({len(charts)} curves)", body)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    return [
        (float(row.get("step") or row.get("epoch") or 0), float(row[name]))
        for row in rows
        if isinstance(row.get(name), (int, float)) and not isinstance(row[name], bool)
    ]


def figures_section(ground: Ground) -> Section:
    """Every saved figure but the curves, which are drawn above."""
    folder = ground.record.path / "figures"
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    paths = [path for path in paths if path.name != "curves.png"]
    paths.sort(
        key=lambda path: list(_NAMES).index(path.stem) if path.stem in _NAMES else 99
    )
    if not paths:
        return Section("figures", "Figures", "", "saved figures in figures/")
    shown, left_out, room = [], [], _MAX_PAGE_BYTES
    for path in paths:
        image = _content(path, room // max(1, _MAX_FIGURES - len(shown)) * 3)
        if image is None or len(image) > room or len(shown) >= _MAX_FIGURES:
            left_out.append(path.name)
            continue
        room -= len(image)
        caption = _NAMES.get(path.stem, path.stem.replace("_", " "))
        tag = _tag(image, caption, _width(path))
        name = escape(f"{caption} ({path.name})")
        kind = ' class="broad"' if _width(path) > _BROAD_PX else ""
        shown.append(f"<figure{kind}>{tag}<figcaption>{name}</figcaption></figure>")
    note = f"<p class=note>Only on disk: {escape(', '.join(left_out))}.</p>"
    body = f'<div class="figures">{"".join(shown)}</div>{note if left_out else ""}'
    return Section("figures", "Figures", body)


def image_tag(path: Path) -> str:
    """A PNG file in a notebook, as large as it was drawn at 100 points an inch.

    With fewer colours than the file has, so that the notebook stays small.
    """
    content = _content(path, _NOTEBOOK_BYTES) or path.read_bytes()
    return _tag(content, path.stem, _width(path))


class Gallery(Mapping[str, Path]):
    """Paths of saved figures by name; a notebook shows the figures themselves.

    Args:
        folder: Where they lie; it may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = {path.stem: path for path in sorted(folder.glob("*.png"))}

    def __getitem__(self, name: str) -> Path:
        return self._paths[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        names = ", ".join(self._paths) or "none"
        return f"{len(self)} figures in {self.folder}: {names}"

    def _repr_html_(self) -> str:
        shown = "".join(map(image_tag, self._paths.values()))
        style = "display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start"
        return f'<div style="{style}">{shown or escape(repr(self))}</div>'


def _tag(content: bytes, text: str, width: int) -> str:
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<img alt="{escape(text, quote=True)}" width="{width}" '
        f'style="max-width:100%;height:auto" src="data:image/png;base64,{data}">'
    )


def _width(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(20)
    return max(1, int.from_bytes(head[16:20], "big") * 100 // FIGURE_DPI)


def _content(path: Path, room: int) -> bytes | None:
    """The file, made smaller where it needs more room; None where it is no PNG."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        return None
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        return None
    if len(content) <= room:
        return content
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB")
            small.thumbnail((1400, 1400))
            reduced = small.quantize(128)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    reduced.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
