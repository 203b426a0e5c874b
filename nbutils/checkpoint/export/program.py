"""``torch.export``: the computation as a file that runs without the model's code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.checkpoint.export.compare import largest_difference, tolerance
from nbutils.checkpoint.export.example import Call
from nbutils.checkpoint.export.exporter import (
    demand_tensors,
    expected_outputs,
    first_line,
    other_sizes,
    quiet,
    refusal,
    root_of,
    said_about_the_model,
)

__all__ = ["write_program"]


def write_program(model: nn.Module, call: Call, path: Path) -> tuple[float, list[str]]:
    """Write ``model`` as ``.pt2``, with a free batch axis where the model allows it.

    What lies in the file comes from blank inputs: no data goes with it.

    Returns:
        Largest relative difference over batches of several sizes; notes.

    Raises:
        ConfigError: The model cannot be exported, or its inputs cannot.
        ContractError: It does not run on this batch at all.
    """
    demand_tensors("torch_export", call)
    expected = expected_outputs("torch_export", model, call)
    notes = [f"torch_export holds model(...) {call.note}."] if call.note else []
    with said_about_the_model("torch_export", notes):
        why_static = "no input has the samples along its first axis"
        if call.has_batch_axis():
            gap, why_static = _with_free_batch(model, call, path)
            if not why_static:
                return gap, notes
        notes.append(
            f"torch_export takes inputs of exactly these sizes only: {why_static}."
        )
        try:
            program = _export(model, call, {})
            _save(program, path)
            found = call.run(_load(path))
        except Exception as error:  # the exporter raises whatever a model provokes
            raise refusal("torch_export", model, error) from error
        return largest_difference(expected, found), notes


def _with_free_batch(model: nn.Module, call: Call, path: Path) -> tuple[float, str]:
    """The difference over several sizes, and why it did not work; empty if it did."""
    try:
        traced = call.blank()
        # a named Dim fails under torch 2.6 where two inputs share the axis
        axes = traced.batch_axes(model, torch.export.Dim.DYNAMIC)
        shapes = {"dynamic_shapes": axes}
        _save(_export(model, traced, shapes), path)
        loaded = _load(path)
        worst = 0.0
        for size in other_sizes(call):
            twin = call.resized(size)
            expected = twin.run(model)
            gap = largest_difference(expected, twin.run(loaded))
            if not gap <= tolerance(model.parameters()):
                return gap, f"with {size} samples the outputs differ by {gap:.1e}"
            worst = max(worst, gap)
    except Exception as error:  # the export of one fixed size is tried next
        return 0.0, f"a free batch axis failed ({first_line(root_of(error))})"
    return worst, ""


def _export(model: nn.Module, call: Call, shapes: dict[str, Any]) -> Any:
    blank = call if shapes else _zeros(call)
    with quiet("torch.export"):
        program = torch.export.export(
            model, blank.args, blank.kwargs, strict=False, **shapes
        )
    for node in program.graph.nodes:  # paths and source lines of this machine
        node.meta.pop("stack_trace", None)
    return program


def _zeros(call: Call) -> Call:
    """The call on zeros at its own sizes."""
    return Call(args=call.args, kwargs=call.kwargs).blank()


def _save(program: Any, path: Path) -> None:
    torch.export.save(program, path)


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own archive reader
        return torch.export.load(path).module()
