"""Writes the formats one after the other, each whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.checkpoint.export.compare import tolerance
from nbutils.checkpoint.export.example import Call, Example, as_example
from nbutils.checkpoint.export.exported import Exported
from nbutils.checkpoint.export.files import write_safetensors, write_state_dict
from nbutils.checkpoint.export.onnx_file import write_onnx
from nbutils.checkpoint.export.program import write_program
from nbutils.data.loaders import make_loader
from nbutils.errors import ConfigError, ContractError, EnvironmentProblem

__all__ = ["FILES", "export_model", "export_task"]

Writer = Callable[[nn.Module, Any, Path], tuple[float, list[str]]]

FILES = {
    "safetensors": "model.safetensors",
    "state_dict": "model.pt",
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
}
_OTHER_NAMES = {"torch.export": "torch_export"}


def export_model(
    model: nn.Module,
    inputs: Any,
    folder: Path,
    formats: Sequence[str] = ("safetensors",),
) -> Exported:
    """Write ``model`` in each format, load it again, compare outputs on ``inputs``.

    A file appears under its name once it was read back and computes the same; where
    one format fails, the files of those before it stay.

    Args:
        inputs: What ``model(inputs)`` takes, on the CPU; a :class:`Call` for more
            than one input, an :class:`Example` to find it when a format asks.
        formats: Of ``"safetensors"``, ``"state_dict"``, ``"onnx"``,
            ``"torch_export"`` (also ``"torch.export"``).

    Raises:
        ConfigError: An unknown format, or one that cannot hold this model.
        ContractError: What was read back does not compute the same.
        EnvironmentProblem: A package is absent, or the folder cannot be written.
    """
    names = _checked(formats)
    example = as_example(inputs)
    exported = Exported()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _at_rest(model):
            for name in names:
                _add(exported, name, model, example, folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"the export in {folder} cannot be written: {error}. Expected a writable "
            "folder with free space: free some, or choose another run_dir."
        ) from error
    return exported


def export_task(
    task: Any, config: Any, device: torch.device, folder: Path, formats: Sequence[str]
) -> Exported:
    """:func:`export_model` for a task's model, on the CPU, as the task calls it.

    The model goes back to ``device``; random generators stay as they were.
    """
    settings = config.replace(num_workers=0)
    example = Example(task, lambda: next(iter(make_loader(task, "train", settings))))
    with torch.random.fork_rng(devices=[]):
        task.model.cpu()
        try:
            return export_model(task.model, example, folder, formats)
        finally:
            task.model.to(device)


def _checked(formats: Sequence[str]) -> list[str]:
    """The formats, each once.

    Raises:
        ConfigError: Some are unknown, or there is none.
    """
    names = list(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    problems = [
        f"format {name!r} is unknown; expected {', '.join(FILES)}."
        for name in names
        if _OTHER_NAMES.get(name, name) not in FILES
    ]
    if not names:
        problems = [f"formats is empty; expected some of {', '.join(FILES)}."]
    if problems:
        raise ConfigError(problems)
    return names


def _add(
    exported: Exported,
    name: str,
    model: nn.Module,
    example: Example | Call,
    folder: Path,
) -> None:
    """Write one format beside the folder's files, judge it, move it among them."""
    kind = _OTHER_NAMES.get(name, name)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as beside:
        path = Path(beside) / FILES[kind]
        gap, notes = _write(kind, model, example, path)
        if not gap <= (most := tolerance(model.parameters())):
            raise ContractError(
                f"{name} was written and read back, but its outputs differ from the "
                f"model's by {gap:.2e} of their scale; at most {most:g} was expected, "
                "so it was not kept. Look for operations that draw random numbers in "
                "eval mode."
            )
        found = sorted(Path(beside).iterdir())  # a large ONNX file has a second one
        exported.sizes[name] = sum(file.stat().st_size for file in found)
        for file in found:
            file.chmod(0o644)  # safetensors writes for its owner alone
            file.replace(folder / file.name)
    exported[name] = folder / FILES[kind]
    exported.parity[name] = gap
    exported.notes += notes


def _write(
    kind: str, model: nn.Module, example: Example | Call, path: Path
) -> tuple[float, list[str]]:
    if kind == "torch_export":
        call = example if isinstance(example, Call) else example.call(model)
        return write_program(model, call, path)
    writers: dict[str, Writer] = {
        "safetensors": write_safetensors,
        "state_dict": write_state_dict,
        "onnx": write_onnx,
    }
    return writers[kind](model, example, path)


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, not compiled; all given back as it was."""
    modules = list(model.modules())
    training = [module.training for module in modules]
    compiled = [getattr(module, "_compiled_call_impl", None) for module in modules]
    model.eval()
    try:
        for module, call in zip(modules, compiled, strict=True):
            if call is not None:
                module._compiled_call_impl = None
        with torch.no_grad():
            yield
    finally:
        for module, was_training, call in zip(modules, training, compiled, strict=True):
            module.training = was_training
            if call is not None:
                module._compiled_call_impl = call
