"""Writes tensors as a safetensors file, block by block, without a copy of them all."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from nbutils.checkpoint.hashed import HashedFile

__all__ = ["is_storable", "write_tensors"]

# What every release from 0.4 on can read.
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def is_storable(tensor: Tensor) -> bool:
    """Whether the format knows this kind of tensor."""
    return tensor.layout == torch.strided and tensor.dtype in NAMES


def write_tensors(tensors: Mapping[str, Tensor], file: HashedFile) -> None:
    """Write the file: length of the header, header, then the values.

    Args:
        tensors: Host tensors by name, all of them storable.
    """
    # Wide types first, so that each value lies at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        flat = tensors[name].contiguous().reshape(-1)
        if flat.numel():
            file.write(flat.view(torch.uint8).numpy())
