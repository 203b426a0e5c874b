"""Part of R4: a convolution does not step over parts of what it is given."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe

__all__ = ["judge_skipped"]


def judge_skipped(probe: Probe, claims: Claims) -> None:
    """A stride longer than the kernel; 1 x 1 kernels thin out on purpose."""
    for name, module in probe.model.named_modules():
        if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
            continue
        if not _skips(module):
            continue
        claims.add(
            "warn",
            f"'{name}' steps over most of its input: its stride is longer than its "
            "kernel",
            expected="a stride of at most the kernel's length",
            actual=f"{type(module).__name__} with kernel_size={module.kernel_size}, "
            f"stride={module.stride}, dilation={module.dilation}",
            fix="Exchange the two if they were mixed up, or lengthen the kernel.",
        )
        return


def _skips(module: nn.Module) -> bool:
    sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)  # type: ignore[arg-type]
    return any(k > 1 and s > (k - 1) * d + 1 for k, s, d in sizes)
