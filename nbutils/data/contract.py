"""The form of a batch, with symbols for sizes that vary: ``float32 (B, 3, H, W)``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import batch_size, describe_tensor, tensors
from nbutils.data.contract_hints import hint
from nbutils.data.contract_infer import infer_specs
from nbutils.errors import ContractError

__all__ = ["Contract", "TensorSpec"]

Dim = int | str
_FORM = re.compile(r"^\s*(\w+)\s*\(([^()]*)\)\s*$")
_SYMBOL = re.compile(r"^[A-Za-z_]\w*$")


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and dims of one tensor; a dim is a number, a symbol or ``"..."``."""

    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.dims_text}"

    @property
    def dims_text(self) -> str:
        """The dims as they are written: ``(B, 3, 32, 32)``, ``(B,)``."""
        inner = ", ".join(map(str, self.dims))
        return f"({inner},)" if len(self.dims) == 1 else f"({inner})"

    @classmethod
    def parse(cls, text: str, path: str) -> TensorSpec:
        """The spec that ``text`` declares for ``path``.

        Raises:
            ContractError: The text is not ``dtype (dims)``.
        """
        match = _FORM.match(text) if isinstance(text, str) else None
        if match is None:
            raise ContractError(
                f"contract['{path}'] is {text!r:.80}; a dtype and dims are expected, "
                'such as "float32 (B, 3, H, W)", "int64 (B,)" or "any (B, ...)".'
            )
        dtype = match.group(1)
        known = isinstance(getattr(torch, dtype, None), torch.dtype)
        if not known and dtype != "any":
            raise ContractError(
                f"contract['{path}'] has dtype {dtype!r}; a torch dtype such as "
                'float32 or int64 is expected, or "any".'
            )
        words = [word.strip() for word in match.group(2).split(",") if word.strip()]
        dims = tuple(_dim(word, path) for word in words)
        if dims.count("...") > 1:
            raise ContractError(
                f"contract['{path}'] has '...' {dims.count('...')} times; once at most "
                "is expected. Name the other dims."
            )
        return cls(dtype, dims)


def _dim(word: str, path: str) -> Dim:
    if word.isdecimal():
        return int(word)
    if word == "..." or _SYMBOL.match(word):
        return word
    raise ContractError(
        f"contract['{path}'] has dim {word!r}; a number, a name or '...' is expected."
    )


class Contract:
    """What each tensor of a batch must be.

    The symbol ``B`` is the batch size; any other symbol stands for one size within a
    batch, whatever it is; ``...`` stands for any number of dims.

    Args:
        specs: Path -> ``"float32 (B, 3, H, W)"`` or :class:`TensorSpec`.
        is_complete: Whether a tensor at any other path is a problem.

    Raises:
        ContractError: A text cannot be read.

    Example:
        >>> contract = Contract({"0": "float32 (B, 3)", "1": "int64 (B,)"})
        >>> contract.check((torch.ones(4, 3), torch.ones(4).long()))
        []
    """

    def __init__(
        self, specs: Mapping[str, str | TensorSpec], *, is_complete: bool = False
    ) -> None:
        self.specs = {
            str(path): spec
            if isinstance(spec, TensorSpec)
            else TensorSpec.parse(spec, str(path))
            for path, spec in specs.items()
        }
        self.is_complete = is_complete

    def __repr__(self) -> str:
        inner = ", ".join(f"{path!r}: '{spec}'" for path, spec in self.specs.items())
        return f"Contract({{{inner}}})"

    @classmethod
    def infer(cls, batches: Sequence[Any]) -> Contract:
        """The contract that all observed batches keep.

        With batches of several sizes, each dim that always equals the batch size
        becomes ``B``, each other dim that varies gets a symbol, the rest are numbers.
        With batches of one size only a first dim can be told to be ``B``.

        Args:
            batches: At least one; best of different sizes.

        Raises:
            ContractError: No batch, or batches that differ in structure or dtype.
        """
        specs = infer_specs(batches)
        return cls(
            {path: TensorSpec(dtype, dims) for path, (dtype, dims) in specs.items()},
            is_complete=True,
        )

    def check(self, batch: Any) -> list[str]:
        """What is wrong with ``batch``, one sentence each; empty when it fits."""
        found = dict(tensors(batch))
        problems = []
        bound: dict[str, int] = {}
        if any("B" in spec.dims for spec in self.specs.values()):
            bound["B"] = batch_size(batch)
        for path, spec in self.specs.items():
            if path in found:
                problems += _tensor_problems(path, spec, found[path], bound)
            else:
                there = ", ".join(found) or "no tensor"
                problems.append(
                    f"{path} must be {spec}; it is missing. Found: {there}."
                )
        if self.is_complete:
            problems += [
                f"{path} is {describe_tensor(tensor)}; no tensor is expected there. "
                "Declare it, or leave it out of the batch."
                for path, tensor in found.items()
                if path not in self.specs
            ]
        return problems

    def table(self) -> list[tuple[str, str, str]]:
        """Rows (path, dtype, dims), such as ``("0", "float32", "(B, 3, 32, 32)")``."""
        return [(path, spec.dtype, spec.dims_text) for path, spec in self.specs.items()]


def _tensor_problems(
    path: str, spec: TensorSpec, tensor: Tensor, bound: dict[str, int]
) -> Iterator[str]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    dims = _aligned(spec.dims, tensor.ndim)
    wrong = spec.dtype not in ("any", dtype) or dims is None
    conflicts = [] if dims is None else _conflicts(dims, tensor.shape, bound)
    if not wrong and not conflicts:
        return
    sizes = f" ({'; '.join(conflicts)})" if conflicts else ""
    advice = hint(spec.dtype, dims, tensor)
    yield f"{path} must be {spec}; got {describe_tensor(tensor)}{sizes}.{advice}"


def _aligned(dims: tuple[Dim, ...], ndim: int) -> tuple[Dim, ...] | None:
    """The dims with ``...`` spelled out; None when their number does not fit."""
    if "..." not in dims:
        return dims if len(dims) == ndim else None
    at = dims.index("...")
    missing = ndim - (len(dims) - 1)
    if missing < 0:
        return None
    return dims[:at] + ("...",) * missing + dims[at + 1 :]


def _conflicts(
    dims: tuple[Dim, ...], shape: torch.Size, bound: dict[str, int]
) -> list[str]:
    """Dims that differ from what is declared or from the symbol's size so far."""
    found = []
    for number, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if dim == "...":
            continue
        expected = dim if isinstance(dim, int) else bound.setdefault(dim, size)
        if expected != size:
            name = f"{dim}={expected}" if isinstance(dim, str) else str(expected)
            found.append(f"dim {number} is {size}, expected {name}")
    return found
