"""S5: gradients are clipped while they are still scaled."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, is_compatible, of_kind

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    for _, found in source.training:
        for clip in of_kind(found, "clip"):
            backs = _before(clip, [e for e in of_kind(found, "backward") if e.via])
            plain = _before(clip, [e for e in of_kind(found, "backward") if not e.via])
            steps = [
                step
                for step in of_kind(found, "step")
                if step.via
                and is_compatible(clip.path, step.path)
                and step.node.lineno > clip.node.lineno
            ]
            is_scaled = backs and steps and not plain and _is_sure(clip, backs[0])
            if is_scaled and not _before(clip, of_kind(found, "unscale")):
                yield _hit(clip, steps[0])


def _before(clip: Event, found: list[Event]) -> list[Event]:
    return [
        event
        for event in found
        if event.node.lineno < clip.node.lineno
        and is_compatible(event.path, clip.path)
        and event.loops[:1] == clip.loops[:1]
    ]


def _is_sure(clip: Event, back: Event) -> bool:
    """Every way to the clip leads over the scaled backward; or both are conditional."""
    return set(back.path) <= set(clip.path) or not back.path


def _hit(clip: Event, step: Event) -> Hit:
    return Hit(
        line=clip.node.lineno,
        title="gradients are clipped before they are unscaled",
        expected=f"{step.via}.unscale_({step.who}), then clip, then {step.via}.step",
        actual=f"{ast.unparse(clip.node)[:80]} on gradients that are scaled, by "
        "65536 to begin with",
        fix=f"Call {step.via}.unscale_({step.who}) before the clip.",
    )


RULE = Rule(
    "S5.clip-scaled",
    "Every gradient is then far above the norm: the clip decides each update.",
    _run,
    ("clip_grad",),
)
