"""What the driver prints is read, and an old driver is named."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from nbutils.environment import gpu as gpu_module
from nbutils.environment.gpu import (
    SMI_FIELDS,
    driver_version,
    inspect_gpu,
    newest_cuda_of,
    parse_smi,
    wheel_index_of,
)

HEAD = (
    "uuid, driver_version, memory.total [MiB], memory.used [MiB], persistence_mode, "
    "ecc.mode.current, ecc.errors.uncorrected.volatile.total"
)
H100 = "GPU-aa, 580.65.06, 81559 MiB, 4 MiB, Enabled, Enabled, 0"
OTHER = "GPU-bb, 580.65.06, 81559 MiB, 70000 MiB, Enabled, Enabled, 7"
T4 = "GPU-cc, 550.54.15, 15360 MiB, 2 MiB, Disabled, [N/A], [N/A]"


def test_parse_smi_takes_the_row_of_the_device():
    row = parse_smi("\n".join([HEAD, H100, OTHER]), "bb")
    assert row["memory.used"] == "70000 MiB"
    assert row["ecc.errors.uncorrected.volatile.total"] == "7"
    assert set(row) == set(SMI_FIELDS)


def test_parse_smi_what_is_not_there_is_empty():
    row = parse_smi(f"{HEAD}\n{T4}\n", "unknown")  # one row: it is ours
    assert row["driver_version"] == "550.54.15"
    assert row["ecc.errors.uncorrected.volatile.total"] == ""
    assert parse_smi(f"{HEAD}\n{H100}\n{OTHER}", "unknown") == {}
    assert parse_smi("No devices were found", "aa") == {}
    assert parse_smi("", "aa") == {}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n"
            "GCC version:  gcc version 12.2.0\n",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  R\n",
            "580.65.06",
        ),
        ("something else\n", ""),
    ],
)
def test_driver_version_is_read_from_the_module(tmp_path, text, version):
    path = tmp_path / "version"
    path.write_text(text)
    assert driver_version(path) == version
    assert driver_version(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("driver", "cuda", "wheels"),
    [
        ("580.65.06", 13, "cu130"),
        ("999.1", 13, "cu130"),
        ("579.99", 12, "cu126"),
        ("525.60.13", 12, "cu126"),
        ("470.57.02", 11, "cu118"),
        ("390.1", None, ""),
        ("", None, ""),
    ],
)
def test_newest_cuda_of_a_driver_has_wheels(driver, cuda, wheels):
    assert newest_cuda_of(driver) == cuda
    assert wheel_index_of(driver).rpartition("/")[2] == wheels


def fake_smi(monkeypatch, answers):
    """``nvidia-smi`` that prints ``answers`` by the first word of its query."""

    def run(command, **more):
        what = command[1].partition("=")[0].removeprefix("--query-")
        return SimpleNamespace(returncode=0, stdout=answers[what])

    monkeypatch.setattr(gpu_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gpu_module.subprocess, "run", run)


def test_inspect_gpu_counts_what_others_hold(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (60 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: 4 * gib)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid="aa")
    )
    apps = (
        "gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n"
        "GPU-aa, 41, /opt/conda/bin/python, with a comma, 15000 MiB\n"
        f"GPU-aa, {gpu_module.os.getpid()}, python, 4000 MiB\n"
        "GPU-bb, 42, python, 1 MiB\n"
    )
    fake_smi(monkeypatch, {"gpu": f"{HEAD}\n{H100}\n{OTHER}", "compute-apps": apps})
    found = inspect_gpu()
    assert found.driver == "580.65.06"
    assert found.taken_bytes == 16 * gib - gpu_module.CONTEXT_BYTES
    assert found.others == ("pid 41 python, with a comma (15000 MiB)",)
    assert (found.num_memory_errors, found.keeps_state) == (0, "Enabled")


@pytest.mark.parametrize(
    "error", [OSError("gone"), subprocess.TimeoutExpired("nvidia-smi", 2.0)]
)
def test_inspect_gpu_without_an_answer_tells_what_torch_knows(monkeypatch, error):
    def run(command, **more):
        raise error

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (8, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace()
    )
    monkeypatch.setattr(gpu_module.shutil, "which", lambda name: name)
    monkeypatch.setattr(gpu_module.subprocess, "run", run)
    found = inspect_gpu()
    assert (found.total_bytes, found.taken_bytes, found.others) == (80, 0, ())
    assert found.num_memory_errors is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inspect_gpu_here_is_measured():
    assert inspect_gpu().total_bytes > 2**30
