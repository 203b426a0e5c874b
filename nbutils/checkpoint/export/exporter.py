"""What the formats that hold a computation share: inputs, outputs, refusals."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from torch import Tensor, nn

from nbutils.checkpoint.export.example import Call
from nbutils.errors import ConfigError, ContractError

__all__ = [
    "demand_tensors",
    "expected_outputs",
    "first_line",
    "is_tensor_tree",
    "other_sizes",
    "quiet",
    "refusal",
    "root_of",
    "said_about_the_model",
]

_MAX_REASON = 300
_ABOUT_PACKAGES = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


def demand_tensors(name: str, call: Call) -> None:
    """Refuse a call that no exporter can take, in the words of the batch.

    Raises:
        ConfigError: A graph is among the inputs.
    """
    if graph := call.graph():
        raise ConfigError(
            [
                f"format '{name}' cannot take a batch of graphs: the model is given a "
                f"{graph}, and only tensors, tuples, lists and dicts go through. Use "
                "formats=('safetensors',), or let the model take tensors such as x and "
                "edge_index, with forward=lambda model, b: model(b.x, b.edge_index)."
            ]
        )


def expected_outputs(name: str, model: nn.Module, call: Call) -> Any:
    """What the model itself gives.

    Raises:
        ContractError: It fails on this batch, outside of any exporter.
    """
    try:
        return call.run(model)
    except Exception as error:  # the model's own error, with what it was called for
        raise ContractError(
            f"format '{name}' needs one forward pass of {type(model).__name__} on the "
            f"CPU, in eval mode and without autocast, and it failed: "
            f"{first_line(error)}. Make the model run there, or use "
            "formats=('safetensors',), which holds weights alone."
        ) from error


def other_sizes(call: Call) -> list[int]:
    """Batch sizes to compare at: the real one, one sample, one more."""
    if call.size is None:
        return []
    return [call.size, 1, call.size + 1]


def refusal(name: str, model: nn.Module, error: BaseException) -> ConfigError:
    """The error of an exporter as one sentence with a way out."""
    return ConfigError(
        [
            f"format '{name}' cannot hold this {type(model).__name__}: "
            f"{first_line(root_of(error))}. Change the model there, or use "
            "formats=('safetensors',)."
        ]
    )


def root_of(error: BaseException) -> BaseException:
    """What an error came from at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """Class and first line of an error."""
    text = re.sub(r"For more information, run with \S+", "", str(error)).strip()
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()] or [""]
    if lines[0].endswith("!"):  # "Constraints violated!": the next line says which
        lines[0] = " ".join(lines[:2])
    return f"{type(error).__name__}: {lines[0].rstrip('.: '):.{_MAX_REASON}}"


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Send what an exporter prints to the log."""
    chatter = io.StringIO()
    try:
        with redirect_stdout(chatter):
            yield
    finally:
        if chatter.getvalue():
            logging.getLogger("nbutils").debug("%s: %s", name, chatter.getvalue())


@contextmanager
def said_about_the_model(name: str, notes: list[str]) -> Iterator[None]:
    """Turn warnings about the model into notes; those about packages are dropped."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [
        str(warning.message).strip().splitlines()[0]
        for warning in caught
        if not issubclass(warning.category, _ABOUT_PACKAGES) and str(warning.message)
    ]
    for text in dict.fromkeys(texts):
        notes.append(f"{name} warned: {text:.{_MAX_REASON}}")


def is_tensor_tree(value: Any) -> bool:
    """Whether ``value`` holds tensors in plain containers, and nothing else."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, dict):
        return all(is_tensor_tree(item) for item in value.values())
    return isinstance(value, (tuple, list)) and all(map(is_tensor_tree, value))
