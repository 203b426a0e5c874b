"""Round trips between packages that must fit each other: done, not believed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

__all__ = ["TRIPS", "round_trips"]


@lru_cache(maxsize=8)
def round_trips(device_name: str) -> tuple[tuple[str, str], ...]:
    """The trips that failed, each with its error; done once in a process.

    Args:
        device_name: What a run would compute on, such as ``cuda``.
    """
    found = ((name, _problem(trip, device_name)) for name, trip in TRIPS.items())
    return tuple((name, problem) for name, problem in found if problem)


def _problem(trip: Callable[[str], str], device_name: str) -> str:
    try:
        return trip(device_name)
    except Exception as error:  # whatever a half-broken binary raises is the finding
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def _numpy(device_name: str) -> str:
    """Array to tensor and back, sharing memory."""
    del device_name
    import numpy as np
    import torch

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_numpy(array)
    tensor.mul_(2)
    back = tensor.numpy()
    is_right = back[1, 2] == 10 and array[1, 2] == 10 and back.dtype == array.dtype
    return "" if is_right else f"an array came back as {back.tolist()}"


def _torchvision(device_name: str) -> str:
    """A compiled operator of torchvision, without the second its import takes."""
    del device_name
    import torch

    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        return ""
    libraries = sorted(Path(folders[0]).glob("_C*.so"))
    libraries += sorted(Path(folders[0]).glob("_C*.pyd"))
    for library in libraries:
        torch.ops.load_library(str(library))
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    kept = torch.ops.torchvision.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    is_right = kept.tolist() == [0, 2]
    return "" if is_right else f"nms kept {kept.tolist()}, not [0, 2]"


def _device(device_name: str) -> str:
    """Numbers to the device, a product there, and back."""
    import torch

    there = torch.arange(4.0, device=device_name).reshape(2, 2)
    back = (there @ there).cpu().tolist()
    return "" if back == [[2, 3], [6, 11]] else f"a product came back as {back}"


TRIPS: dict[str, Callable[[str], str]] = {
    "numpy": _numpy,
    "torchvision": _torchvision,
    "device": _device,
}
