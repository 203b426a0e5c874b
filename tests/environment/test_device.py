"""Devices are resolved with a reason, or refused with a fix."""

import contextlib
import warnings

import pytest
import torch

from nbutils.environment import device as device_module
from nbutils.environment.device import (
    attention_kernels,
    capabilities,
    cuda_trouble,
    eight_bit_trouble,
    resolve_device,
    worker_start,
)
from nbutils.errors import EnvironmentProblem

without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a CUDA device"
)


def test_resolve_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto")[0] == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto")[0] == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found, reason = resolve_device("auto")
    assert found == torch.device("cpu")
    assert "no GPU" in reason


def test_resolve_unknown_name_is_refused():
    with pytest.raises(EnvironmentProblem, match="device is 'gpu'; expected auto"):
        resolve_device("gpu")


def test_resolve_known_but_unsupported_is_refused():
    with pytest.raises(EnvironmentProblem, match="only cpu, cuda and mps"):
        resolve_device("meta")


@without_cuda
def test_resolve_cuda_without_one_names_the_fix():
    with pytest.raises(EnvironmentProblem, match="device='auto'"):
        resolve_device("cuda")


def test_resolve_cuda_index_too_high_counts_the_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0")[0].index == 0
    with pytest.raises(EnvironmentProblem, match="there are 1 CUDA devices"):
        resolve_device("cuda:1")


def test_resolve_mps_without_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="no Apple GPU"):
        resolve_device("mps")


def test_cuda_trouble_with_driver_and_old_driver_quotes_torch(monkeypatch, tmp_path):
    def is_available():
        warnings.warn("The NVIDIA driver is too old.", UserWarning, stacklevel=1)
        return False

    driver = tmp_path / "version"
    driver.write_text("NVRM")
    monkeypatch.setattr(device_module, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert cuda_trouble() == "The NVIDIA driver is too old"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in cuda_trouble()


def test_cuda_trouble_without_driver_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(device_module, "NVIDIA_DRIVER", tmp_path / "absent")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_trouble() == ""


def test_capabilities_cpu_are_measured():
    found = capabilities(torch.device("cpu"))
    assert found.memory_bytes > 0
    assert found.num_threads == torch.get_num_threads()
    assert found.num_cores >= 1


@pytest.mark.parametrize(
    ("flags", "bf16", "fp16", "emulated"),
    [
        ("fpu avx2", False, False, ("bf16", "fp16")),
        ("avx512_bf16 amx_bf16", True, False, ("fp16",)),
        ("avx512_bf16 avx512_fp16", True, True, ()),
    ],
)
def test_capabilities_cpu_formats_follow_the_flags(
    monkeypatch, tmp_path, flags, bf16, fp16, emulated
):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name\t: Zen\nflags\t\t: {flags}\n")
    monkeypatch.setattr(device_module, "CPU_INFO", info)
    found = capabilities(torch.device("cpu"))
    assert (found.name, found.bf16, found.fp16) == ("Zen", bf16, fp16)
    assert found.emulated == emulated
    assert found.architecture == ""


@pytest.mark.parametrize(
    ("native", "emulates", "expected"),
    [(True, True, ()), (False, True, ("bf16",)), (False, False, ())],
)
def test_capabilities_cuda_tells_native_from_emulated(
    monkeypatch, native, emulates, expected
):
    def is_bf16_supported(including_emulation=True):
        return emulates if including_emulation else native

    properties = type("P", (), {"name": "T4", "total_memory": 16})()
    cuda = {
        "is_bf16_supported": is_bf16_supported,
        "get_device_properties": lambda device: properties,
        "get_device_capability": lambda device: (7, 5),
        "device": lambda device: contextlib.nullcontext(),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    found = capabilities(torch.device("cuda"))
    assert (found.bf16, found.fp16, found.emulated) == (native, True, expected)
    assert found.architecture == "sm_75"


def test_attention_kernels_are_those_that_run():
    found = attention_kernels(torch.device("cpu"))
    assert "math" in found
    assert "cudnn" not in found
    assert attention_kernels(torch.device("meta")) == ("the device's own",)


@pytest.mark.parametrize(
    ("device", "version", "trouble"),
    [
        ("cpu", "0.50.2", ""),
        ("cpu", "0.49.2", "has none for the CPU"),
        ("cuda", "0.45.5", ""),
        ("mps", "0.50.2", "none for Apple's GPU"),
        ("cuda", None, "is not installed"),
    ],
)
def test_eight_bit_trouble_follows_device_and_version(device, version, trouble):
    found = eight_bit_trouble(device, version)
    assert trouble in found
    assert bool(found) == bool(trouble)


def test_worker_start_is_the_systems_unless_chosen(monkeypatch):
    chosen = device_module.multiprocessing
    monkeypatch.setattr(chosen, "get_start_method", lambda allow_none: None)
    assert worker_start() == chosen.get_all_start_methods()[0]
    monkeypatch.setattr(chosen, "get_start_method", lambda allow_none: "spawn")
    assert worker_start() == "spawn"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_capabilities_cuda_are_measured():
    found = capabilities(torch.device("cuda"))
    assert found.fp16
    assert found.memory_bytes > 2**30
