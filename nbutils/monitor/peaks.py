"""What NVIDIA's cards compute at most: the denominator of MFU.

Dense tensor-core throughput in 16-bit formats with 32-bit sums, as NVIDIA's data sheets
and white papers state it; where a sheet gives the rate with 2:4 sparsity, half of it.
A card that is not listed has no MFU: a guess would look like a measurement.
"""

from __future__ import annotations

import re

__all__ = ["peak_flops_per_s"]

# Longer names first: "H100 PCIe" before "H100".
_PEAK_TFLOPS: tuple[tuple[str, float, bool], ...] = (
    # Name, TFLOP/s, whether in bf16 too; behind it NVIDIA's data sheet that says so.
    (r"\bH200 NVL\b", 835.5, True),  # H200: 1671 with sparsity
    (r"\bH200\b", 989.5, True),  # H200: 1979 with sparsity
    (r"\bH100 PCIe\b", 756.5, True),  # H100: 1513 with sparsity
    (r"\bH100 NVL\b", 835.5, True),  # H100: 1671 with sparsity
    (r"\bH100\b", 989.5, True),  # H100: 1979 with sparsity
    (r"\bA100\b", 312.0, True),  # A100
    (r"\bA30\b", 165.0, True),  # A30
    (r"\bA10\b", 125.0, True),  # A10
    (r"\bA40\b", 149.7, True),  # A40
    (r"\bRTX A6000\b", 154.8, True),  # RTX A6000: 309.7 with sparsity
    (r"\bL40S\b", 362.05, True),  # L40S: 733 with sparsity, 362.05 without
    (r"\bL4\b", 121.0, True),  # L4: 242 with sparsity
    (r"\bRTX 4090\b", 165.2, True),  # Ada white paper, appendix A
    (r"\bRTX 3090\b", 71.0, True),  # GA102 white paper, appendix A
    (r"\bV100-SXM\w*\b", 125.0, False),  # V100
    (r"\bV100-PCIE\b", 112.0, False),  # V100
    (r"\bT4\b", 65.0, False),  # T4
)


def peak_flops_per_s(device_name: str, precision: str) -> float | None:
    """Floating-point operations per second at most; none if that is not known.

    Args:
        device_name: As ``torch.cuda.get_device_name`` gives it.
        precision: ``"bf16"`` or ``"fp16"``; in fp32 it depends on TF32, hence none.

    Example:
        >>> peak_flops_per_s("NVIDIA A100-SXM4-80GB", "bf16")
        312000000000000.0
    """
    if precision not in ("bf16", "fp16"):
        return None
    if re.search(r"\b(MIG|Laptop|Max-Q)\b", device_name):  # less than the whole card
        return None
    for pattern, tflops, has_bf16 in _PEAK_TFLOPS:
        if re.search(pattern, device_name):
            return tflops * 1e12 if has_bf16 or precision == "fp16" else None
    return None
