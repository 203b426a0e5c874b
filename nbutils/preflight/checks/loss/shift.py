"""Part of R5: a causal language model is asked for the next token, not for another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import FreeOutputs, Values, replaced
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_shift"]

SURE = 0.95
SHIFTS = (1, 0, 2, -1)
MIN_TOKENS = 12
PART = 0.6


@dataclass(frozen=True, slots=True)
class _Stream:
    """Tokens ``(B, T)`` that the model reads, and its outputs ``(B, S, K)``."""

    path: str
    tokens: Tensor
    number: int
    axis: int


def judge_shift(
    probe: Probe, free: FreeOutputs, values: Values, best: Values, claims: Claims
) -> None:
    """Which of the tokens read so far, or to come, each position is asked for.

    Args:
        probe: The probe of the task.
        free: The loss as a function of the outputs.
        values: Outputs to begin with.
        best: What the loss made of them.
        claims: Takes the outcome.
    """
    for stream in _streams(free):
        if probe.seconds_left < 1:
            continue
        moved = _moved(probe, free, stream)
        if moved is None or not bool(moved.any()):
            continue  # not read by the model: labels, most likely
        place = stream.tokens.shape[1] // 2
        # A model that shifts inside, as decoders do, does not see its own token.
        if bool(moved[:place].any()) or not bool(moved[place]):
            _judge_masked(stream, values[stream.number], best[stream.number], claims)
            continue
        _judge(stream, values[stream.number], best[stream.number], claims)
        return


def _streams(free: FreeOutputs) -> Iterator[_Stream]:
    for path, tokens in tensors(free.batch):
        is_whole = not tokens.is_floating_point() and not tokens.is_complex()
        if not is_whole or tokens.dtype == torch.bool or tokens.ndim != 2:
            continue
        if tokens.shape[1] < 4 or tokens.unique().numel() < 5:
            continue
        for number, output in enumerate(free.start):
            if output.ndim != 3 or output.shape[0] != tokens.shape[0]:
                continue
            for axis, time in ((2, 1), (1, 2)):
                is_long = 0 <= tokens.shape[1] - output.shape[time] <= 1
                if is_long and output.shape[axis] > int(tokens.max()):
                    yield _Stream(path, tokens, number, axis)
                    break


def _moved(probe: Probe, free: FreeOutputs, stream: _Stream) -> Tensor | None:
    """Places ``(S,)`` whose outputs change with the token in the middle."""
    place = stream.tokens.shape[1] // 2
    other = stream.tokens.clone()
    other[:, place] = stream.tokens[:, place].roll(1)
    if torch.equal(other, stream.tokens):
        return None

    def run(batch: Any) -> Tensor:
        probe.rewind()
        with torch.no_grad():
            outputs = probe.forward(probe.fresh(batch), training=False)
        found = dict(tensors(outputs))[free.paths[stream.number]]
        return found if stream.axis == 2 else found.transpose(1, 2)

    changed = replaced(free.batch, stream.path, other)
    pair, error = attempt(lambda: (run(free.batch), run(changed)))
    if error is not None or pair[0].shape != pair[1].shape:
        return None
    return (pair[0] - pair[1]).abs().amax((0, 2)) > 1e-6


def _judge(stream: _Stream, begun: Tensor, best: Tensor, claims: Claims) -> None:
    if stream.axis == 1:
        begun, best = begun.transpose(1, 2), best.transpose(1, 2)
    wanted, counts = best.argmax(-1), (best != begun).any(-1)
    shares = {s: _share(wanted, counts, stream.tokens, s) for s in SHIFTS}
    found = [shift for shift, share in shares.items() if share >= SURE]
    told = ", ".join(f"{shift:+d}: {share:.0%}" for shift, share in shares.items())
    claims.show([("token that each position is asked for", told)])
    if len(found) != 1 or found[0] == 1:
        return
    words = {
        0: "each position is asked for the token it is given: no shift by one",
        2: "each position is asked for the token after the next: shifted twice",
        -1: "each position is asked for the token before it: shifted the wrong way",
    }
    claims.add(
        "warn",
        words[found[0]],
        expected="outputs[:, i] compared with token i + 1",
        actual=f"the outputs that minimise the loss name token i {found[0]:+d} in "
        f"{shares[found[0]]:.0%} of the positions; the model reads tokens up to i",
        fix="Use outputs[:, :-1] and tokens[:, 1:], once: in the data or in the loss.",
    )


def _judge_masked(stream: _Stream, begun: Tensor, best: Tensor, claims: Claims) -> None:
    """A model that sees all places and guesses some of them: those must be masked."""
    if stream.axis == 1:
        begun, best = begun.transpose(1, 2), best.transpose(1, 2)
    wanted, counts = best.argmax(-1), (best != begun).any(-1)
    part = float(counts.float().mean())
    is_plain = wanted.shape == stream.tokens.shape
    if not is_plain or not 0 < part < PART:
        return  # it copies, denoises or tags on purpose
    share = _share(wanted, counts, stream.tokens, 0)
    if share < SURE:
        return
    claims.add(
        "warn",
        "the tokens to be guessed stand in the input: they are not masked",
        expected="another token, such as [MASK], at most of the places that count",
        actual=f"{part:.0%} of the places count, and {share:.0%} of them are asked for "
        f"the token that '{stream.path}' has there",
        fix="Give the model the masked copy of the tokens.",
    )


def _share(wanted: Tensor, counts: Tensor, tokens: Tensor, shift: int) -> float:
    length = min(wanted.shape[1], tokens.shape[1] - max(shift, 0))
    first = max(-shift, 0)
    asked = wanted[:, first:length]
    named = tokens[:, first + shift : length + shift]
    kept = counts[:, first:length]
    if int(kept.sum()) < MIN_TOKENS:
        return 0.0
    return float((asked == named)[kept].float().mean())
