"""Export: safetensors, state_dict and ONNX, each read back and compared."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import pickle
import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.plain import why_refused
from nbutils.checkpoint.snapshot import collect
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem

__all__ = ["Exported", "export_model", "save_weights"]

TOLERANCE = 1e-3  # of the outputs' scale; ONNX kernels round differently


class Exported(dict[str, Path]):
    """Paths by format.

    Attributes:
        parity: Largest relative difference of each format.
        notes: What a format could not hold, in a sentence each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parity: dict[str, float] = {}
        self.notes: list[str] = []

    def __str__(self) -> str:
        lines = [
            f"{name:<12} {path}  (read back; differs by {self.parity[name]:.1e})"
            for name, path in self.items()
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def export_model(
    model: nn.Module,
    inputs: Any,
    folder: Path,
    formats: Sequence[str] = ("safetensors",),
) -> Exported:
    """Write ``model`` in each format, load it again, compare outputs on ``inputs``.

    Args:
        inputs: What ``model(inputs)`` takes, on the CPU.
        formats: Of ``"safetensors"``, ``"state_dict"``, ``"onnx"``.

    Raises:
        ConfigError: An unknown format.
        ContractError: What was read back does not compute the same.
        EnvironmentProblem: ONNX without its packages.
    """
    writers: dict[str, Callable[[nn.Module, Any, Path], float]] = {
        "safetensors": _safetensors,
        "state_dict": _state_dict,
        "onnx": _onnx,
    }
    if unknown := [name for name in formats if name not in writers]:
        raise ConfigError(
            [
                f"format {n!r} is unknown; expected {', '.join(writers)}."
                for n in unknown
            ]
        )
    folder.mkdir(parents=True, exist_ok=True)
    suffixes = {"safetensors": ".safetensors", "state_dict": ".pt", "onnx": ".onnx"}
    exported = Exported()
    for name in formats:
        path = folder / f"model{suffixes[name]}"
        difference = writers[name](model, inputs, path)
        if not difference <= TOLERANCE:
            raise ContractError(
                f"{path} was written, but its outputs differ from the model's by "
                f"{difference:.2e} of their scale; at most {TOLERANCE:g} was expected. "
                "Look for operations that draw random numbers in eval mode."
            )
        exported[name] = path
        exported.parity[name] = difference
    extra = [k for k, v in _state(model).items() if not isinstance(v, Tensor)]
    if extra and "safetensors" in exported:
        exported.notes.append(
            f"safetensors holds tensors only: without {', '.join(extra)}; "
            "formats=('state_dict',) holds it all."
        )
    return exported


def save_weights(model: nn.Module, path: Path) -> Path:
    """The model's ``state_dict`` as a file that ``weights_only`` loading accepts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.cpu() if isinstance(v, Tensor) else v for k, v in _state(model).items()
    }
    torch.save(state, path)
    return path


def _state(model: nn.Module) -> dict[str, Any]:
    return dict(model.state_dict())


def _safetensors(model: nn.Module, _inputs: Any, path: Path) -> float:
    from safetensors.torch import load_file, save_file

    saved = collect(0, model, {})
    # the form of safetensors.torch.save_model, which refuses extra state
    save_file(saved.weights, path, metadata={"format": "pt", **saved.aliases})
    return _largest_difference(model, load_file(path))


def _state_dict(model: nn.Module, _inputs: Any, path: Path) -> float:
    save_weights(model, path)
    try:
        loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            [
                "format 'state_dict' would not load back safely: the extra state "
                f"holds {why_refused(error)}. Let get_extra_state() return plain "
                "values."
            ]
        ) from error
    return _largest_difference(model, loaded)


def _largest_difference(model: nn.Module, loaded: dict[str, Any]) -> float:
    """0 if every tensor came back bit for bit; tied ones are stored once."""
    own = {k: v for k, v in _state(model).items() if isinstance(v, Tensor)}
    kept = {tensor.data_ptr() for name, tensor in own.items() if name in loaded}
    lost = [n for n, t in own.items() if n not in loaded and t.data_ptr() not in kept]
    back = {k: v for k, v in loaded.items() if isinstance(v, Tensor)}
    same = all(torch.equal(own[n].cpu(), t) for n, t in back.items())
    return 0.0 if same and not lost else float("inf")


def _onnx(model: nn.Module, inputs: Any, path: Path) -> float:
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            [
                "format 'onnx' needs a model that takes one tensor, without a "
                f"forward= of the task's own; found {type(inputs).__name__}. "
                "Use formats=('safetensors',)."
            ]
        )
    try:
        import onnxruntime

        importlib.import_module("onnxscript")  # torch.onnx.export needs it
    except ImportError as error:
        raise EnvironmentProblem(
            f"ONNX export needs packages that are absent ({error}). "
            "Install them: pip install onnx onnxscript onnxruntime"
        ) from error
    with torch.no_grad():
        expected = model(inputs)
    if not isinstance(expected, Tensor):
        raise ConfigError(
            [
                "format 'onnx' needs a model whose output is one tensor; this gives "
                f"{type(expected).__name__}. Use formats=('safetensors',)."
            ]
        )
    _write_onnx(model, inputs, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    (found,) = session.run(None, {name: inputs.numpy()})
    scale = expected.abs().max().clamp(min=1e-6)
    return float((torch.from_numpy(found) - expected).abs().max() / scale)


def _write_onnx(model: nn.Module, inputs: Tensor, path: Path) -> None:
    """Export with a free batch axis; the exporter's chatter goes to the log.

    Uses the exporter that this torch has made its default: the newer one fails on
    BatchNorm under torch 2.6.
    """
    is_newer = inspect.signature(torch.onnx.export).parameters["dynamo"].default is True
    if is_newer:
        batch_axis = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        options: dict[str, Any] = {**batch_axis, "dynamo": True, "external_data": False}
    else:
        options = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}}
    chatter = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(chatter):
        warnings.simplefilter("ignore")  # the exporter deprecates its own internals
        try:
            torch.onnx.export(
                model,
                (inputs,),
                str(path),
                input_names=["input"],
                output_names=["output"],
                **options,
            )
        except Exception as error:  # the exporter raises whatever a model provokes
            raise ConfigError([_why_no_onnx(model, error)]) from error
    logging.getLogger("nbutils").debug("torch.onnx: %s", chatter.getvalue())


def _why_no_onnx(model: nn.Module, error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return (
        f"format 'onnx' cannot hold this {type(model).__name__}: "
        f"{type(error).__name__}: {reason:.300}. Use formats=('safetensors',)."
    )
