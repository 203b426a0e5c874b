"""Counts the floating-point operations of a step while it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nbutils.data.task import Task

__all__ = ["FlopCount", "can_count"]

# Work that torch, or an older one, has no formula for: a count would be too low.
_UNKNOWN = (
    "_scaled_dot_product",
    "_flash_attention",
    "_efficient_attention",
    "_scaled_mm",
    "_int_mm",
    "_weight_int",
    "_cudnn_rnn",
    "mkldnn_rnn_layer",
    "_sparse_mm",
    "_sparse_addmm",
    "_grouped_mm",
    "_fft_",
    "linalg_",
    "_linalg_",
    "cholesky",
    "_trilinear",
)
_LIGHT = ("linalg_vector_norm",)
_OWN = ("aten", "prim", "prims", "_c10d_functional", "profiler")


class FlopCount(TorchDispatchMode):
    """Sums the operations of matrix products, convolutions and attention.

    The formulas are those of ``torch.utils.flop_counter``; a multiply-add counts as
    two, a complex one as eight. What is computed is not changed: each operation is
    passed on as it came.

    Attributes:
        flops: Operations so far.
        is_whole: Whether each heavy operation had a formula and came through.
        had_error: Whether an operation failed, for lack of memory for instance.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # once a run, when needed

        self.flops = 0
        self.is_whole = True
        self.had_error = False
        self._formulas = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except BaseException:
            self.is_whole, self.had_error = False, True
            raise
        self._add(func, args, kwargs, out)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        formula = self._formulas.get(packet)
        if formula is None:
            name = packet.__name__
            is_heavy = name.startswith(_UNKNOWN) and name not in _LIGHT
            if is_heavy or func.namespace not in _OWN:
                self.is_whole = False
            return
        try:
            flops = int(formula(*args, **kwargs, out_val=out))
        except Exception:  # a formula that does not know these shapes: no figure
            self.is_whole = False
            return
        is_complex = torch.is_tensor(out) and out.is_complex()
        self.flops += 4 * flops if is_complex else flops


def can_count(task: Task) -> bool:
    """Whether a step of ``task`` can run under a count: nothing of it is compiled."""
    functions = (task.loss, task.forward_function)
    if any(hasattr(function, "_torchdynamo_orig_callable") for function in functions):
        return False
    parts = [part for part in (task.model, task.loss) if isinstance(part, nn.Module)]
    return not any(
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or isinstance(module, torch.jit.ScriptModule)
        for part in parts
        for module in part.modules()
    )
