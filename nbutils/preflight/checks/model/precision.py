"""R7: the run's number format gives what fp32 gives, and an overflow is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.judged import judge_part
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.precision import Precision
from nbutils.train.step import forward_loss
from nbutils.train.update import make_update

__all__ = ["CHECK"]

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
TIMES_EXPECTED = 10.0
LOSS_EPS = 20.0
MAX_SHARE = 0.5
NUM_HALVINGS = 17
SAFE_SCALE = 1024.0
MAX_STEP_S = 1.0


@dataclass
class _Pass:
    """One forward and backward pass in eval mode.

    Attributes:
        loss: Its value.
        grads: The gradient of everything, in one row, in fp64; none if not asked for.
        first_bad: The first module with an output that is not finite.
    """

    loss: float
    grads: Tensor | None
    first_bad: str = ""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradients are."""
        loss = torch.tensor(self.loss)
        grads = loss if self.grads is None else self.grads
        return bool(torch.isfinite(loss)) and bool(torch.isfinite(grads).all())


def run(probe: Probe, claims: Claims) -> None:
    """Compare with fp32 where the run computes in another format; break one update."""
    precision = probe.precision
    requested = probe.config.precision.precision
    told = f"{precision.kind} ({precision.reason}; precision={requested!r})"
    claims.show([("format", told)])
    _judge_weights(probe, claims)
    if precision.kind == "fp32":
        claims.add("pass", "the run computes in fp32", actual=told)
    else:
        claims.add("pass", f"the run computes in {precision.kind}", actual=told)
        _judge_format(probe, claims)
    step_s = min(probe.facts.get("step_seconds", [0.0]))
    if claims.worst == "fail":
        return
    if step_s > MAX_STEP_S or probe.seconds_left < 0:
        claims.add("skip", "an overflow: not tried, since the model is slow here")
        return
    judge_part("an overflow", lambda: _judge_overflow(probe, claims), claims)


def _judge_weights(probe: Probe, claims: Claims) -> None:
    """Weights in half precision lose updates below a part in 2000 of themselves."""
    named = [
        (name, p)
        for name, p in probe.model.named_parameters()
        if p.requires_grad and p.dtype in FORMATS.values()
    ]
    halves = [name for name, p in named if p.dtype == torch.float16]
    if halves:
        claims.add(
            "warn",
            "weights are kept in fp16: small updates round away",
            expected="weights in fp32; autocast computes in half precision",
            actual=f"{len(halves)} trainable parameters in fp16, first {halves[0]}",
            fix="Leave out model.half(), and set precision='fp16' or 'bf16'.",
        )
    elif named:
        text = f"{len(named)} parameters, {named[0][0]} for instance"
        claims.show([("weights kept in bf16", text)])


def _judge_format(probe: Probe, claims: Claims) -> None:
    """Loss and gradients of one batch, in fp32 and in the format.

    What rounding the weights does to fp32 is what the format may do; so is another
    seed where the pass is random.
    """
    kind = probe.precision.kind
    plain = _in_fp32(probe)
    if plain is None or not plain.is_finite:
        claims.add("skip", f"{kind} against fp32: fp32 itself gives no gradient here")
        return
    low, error = attempt(lambda: _pass(probe, _scaled(probe.precision)))
    if error is not None:
        _note_refusal(kind, error, claims)
        return
    if not low.is_finite:
        _note_overflow(probe, kind, plain, low, claims)
        return
    rounded = _in_fp32(probe, rounded=FORMATS[kind])
    other = _in_fp32(probe, seed=probe.seed + 1)
    if rounded is None or other is None:
        return
    share = _difference(plain, low)
    expected = max(_difference(plain, rounded), _difference(plain, other))
    change = abs(low.loss - plain.loss)
    noise = max(abs(rounded.loss - plain.loss), abs(other.loss - plain.loss))
    eps = torch.finfo(FORMATS[kind]).eps
    told = f"loss {plain.loss:.5g} in fp32, {low.loss:.5g} in {kind}; gradients differ "
    told += f"by {share:.1%}, rounded weights alone make {expected:.1%}"
    claims.show([("against fp32", told)])
    is_off = share > MAX_SHARE and share > TIMES_EXPECTED * expected
    is_off = is_off or change > TIMES_EXPECTED * noise + LOSS_EPS * eps * abs(
        plain.loss
    )
    if is_off and change + share > 4 * eps:
        claims.add(
            "warn",
            f"{kind} gives another result than fp32",
            expected=f"a difference of the size that {kind} itself makes",
            actual=told,
            fix="Keep sums over many values, variances, exp and log in fp32: "
            "x.float() there, or torch.autocast(device, enabled=False) around them.",
        )
    else:
        claims.add("pass", f"{kind} agrees with fp32", actual=told)


def _scaled(precision: Precision) -> Precision:
    if precision.scale is not None:
        precision.scale.value.fill_(SAFE_SCALE)
    return precision


def _in_fp32(
    probe: Probe, *, rounded: torch.dtype | None = None, seed: int | None = None
) -> _Pass | None:
    plain = Precision("fp32", probe.device)
    return attempt(lambda: _pass(probe, plain, rounded=rounded, seed=seed))[0]


def _pass(
    probe: Probe,
    precision: Precision,
    *,
    rounded: torch.dtype | None = None,
    seed: int | None = None,
) -> _Pass:
    """Forward and backward in eval mode: dropout draws otherwise in each format."""
    probe.rewind()
    model = probe.model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    if rounded is not None:
        with torch.no_grad():
            for weight in weights:
                if weight.is_floating_point():
                    weight.copy_(weight.to(rounded))
    seed_everything(probe.seed if seed is None else seed)
    batch = probe.fresh(probe.data.batch("train"))
    with _first_bad(model) as bad:
        terms = probe.config.loss.loss_weights
        loss = forward_loss(probe.task, model, batch, precision, terms)[2]
    precision.backward(loss)
    scale = 1.0 if precision.scale is None else float(precision.scale.value)
    grads = [
        torch.view_as_real(g).flatten() if g.is_complex() else g.flatten()
        for g in (p.grad for p in weights)
        if g is not None and not g.is_sparse
    ]
    row = torch.cat([g.cpu().float() for g in grads]) / scale if grads else None
    return _Pass(float(loss.detach()), row, bad[0] if bad else "")


@contextmanager
def _first_bad(model: nn.Module) -> Iterator[list[str]]:
    """Names of modules whose outputs are not finite, in the order they ran."""
    bad: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found = [t for _, t in tensors(output) if t.is_floating_point()]
            if not all(bool(torch.isfinite(t).all()) for t in found):
                bad.append(f"'{name}' ({type(module).__name__})")

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def _difference(one: _Pass, other: _Pass) -> float:
    """Distance of two gradients, relative to the larger one."""
    a, b = one.grads, other.grads
    if a is None or b is None or a.shape != b.shape:
        return 0.0
    return float((a - b).norm() / max(float(a.norm()), float(b.norm()), 1e-30))


def _note_refusal(kind: str, error: Exception, claims: Claims) -> None:
    claims.add(
        "fail",
        f"the model cannot run in {kind}",
        expected=f"forward, loss and backward in {kind}",
        actual=quote(error),
        fix="Set precision='fp32', or convert what the message names: x.float().",
    )


def _note_overflow(
    probe: Probe, kind: str, plain: _Pass, low: _Pass, claims: Claims
) -> None:
    """Not finite in the format alone: a gradient may be saved by a smaller scale."""
    is_forward = not bool(torch.isfinite(torch.tensor(low.loss)))
    if not is_forward and kind == "fp16" and _finds_scale(probe):
        claims.show([("fp16", "the loss scale has to fall below 1024 first")])
        return
    where = f", first from module {low.first_bad}" if low.first_bad else ""
    largest = torch.finfo(FORMATS[kind]).max
    claims.add(
        "fail",
        f"{kind} overflows where fp32 does not",
        expected=f"a finite loss and finite gradients; loss {plain.loss:.5g} in fp32",
        actual=f"loss {low.loss:.5g} in {kind}"
        + (where if is_forward else "; gradients are not finite")
        + f"; the largest number of {kind} is {largest:.5g}",
        fix="Use precision='bf16' or 'fp32'; or scale the inputs, and compute what the "
        "module does in fp32. Constants such as 1e-8 are 0 in fp16.",
    )


def _finds_scale(probe: Probe) -> bool:
    precision = probe.precision
    if precision.scale is None:
        return False
    for number in range(NUM_HALVINGS):
        precision.scale.value.fill_(SAFE_SCALE / 2**number)
        found, error = attempt(lambda: _pass(probe, precision))
        if error is not None or precision.scale.value < 1 or probe.seconds_left < 0:
            return False
        if found.is_finite:
            return True
    return False


def _judge_overflow(probe: Probe, claims: Claims) -> None:
    """The run's own update refuses a gradient of Inf, and takes the next one."""
    probe.rewind()
    model = probe.model.train()
    settings = probe.config.precision
    precision = _scaled(
        Precision(settings.precision, probe.device, loss_fp32=settings.loss_fp32)
    )
    optimizer = build_optimizer(model, probe.config, probe.task)
    update = make_update(optimizer, precision, probe.config.guard, probe.device)[0]
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    refused: list[bool] = []
    for is_broken in (True, False):
        seed_everything(probe.seed)
        batch = probe.fresh(probe.data.batch("train"))
        weights = probe.config.loss.loss_weights
        loss = forward_loss(probe.task, model, batch, precision, weights)[2]
        precision.backward(loss)
        before = [p.detach().clone() for p in owned] if is_broken else []
        if is_broken:
            _break(owned)
        refused.append(bool(update(loss.detach())[1] > 0))
        pairs = zip(owned, before, strict=is_broken)
        if is_broken and not (refused[0] and all(torch.equal(*pair) for pair in pairs)):
            _note_not_refused(claims)
            return
    if not refused[1]:
        claims.add("pass", "an overflow is refused, and the next update is applied")


def _break(owned: list[Tensor]) -> None:
    grad = next((p.grad for p in owned if p.grad is not None), None)
    if grad is None:
        return
    values = grad._values() if grad.is_sparse else grad
    values.fill_(float("inf"))


def _note_not_refused(claims: Claims) -> None:
    claims.add(
        "fail",
        "an overflow reaches the weights",
        expected="weights as they were after a gradient of Inf",
        actual="the update was applied",
        fix="Let the optimizer's step() do nothing but the update of its gradients.",
    )


CHECK = Check(
    id="R7",
    title="The number format agrees with fp32",
    why="An overflow or a lost digit in half precision ruins a run without an error.",
    run=run,
    needs=("R6",),
)
