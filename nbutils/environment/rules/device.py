"""Rules on the GPU: used, free, sound."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.gpu import newest_cuda_of, wheel_index_of
from nbutils.environment.machine import Machine
from nbutils.environment.rules.rule import GIB, Rule, size
from nbutils.environment.versions import version_numbers

__all__ = ["RULES"]

MENUS = {
    "colab": "Runtime > Change runtime type > GPU",
    "colab-enterprise": "Connect to a runtime template that has a GPU",
    "kaggle": "Settings > Accelerator",
}
TAKEN_WARN_BYTES = GIB


def gpu_rule(machine: Machine) -> Iterator[Advice]:
    """A GPU that is paid for is used."""
    if machine.cuda_trouble:
        yield Advice(
            "warn",
            f"An NVIDIA GPU is here, but torch cannot use it: {machine.cuda_trouble}.",
            "Training would run on the CPU, at a GPU's price.",
            _driver_fix(machine),
        )
    elif machine.device == "cpu" and machine.platform.name in MENUS:
        yield Advice(
            "info",
            "This session has no GPU.",
            "Training runs on the CPU.",
            MENUS[machine.platform.name],
        )


def _driver_fix(machine: Machine) -> str:
    """The pip line for this driver, if it is older than torch's CUDA, else where."""
    index = wheel_index_of(machine.driver)
    newest = newest_cuda_of(machine.driver)
    built = version_numbers(machine.torch_cuda)[:1]
    if index and newest is not None and built != (newest,):
        return (
            f"pip install --force-reinstall torch torchvision --index-url {index}"
            f"  # driver {machine.driver} runs CUDA {newest}; then restart the kernel"
        )
    return (
        "Run nvidia-smi for the driver's CUDA version, then install the torch "
        "that matches it: https://pytorch.org/get-started/locally/"
    )


def taken_rule(machine: Machine) -> Iterator[Advice]:
    """Nobody else holds the GPU's memory."""
    gpu = machine.gpu
    if gpu is None or gpu.taken_bytes < TAKEN_WARN_BYTES:
        return
    pids = [text.split()[1] for text in gpu.others]
    who = f": {'; '.join(gpu.others)}" if gpu.others else ", by processes not seen here"
    yield Advice(
        "warn",
        f"{size(gpu.taken_bytes)} of the GPU's {size(gpu.total_bytes)} are taken "
        f"already{who}.",
        "The run gets a smaller batch, or runs out of memory, and shares the GPU's "
        "time.",
        "Shut down other kernels (Running > Shut Down All)"
        + (f", or: kill {' '.join(pids)}" if pids else "; see: nvidia-smi"),
    )


def memory_errors_rule(machine: Machine) -> Iterator[Advice]:
    """The GPU's memory gives back what was written."""
    gpu = machine.gpu
    if gpu is not None and gpu.num_memory_errors:
        yield Advice(
            "warn",
            f"The GPU has counted {gpu.num_memory_errors} uncorrected memory errors.",
            "Results may be wrong, and processes die with an ECC error.",
            "Take another machine; on your own: nvidia-smi --gpu-reset, then look at "
            "nvidia-smi -q -d ECC",
        )


RULES: tuple[Rule, ...] = (gpu_rule, taken_rule, memory_errors_rule)
