"""Part of R1: inputs are the real ones, not one stand-in for many samples."""

from __future__ import annotations

from collections import Counter, defaultdict

from nbutils.preflight.check import Claims
from nbutils.preflight.samples import Samples, share_text

__all__ = ["judge_placeholders"]

MIN_READ = 16
MIN_COPIES = 4
MIN_SHARE = 0.02
MIN_ELEMENTS = 4
RICH = 0.8
"""Share of the other inputs that must be unlike any other: inputs that repeat by
nature, such as short codes, say nothing."""
MAX_DISTINCT = 0.1


def judge_placeholders(samples: Samples, claims: Claims) -> None:
    """One input that stands for many samples of different labels."""
    table = samples.table("train")
    inputs = [path for path in samples.inputs if path not in samples.targets]
    keys = samples.keys("train", inputs)
    if table is None or len(keys) < MIN_READ:
        return
    if _num_elements(samples, inputs) < MIN_ELEMENTS:
        return
    counts = Counter(keys)
    if len(counts) == 1:
        _note_one(samples, len(keys), claims)
        return
    text = share_text(len(counts), len(keys))
    claims.show([("distinct training inputs", text)])
    if not samples.is_varied(inputs):
        return
    flat = _flat_rows(samples, inputs)
    common = counts.most_common(1)[0]
    members = [row for row, key in enumerate(keys) if key == common[0]]
    if len(flat) > len(members):
        members = flat
    others = [key for row, key in enumerate(keys) if row not in set(members)]
    num_other = len(set(others))
    is_rich = num_other >= max(2, RICH * len(others))
    if len(members) >= max(MIN_COPIES, MIN_SHARE * len(keys)) and is_rich:
        _note_members(samples, members, len(keys), set(flat) >= set(members), claims)
        return
    if samples.is_varied(inputs, floats_only=True):  # texts may repeat
        _judge_repeats(samples, len(counts), len(keys), claims)
        _judge_contradictions(samples, keys, claims)


def _num_elements(samples: Samples, inputs: list[str]) -> int:
    columns = [samples.column("train", path) for path in inputs]
    return sum(column.num_elements for column in columns if column)


def _flat_rows(samples: Samples, inputs: list[str]) -> list[int]:
    """Samples whose every input is one constant (in each channel)."""
    columns = [samples.column("train", path) for path in inputs]
    rows = zip(*(column.flat for column in columns if column), strict=True)
    return [row for row, flags in enumerate(rows) if all(flags)]


def _answers(samples: Samples, rows: list[int]) -> set[tuple[int, ...]] | None:
    """Distinct targets of some rows; none where no target is known."""
    keys = samples.keys("train", samples.targets)
    return {keys[row] for row in rows} if keys else None


def _index(samples: Samples, row: int) -> int:
    column = samples.column("train", samples.inputs[0])
    return column.indices[row] if column else row


def _note_members(
    samples: Samples, members: list[int], num_read: int, is_flat: bool, claims: Claims
) -> None:
    """Empty inputs of one and the same answer may be real: an empty slice, say."""
    answers = _answers(samples, members)
    indices = ", ".join(str(_index(samples, row)) for row in members[:5])
    text = share_text(len(members), num_read)
    if answers is not None and len(answers) < 2:
        claims.show([("samples with one and the same input and target", text)])
        return
    if answers is None and len(members) < 0.2 * num_read:
        claims.show([("samples with one and the same input", text)])
        return
    kind = "empty (one constant value)" if is_flat else "one and the same input"
    claims.add(
        "warn",
        "placeholders among the samples: many inputs are "
        + ("constant" if is_flat else "one and the same"),
        expected="an input of its own for each sample",
        actual=f"{text} training samples are {kind}"
        + (f" with {len(answers)} different targets" if answers else "")
        + f": samples {indices} …",
        fix="Look for a reader that gives a stand-in where a file cannot be read; "
        "let it raise, or leave those samples out.",
    )


def _note_one(samples: Samples, num_read: int, claims: Claims) -> None:
    answers = _answers(samples, list(range(num_read)))
    if samples.label is None and (answers is None or len(answers) < 2):
        claims.show([("distinct training inputs", f"1 of {num_read} read")])
        return
    claims.add(
        "warn",
        "every training sample has the same input",
        expected="inputs that differ",
        actual=f"{num_read} samples were read; their inputs are equal"
        + (f", their targets take {len(answers)} values" if answers else ""),
        fix="Look at __getitem__: does it use its index?",
    )


def _judge_repeats(
    samples: Samples, num_distinct: int, num_read: int, claims: Claims
) -> None:
    """A handful of samples over and over."""
    has_many = num_read >= 64 and num_distinct <= MAX_DISTINCT * num_read
    if not has_many or samples.label is None or "samples repeat" in _declared(samples):
        return
    claims.add(
        "warn",
        f"the training samples are {num_distinct} inputs over and over",
        expected="about as many inputs as samples",
        actual=f"{num_read} samples were read; {num_distinct} inputs are distinct",
        fix="Look at __getitem__ and at __len__: does the index reach every sample? "
        'If they are repeated on purpose, declare "samples repeat".',
    )


def _declared(samples: Samples) -> tuple[str, ...]:
    return tuple(samples.probe.task.declares)


def _judge_contradictions(
    samples: Samples, keys: list[tuple[int, ...]], claims: Claims
) -> None:
    """The same input with another class."""
    labels = samples.labels("train")
    if labels is None:
        return
    seen: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    for key, label in zip(keys, labels.tolist(), strict=True):
        seen[key].add(label)
    rows = [row for row, key in enumerate(keys) if len(seen[key]) > 1]
    if not rows:
        return
    text = share_text(len(rows), len(keys))
    if len(rows) < max(8, 0.1 * len(keys)):
        claims.show([("samples whose input has another class elsewhere", text)])
        return
    claims.add(
        "warn",
        "the same inputs carry different classes",
        expected="one class for each input",
        actual=f"{text} training samples: sample {_index(samples, rows[0])} is one",
        fix="Look at how inputs and labels are joined.",
    )
