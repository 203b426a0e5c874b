"""S8: shapes, parameters and memory of a model of any size, on fake tensors.

What fakes cannot see: values. An index out of range, a NaN, a branch taken on a number
pass unseen or stop the walk, which is then no verdict. They also accept a few calls
that the real kernels refuse; complex numbers in ``mse_loss`` are the known ones, and
are refused here by name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils.data.batch import batch_size, describe, parts
from nbutils.data.containers import is_container, rebuild
from nbutils.data.loss import adapt_loss, checked_terms
from nbutils.environment.limits import available_memory_bytes, memory_limit_bytes
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.fake.batches import batch_unread, resized
from nbutils.preflight.fake.cards import CARDS, advise, card_table, fitting
from nbutils.preflight.fake.formats import Format
from nbutils.preflight.fake.places import Hazard
from nbutils.preflight.fake.plan import MemoryPlan, size_text
from nbutils.preflight.fake.room import model_bytes
from nbutils.preflight.fake.simulate import Scene, Stopped, walk
from nbutils.preflight.fake.survey import Subject, Survey
from nbutils.preflight.fake.twin import Unfakeable
from nbutils.preflight.frozen import left_alone
from nbutils.preflight.probe import Probe, attempt

__all__ = ["CHECK"]

SMALL_BYTES = 256 * 2**20
"""Weights above which a real copy, which shows whether it stops as well, gets only
:data:`FEW` samples."""
FEW = 2
QUICK_BYTES = 32 * 2**20
"""Weights of a model of which a real step may be taken, just to measure it."""
LIMIT_S, GIANT_LIMIT_S = 6.0, 45.0
"""Seconds for fakes: where the real model can be run as well, and where it cannot."""
ONE_LINE_BYTES = 2**30
"""A plan below this is told in one line."""
UNREAD_SETTLES = (
    'depth="standard" takes the first batch; contract={"0": "float32 (B, 3, 224, '
    '224)", "1": "int64 (B,)"} tells its form without reading'
)
SETTLES = 'depth="standard" runs the real model on a real batch'


def run(probe: Probe, claims: Claims) -> None:
    """Walk through a step on fakes, then plan its memory."""
    subject, reason = _subject(probe)
    if subject is None:
        claims.add("skip", f"shapes not looked at: {reason}")
        claims.show([("what settles it", UNREAD_SETTLES)])
        _count(probe, claims)
        return
    with _undisturbed(probe):
        try:
            survey = Survey(subject)
        except Unfakeable as error:
            _note_no_twin(probe, subject, str(error), claims)
        except Stopped as stop:
            _note_stop(probe, subject, stop, claims)
        else:
            _note_walk(probe, survey, claims)


def _is_judge(probe: Probe) -> bool:
    """Whether no later check will run the real model."""
    return bool(probe.obstacle) or probe.facts.get("depth") == "static"


def _subject(probe: Probe) -> tuple[Subject | None, str]:
    """What is to be looked at; or none, and why."""
    task, config = probe.task, probe.config
    batch: Any
    if probe.facts.get("depth") == "static":
        batch, reason = batch_unread(task, config.data.batch_size)
        if batch is None:
            return None, reason
    else:
        batch = probe.data.batch("train")
    size, error = attempt(lambda: batch_size(batch))
    if error is not None or not size:
        return None, f"the batch does not tell its size: {error}"
    is_static = probe.facts.get("depth") == "static"
    lazy = probe.is_lazy and not is_static
    model = probe.model if lazy else getattr(task.model, "_orig_mod", task.model)
    device, _ = attempt(lambda: probe.precision)
    kind = "fp32" if device is None else probe.precision.kind
    on_cuda = device is not None and probe.device.type == "cuda"
    where = "cuda" if on_cuda else "cpu"
    rules = Format(kind, where, where, config.precision.loss_fp32)

    def other() -> tuple[Any, int] | None:
        return _other_batch(probe, batch, size)

    limit_s = GIANT_LIMIT_S if probe.obstacle else LIMIT_S
    return Subject(task, config, model, batch, size, other, rules, limit_s), ""


def _other_batch(probe: Probe, batch: Any, size: int) -> tuple[Any, int] | None:
    new = size // 2 if size >= 4 else 2 * size
    changed = resized(batch, size, new)
    if changed is not None:
        return changed, new
    is_static = probe.facts.get("depth") == "static"
    if is_static or size < 4 or probe.data.samples("train") is None:
        return None
    found, error = attempt(lambda: probe.data.batch("train", 2))
    return None if error is not None else (found, 2)


@contextmanager
def _undisturbed(probe: Probe) -> Iterator[None]:
    """Put back what the user's functions and hooks may have kept of the walk."""
    task = probe.task
    modules = [m for m in (task.model, task.loss) if isinstance(m, nn.Module)]
    hooks = [
        hook
        for root in modules
        for module in root.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
    ]
    functions = [task.forward_function, task.loss, task.make_optimizer]
    roots = [f for f in functions if f is not None and not isinstance(f, nn.Module)]
    with ExitStack() as stack:
        stack.enter_context(left_alone([*roots, *hooks], whole=False))
        yield


def _note_no_twin(probe: Probe, subject: Subject, reason: str, claims: Claims) -> None:
    if not _note_measured(probe, subject, claims):
        actual = f"the model has no fake twin: {reason}"
        claims.add("skip", f"shapes not looked at: {actual}", actual=actual)
        claims.show([("what settles it", SETTLES)])
        _count(probe, claims)


def _note_stop(probe: Probe, subject: Subject, stop: Stopped, claims: Claims) -> None:
    """The walk stopped: a fault of shapes, or something that fakes cannot tell."""
    if not _is_judge(probe):
        if not _note_measured(probe, subject, claims):
            why = f"fakes stop with {stop}"
            claims.add("skip", "memory not planned: fakes stop", actual=why)
            claims.show([("what settles it", "R4 runs the real model")])
        return
    _note_hazards(stop.hazards, claims)
    if claims.worst == "fail":
        return
    is_confirmed = stop.is_fault and _real_stops_too(probe, subject)
    place = stop.place.text if stop.place else ""
    told = "\n".join(part for part in (quote(stop.error), place) if part)
    if not is_confirmed:
        claims.add("skip", "shapes not looked at: fakes stop", actual=told)
        settle = "a smaller variant of the model" if probe.obstacle else SETTLES
        claims.show([("what settles it", settle)])
        _count(probe, claims)
        return
    expected = _expected(stop, subject)
    fix = stop.place.fix if stop.place else ""
    claims.add(
        "fail",
        _title(stop),
        expected=expected,
        actual=told,
        fix=fix
        or "Make the named shapes and dtypes agree, at the line that is quoted.",
    )
    claims.show((f"batch {p}", t) for p, t in describe(subject.batch).items())


def _title(stop: Stopped) -> str:
    if stop.stage == "loss":
        return "the loss refuses the model's outputs"
    name = f" at '{stop.place.name}'" if stop.place and stop.place.name else ""
    return f"the model refuses the batch{name}"


def _expected(stop: Stopped, subject: Subject) -> str:
    wanted = stop.place.wanted if stop.place else ""
    if wanted and stop.place:
        return f"{wanted} at '{stop.place.name or type(stop.place.module).__name__}'"
    got = "; ".join(f"{p}: {t}" for p, t in describe(subject.batch).items())
    return f"a loss for {got}" if stop.stage == "loss" else f"outputs for {got}"


def _real_stops_too(probe: Probe, subject: Subject) -> bool:
    """Whether a real copy raises as well; too large to be copied, fakes are trusted."""
    model = subject.model
    weights = model_bytes(model)
    if probe.obstacle or 4 * weights > available_memory_bytes():
        return True
    copied, error = attempt(lambda: copy.deepcopy(model))
    if error is not None:
        return False
    batch = subject.batch
    if weights > SMALL_BYTES:
        few = resized(batch, subject.batch_size, FEW)
        batch = batch if few is None else few
    batch = _made_up(batch)

    def call() -> None:
        with torch.no_grad(), subject.format.autocast():
            outputs = subject.task.forward(copied.train(), batch)
        checked_terms(adapt_loss(copy.deepcopy(subject.task.loss))(outputs, batch))

    return attempt(call)[1] is not None


def _made_up(batch: Any) -> Any:
    """A real batch of the same form: noise, and zeros for whole numbers."""
    if isinstance(batch, Tensor):
        is_number = batch.is_floating_point() or batch.is_complex()
        make = torch.randn if is_number else torch.zeros
        return make(batch.shape, dtype=batch.dtype) if batch.is_meta else batch.clone()
    if is_container(batch):
        return rebuild(batch, [_made_up(value) for _, value in parts(batch)])
    return batch


def _note_measured(probe: Probe, subject: Subject, claims: Claims) -> bool:
    """Plan from a real step of a small model that has no fake one; if that is so."""
    if _is_judge(probe) or model_bytes(subject.model) > QUICK_BYTES:
        return False
    scene = Scene(
        task=subject.task,
        model=probe.model.train(),
        loss=subject.task.loss,
        weights=subject.config.loss.loss_weights,
        format=subject.format,
        context=nullcontext,
    )
    try:
        usage = walk(scene, probe.fresh(subject.batch))
    except Stopped:
        return False  # the next checks tell more
    finally:
        probe.rewind()
    survey = Survey(subject, usage)
    claims.show([("measured", "on a real step, since fakes cannot take one")])
    _note_walk(probe, survey, claims)
    return True


def _note_walk(probe: Probe, survey: Survey, claims: Claims) -> None:
    usage = survey.usage
    if _is_judge(probe):
        _note_hazards(usage.hazards, claims)
    _note_plan(probe, survey, claims)
    claims.show((path, text) for path, text in usage.outputs.items())
    claims.show([("loss terms", ", ".join(usage.terms))])
    if usage.assumed:
        said = ", ".join(usage.assumed)
        claims.show([("taken as large as they can be", f"results of {said}")])
    if not usage.has_backward:
        claims.show([("backward", "not walked through; the peak is a lower bound")])
    claims.show([("cannot be seen on fakes", "values: indices out of range, NaN")])


def _note_hazards(hazards: Iterable[Hazard], claims: Claims) -> None:
    for severity, title, expected, actual, fix in hazards:
        claims.add(severity, title, expected=expected, actual=actual, fix=fix)


def _note_plan(probe: Probe, survey: Survey, claims: Claims) -> None:
    plan = survey.plan
    cards, remark = survey.cards
    probe.facts["memory_plan"] = _facts(plan, cards)
    fits = fitting(cards)
    room = _room(probe)
    if plan.total > room and not _is_meta(probe):
        _note_no_room(probe, survey, room, claims)
    elif not fits:
        claims.add(
            "warn",
            "no single card holds this run",
            expected=f"at most {size_text(max(c.usable for c in CARDS))}, on the "
            f"largest\n{card_table(cards)}",
            actual=cards.table(),
            fix=advise(cards, survey.changes()),
        )
    else:
        _note_fits(plan, cards, claims)
    claims.show([("on this device", plan.table()), ("basis", plan.basis)])
    claims.show([("on a rented card", cards.table()), ("its basis", cards.basis)])
    claims.show([("cards", card_table(cards))])
    claims.show([("remark on CUDA", remark)] if remark else [])
    claims.show([("plan as JSON", json.dumps(probe.facts["memory_plan"]))])


def _note_fits(plan: MemoryPlan, cards: MemoryPlan, claims: Claims) -> None:
    if plan.total < ONE_LINE_BYTES:
        claims.add(
            "pass",
            "shapes agree",
            expected="forward and loss run; room for weights and activations",
            actual=f"{plan.num_parameters:,} parameters; about "
            f"{size_text(plan.total)} at the peak with batches of {plan.batch_size}",
        )
        return
    claims.add("pass", "shapes agree", expected=card_table(cards), actual=plan.table())


def _note_no_room(probe: Probe, survey: Survey, room: int, claims: Claims) -> None:
    plan, cards = survey.plan, survey.cards[0]
    largest = plan.largest_batch(room)
    count = -(-plan.batch_size // largest) if largest else 0
    smaller = (
        f"batch_size={largest} with accumulation={count} would fit here. "
        if largest
        else ""
    )
    names = ", ".join(map(str, fitting(cards)))
    bigger = f"Cards that hold it: {names}." if names else ""
    fix = smaller + (bigger or advise(cards, survey.changes()))
    claims.add(
        "warn",
        f"the run needs about {size_text(plan.total)}, and {probe.device} has "
        f"{size_text(room)}",
        expected=f"at most {size_text(room)}",
        actual=plan.table(),
        fix=fix,
    )


def _facts(plan: MemoryPlan, cards: MemoryPlan) -> dict[str, Any]:
    largest = {str(card): cards.largest_batch(card.usable) for card in CARDS}
    return {
        "device": plan.as_dict(),
        "card": cards.as_dict(),
        "fits": [str(card) for card in fitting(cards)],
        "largest_micro_batch": largest,
    }


def _room(probe: Probe) -> int:
    """Memory of the run's device, in bytes."""
    device, error = attempt(lambda: probe.device)
    if error is None and device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_limit_bytes()


def _is_meta(probe: Probe) -> bool:
    return any(p.is_meta for p in probe.task.model.parameters())


def _count(probe: Probe, claims: Claims) -> None:
    """The parameters can be counted in any case."""
    known = [p for p in probe.task.model.parameters() if not is_lazy(p)]
    claims.show([("parameters", f"{sum(p.numel() for p in known):,}")])


CHECK = Check(
    id="S8",
    title="Shapes agree, and the run fits into memory",
    why="A model that does not fit, or a layer that does not match, is known before "
    "a card is rented.",
    run=run,
    depth="static",
    needs=("R3",),
)
