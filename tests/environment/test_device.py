"""Devices are resolved with a reason, or refused with a fix."""

import warnings

import pytest
import torch

from nbutils.environment import device as device_module
from nbutils.environment.device import capabilities, cuda_trouble, resolve_device
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
    ("flags", "bf16", "fp16"),
    [("fpu avx2", False, False), ("avx512_bf16 amx_bf16", True, False)],
)
def test_capabilities_cpu_formats_follow_the_flags(
    monkeypatch, tmp_path, flags, bf16, fp16
):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name\t: Zen\nflags\t\t: {flags}\n")
    monkeypatch.setattr(device_module, "CPU_INFO", info)
    found = capabilities(torch.device("cpu"))
    assert (found.name, found.bf16, found.fp16) == ("Zen", bf16, fp16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_capabilities_cuda_are_measured():
    found = capabilities(torch.device("cuda"))
    assert found.fp16
    assert found.memory_bytes > 2**30
