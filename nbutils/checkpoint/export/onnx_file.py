"""ONNX: the computation for runtimes other than torch, checked in onnxruntime."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.export.compare import largest_difference, tolerance
from nbutils.checkpoint.export.example import Call, Example
from nbutils.checkpoint.export.exporter import (
    demand_tensors,
    expected_outputs,
    first_line,
    is_tensor_tree,
    other_sizes,
    quiet,
    refusal,
    root_of,
    said_about_the_model,
)
from nbutils.data.batch import tensors
from nbutils.errors import ConfigError, EnvironmentProblem

__all__ = ["write_onnx"]

MAX_INLINE_BYTES = 1_800_000_000  # one protobuf file ends at 2 GiB
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def write_onnx(
    model: nn.Module, example: Example | Call, path: Path
) -> tuple[float, list[str]]:
    """Write ``model`` with a free batch axis where the model allows it.

    Returns:
        Largest relative difference in onnxruntime over batches of several sizes;
        notes.

    Raises:
        ConfigError: The model cannot be exported, or takes and gives more than one
            tensor and tensors in containers.
        ContractError: It does not run on this batch at all.
        EnvironmentProblem: A package is absent.
    """
    call = _one_tensor(example, model)
    runtime = _import_runtime()
    expected = expected_outputs("onnx", model, call)
    if not is_tensor_tree(expected):
        raise ConfigError(
            [
                "format 'onnx' needs a model whose outputs are tensors, alone or in "
                f"tuples, lists and dicts; this gives {type(expected).__name__}. "
                "Use formats=('safetensors',)."
            ]
        )
    names = _output_names(expected)
    notes: list[str] = []
    with said_about_the_model("onnx", notes):
        why_static = "the input has no batch axis"
        if call.has_batch_axis():
            gap, why_static = _attempt(model, call, path, names, runtime, is_free=True)
            if not why_static:
                return gap, notes
        notes.append(f"onnx takes inputs of exactly these sizes only: {why_static}.")
        try:
            _write(model, call, path, names, is_free=False)
            return _gap(runtime, path, expected, call), notes
        except Exception as error:  # exporter and runtime raise what a model provokes
            raise refusal("onnx", model, error) from error


def _one_tensor(example: Example | Call, model: nn.Module) -> Call:
    """The call, if it is ``model(tensor)``."""
    found = "a forward= of the task's own"
    if isinstance(example, Call) or not example.has_own_forward:
        call = example if isinstance(example, Call) else example.call(model)
        demand_tensors("onnx", call)
        if len(call.args) == 1 and not call.kwargs:
            if isinstance(call.args[0], Tensor):
                return call
            found = type(call.args[0]).__name__
        else:
            found = f"{len(call.args) + len(call.kwargs)} inputs"
    raise ConfigError(
        [
            "format 'onnx' needs a model that takes one tensor, without a "
            f"forward= of the task's own; found {found}. "
            "Use formats=('torch_export',) or ('safetensors',)."
        ]
    )


def _import_runtime() -> Any:
    try:
        import onnxruntime

        importlib.import_module("onnxscript")  # torch.onnx.export needs it
    except ImportError as error:
        raise EnvironmentProblem(
            f"ONNX export needs packages that are absent ({error}). "
            "Install them: pip install onnx onnxscript onnxruntime"
        ) from error
    return onnxruntime


def _output_names(expected: Any) -> list[str]:
    """``"output"`` for one tensor; for several their paths, such as ``"logits"``."""
    if isinstance(expected, Tensor):
        return ["output"]
    paths = [re.sub(r"\W", "_", path) for path, _ in tensors(expected)]
    return [f"output_{p}" if p[:1].isdigit() or p == "input" else p for p in paths]


def _attempt(
    model: nn.Module,
    call: Call,
    path: Path,
    names: list[str],
    runtime: Any,
    *,
    is_free: bool,
) -> tuple[float, str]:
    """The difference over several sizes, and why it did not work; empty if it did."""
    worst = 0.0
    try:
        traced = call if call.size != 1 else call.resized(2)
        _write(model, traced, path, names, is_free=is_free)
        for size in other_sizes(call):
            twin = call.resized(size)
            gap = _gap(runtime, path, twin.run(model), twin)
            if not gap <= tolerance(model.parameters()):
                return gap, f"with {size} samples the outputs differ by {gap:.1e}"
            worst = max(worst, gap)
    except Exception as error:  # the export of one fixed size is tried next
        return 0.0, f"a free batch axis failed ({first_line(root_of(error))})"
    return worst, ""


def _gap(runtime: Any, path: Path, expected: Any, call: Call) -> float:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; the rest is about onnxruntime
    session = runtime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    found = session.run(None, {name: call.args[0].numpy()})
    return largest_difference(expected, [torch.from_numpy(value) for value in found])


def _write(
    model: nn.Module, call: Call, path: Path, names: list[str], *, is_free: bool
) -> None:
    """Export by the exporter that this torch has made its default.

    The newer one fails on BatchNorm under torch 2.6. Its chatter goes to the log.
    """
    signature = inspect.signature(torch.onnx.export)
    is_newer = signature.parameters["dynamo"].default is True
    write = _write_newer if is_newer else _write_older
    with quiet("torch.onnx"):
        write(model, call, path, names, is_free=is_free)


def _write_newer(
    model: nn.Module, call: Call, path: Path, names: list[str], *, is_free: bool
) -> None:
    shapes: Any = ({0: torch.export.Dim("batch")},) if is_free else None
    program: Any = torch.onnx.export(
        model,
        call.args,
        input_names=["input"],
        output_names=names,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph:  # paths and source lines of this machine
        node.metadata_props.pop(STACK_TRACE, None)
    program.save(str(path), external_data=_num_bytes(model) > MAX_INLINE_BYTES)


def _write_older(
    model: nn.Module, call: Call, path: Path, names: list[str], *, is_free: bool
) -> None:
    axes = {name: {0: "batch"} for name in ["input", *names]} if is_free else None
    torch.onnx.export(
        model,
        call.args,
        str(path),
        input_names=["input"],
        output_names=names,
        dynamic_axes=axes,
    )


def _num_bytes(model: nn.Module) -> int:
    held = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
