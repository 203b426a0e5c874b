"""Out of memory: its many spellings, and letting go of what an error still holds."""

from __future__ import annotations

import errno
import gc
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from nbutils.errors import EnvironmentProblem

__all__ = ["OutOfMemoryProblem", "free_memory", "is_out_of_memory", "release"]

_SPELLINGS = re.compile(
    r"""
    # CUDA, HIP, MPS, XPU and drivers: "CUDA error: out of memory", "MPS backend ..."
    ^(ran\ |error:?\ )?out\ of\ memory
    | \b(cuda|hip|rocm|mps|xpu|gpu|cudnn|cublas|nccl|triton|device|backend|driver)\b
      [^\n]{0,120}?\bout\ of\ memory\b (?!\ errors?\b)
    # cuBLAS, cuDNN, cuSOLVER, hipBLAS, MIOpen; cuFFT, cuSPARSE say it otherwise
    | STATUS_\w*ALLOC\w*_FAILED | CUFFT_ALLOC_FAILED | STATUS_INSUFFICIENT_RESOURCES
    | rocblas_status_memory_error
    | CUDNN_STATUS_NOT_SUPPORTED\b (?=[\s\S]*\b(memory|allocat\w*|workspace)\b)
    | (cuda|hip)Error(Memory|OutOf)(Allocation|Memory) | OUT_OF_(DEVICE|HOST)_MEMORY
    | Invalid\ buffer\ size:\ [\d.]+\ [KMGT]i?B  # MPS
    # main memory
    | DefaultCPUAllocator:\ (can't\ allocate|not\ enough)\ memory
    | alloc_cpu\.cpp[^\n]*\berr\ ==\ 0\b
    | Cannot\ allocate\ memory | std::bad_alloc
    """,
    re.VERBOSE | re.IGNORECASE,
)


class OutOfMemoryProblem(EnvironmentProblem, torch.OutOfMemoryError):
    """Not even the smallest part fits, or there is nothing to split.

    Attributes:
        is_undone: Model, generators and counters are as before the failed window.
    """

    is_undone = False


def is_out_of_memory(
    error: BaseException, outside: BaseException | None = None
) -> bool:
    """Whether this is an allocation that failed, in any of its spellings.

    An error that was raised because of one, or while one was handled, counts as well.

    Args:
        error: What was raised.
        outside: An error that was being handled before the failing work began; it and
            what lies behind it say nothing about this one.
    """
    return any(_is_one(link) for link in _chain(error, outside))


def _is_one(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    return _SPELLINGS.search(str(error)) is not None


def _chain(
    error: BaseException, outside: BaseException | None = None
) -> Iterator[BaseException]:
    """An error and those behind it, as a traceback would show them."""
    seen: set[int] = set() if outside is None else {id(outside)}
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        hidden = link.__suppress_context__
        waiting += [link.__cause__, None if hidden else link.__context__]
        waiting += getattr(link, "exceptions", ())  # of an exception group


def release(error: BaseException, outside: BaseException | None = None) -> None:
    """Let go of the frames of a failed attempt: their variables hold activations.

    Frames that Python or IPython keep of an earlier failed cell are cleared too; a
    ``%debug`` of that cell finds them empty afterwards.
    """
    for link in _chain(error, outside):
        _clear(link.__traceback__)
        link.__traceback__ = None
    kept = [getattr(sys, name, None) for name in ("last_exc", "last_value")]
    for last in kept:
        if isinstance(last, BaseException) and last is not outside:
            for link in _chain(last, outside):
                _clear(link.__traceback__)
                link.__traceback__ = None
    _cut(getattr(sys, "last_traceback", None))
    shell = _shell()
    _cut(getattr(getattr(shell, "InteractiveTB", None), "tb", None))


def _shell() -> Any:
    """IPython's shell if this process has one; IPython is not imported for it."""
    module: Any = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _clear(trace: TracebackType | None) -> None:
    """Empty the finished frames; the running ones stay as they are."""
    if trace is not None:
        traceback.clear_frames(trace)


def _cut(trace: Any) -> None:
    """Empty the frames and drop all but the first: a debugger may have copied them."""
    if isinstance(trace, TracebackType):
        _clear(trace)
        trace.tb_next = None


def free_memory(device: torch.device) -> None:
    """Collect what is unreachable and give cached memory back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
