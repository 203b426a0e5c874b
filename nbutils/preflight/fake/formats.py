"""The number format of a step, by the rules of the device that it is planned for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Format"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WIDENED = [
    "exp",
    "expm1",
    "log",
    "log10",
    "log1p",
    "log2",
    "logsumexp",
    "pow",
    "__pow__",
    "reciprocal",
    "rsqrt",
    "sinh",
    "cosh",
    "tan",
    "norm",
    "softplus",
    "softmax",
    "log_softmax",
    "layer_norm",
    "group_norm",
    "cumsum",
    "cumprod",
    "prod",
    "sum",
    "cosine_similarity",
    "cdist",
    "dist",
    "renorm",
    "nll_loss",
    "cross_entropy",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "multi_margin_loss",
    "margin_ranking_loss",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
]
"""Operations that autocast computes in fp32 on CUDA, and not all of them on a CPU."""


@dataclass(frozen=True)
class Format:
    """Autocast as a run has it.

    Where the rules are those of CUDA and there is no GPU, a CPU follows them: fakes
    that claim to be on CUDA would end the process there if an operation raised.

    Args:
        kind: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        rules: Whose rules hold, ``"cpu"`` or ``"cuda"``.
        device_type: Where the fakes claim to be.
        loss_fp32: Whether the loss is computed in fp32.
    """

    kind: str
    rules: str
    device_type: str
    loss_fp32: bool = True

    @property
    def widens_loss(self) -> bool:
        """Whether outputs are widened before the loss."""
        return self.loss_fp32 and self.kind != "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return self._context(is_on=True)

    def loss_context(self) -> AbstractContextManager[Any]:
        """The context of a loss."""
        return self._context(is_on=not self.widens_loss)

    def _context(self, *, is_on: bool) -> AbstractContextManager[Any]:
        dtype = DTYPES.get(self.kind)
        if dtype is None:
            return nullcontext()
        context = torch.autocast(self.device_type, dtype, enabled=is_on)
        is_played = is_on and self.rules == "cuda" and self.device_type != "cuda"
        return _both(context, _Widen()) if is_played else context


@contextmanager
def _both(
    first: AbstractContextManager[Any], second: AbstractContextManager[Any]
) -> Iterator[None]:
    with first, second:
        yield


class _Widen(TorchFunctionMode):
    """Casts half-precision arguments to fp32 where CUDA's autocast does."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _WIDENED:
            args = tuple(map(_widened, args))
            kwargs = {key: _widened(value) for key, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _widened(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in DTYPES.values()
    return value.float() if is_half else value


_WIDENED = {
    getattr(home, name)
    for home in (torch, Tensor, functional)
    for name in WIDENED
    if hasattr(home, name)
}
