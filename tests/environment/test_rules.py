"""Each rule turns on its seeded fault and stays silent on the healthy twin."""

from dataclasses import replace
from pathlib import Path

import pytest

from nbutils.environment.advice import Advice
from nbutils.environment.device import Capabilities
from nbutils.environment.machine import Machine
from nbutils.environment.platform import PLATFORMS, Platform
from nbutils.environment.rules import RULES, advise
from nbutils.environment.storage import Storage

GIB = 2**30


def platform(name="local", *, persistent_dir=Path("."), is_headless=False):
    return Platform(
        name=name,
        is_headless=is_headless,
        persistent_dir=persistent_dir,
        scratch_dir=Path(PLATFORMS[name][1]),
        reason="test",
    )


LAPTOP = Machine(
    python="3.11.7",
    system="Linux",
    platform=platform(),
    device="cpu",
    device_reason="auto: no GPU is available to torch",
    abilities=Capabilities(
        name="CPU",
        memory_bytes=16 * GIB,
        bf16=False,
        fp16=False,
        compile=True,
        num_cores=8,
        num_threads=8,
    ),
    cuda_trouble="",
    memory_bytes=16 * GIB,
    available_bytes=9 * GIB,
    storage=Storage(
        path=Path("/home/me"),
        free_bytes=80 * GIB,
        problem="",
        is_persistent=True,
        shm_bytes=8 * GIB,
    ),
    secrets={"WANDB_API_KEY": "", "HF_TOKEN": ""},
    versions={"torch": "2.15.0", "torchvision": "0.29.2", "ipywidgets": "8.1.9"},
    torch_requirement=">=2.14.0",
)
STALE = Advice("fail", "numpy 1 is loaded, but 2 is installed.", "why", "Restart.")


def with_storage(**changes):
    return replace(LAPTOP, storage=replace(LAPTOP.storage, **changes))


FAULTS = {
    "torch_rule: absent": (
        replace(LAPTOP, versions={"ipywidgets": "8"}, abilities=None, device=None),
        "fail",
        "torch is not installed",
        "pip install --upgrade torch",
    ),
    "torch_rule: old": (
        replace(LAPTOP, versions={"torch": "2.5.1", "ipywidgets": "8.1.9"}),
        "fail",
        "torch is 2.5.1; expected 2.6 or newer",
        "pip install --upgrade torch",
    ),
    "pairing_rule": (
        replace(
            LAPTOP,
            versions={**LAPTOP.versions, "torchvision": "0.28.0"},
            torch_requirement="==2.13.0",
        ),
        "fail",
        "torchvision 0.28.0 (it needs torch ==2.13.0) does not match torch 2.15.0",
        "pip install torchvision==0.29.2",
    ),
    "stale_rule": (
        replace(LAPTOP, stale=(STALE,)),
        "fail",
        "numpy 1 is loaded",
        "Restart.",
    ),
    "gpu_rule: unusable": (
        replace(LAPTOP, cuda_trouble="torch 2.15.0+cpu was built without CUDA"),
        "warn",
        "built without CUDA",
        "nvidia-smi",
    ),
    "gpu_rule: not chosen": (
        replace(LAPTOP, platform=platform("kaggle")),
        "info",
        "no GPU",
        "Accelerator",
    ),
    "threads_rule": (
        replace(LAPTOP, abilities=replace(LAPTOP.abilities, num_threads=64)),
        "warn",
        "64 threads on 8 cores",
        "torch.set_num_threads(8)",
    ),
    "memory_rule": (
        replace(LAPTOP, available_bytes=GIB // 2),
        "warn",
        "512 MiB of memory are free",
        "Shut down",
    ),
    "shm_rule": (
        with_storage(shm_bytes=64 * 2**20),
        "warn",
        "/dev/shm holds 64 MiB",
        "--shm-size",
    ),
    "disk_rule: read-only": (
        with_storage(problem="/home/me: Read-only file system"),
        "fail",
        "Read-only file system",
        "runs_dir",
    ),
    "disk_rule: little": (
        with_storage(free_bytes=2 * GIB),
        "warn",
        "2.0 GiB are free",
        "Delete old runs",
    ),
    "disk_rule: full": (
        with_storage(free_bytes=GIB // 8),
        "fail",
        "128 MiB are free",
        "Delete old runs",
    ),
    "persistence_rule: elsewhere": (
        replace(
            with_storage(is_persistent=False),
            platform=platform("runpod", persistent_dir=Path("/workspace")),
        ),
        "warn",
        "vanish when this runpod session ends",
        "/workspace/runs",
    ),
    "persistence_rule: drive": (
        replace(
            with_storage(is_persistent=False),
            device="cuda",
            platform=platform("colab", persistent_dir=None),
        ),
        "warn",
        "vanish when this colab session ends",
        "drive.mount",
    ),
    "persistence_rule: no volume": (
        replace(
            with_storage(is_persistent=False),
            platform=platform("runpod", persistent_dir=None),
        ),
        "warn",
        "vanish when this runpod session ends",
        "Attach a volume",
    ),
    "widgets_rule": (
        replace(LAPTOP, versions={"torch": "2.15.0"}),
        "info",
        "ipywidgets is not installed",
        "pip install",
    ),
    "secrets_rule": (
        replace(LAPTOP, secret_problems=("~/.netrc cannot be read; Correct it.",)),
        "warn",
        "~/.netrc cannot be read.",
        "Correct it.",
    ),
}


def test_advise_healthy_laptop_says_nothing():
    assert advise(LAPTOP) == []


def test_advise_headless_machine_without_widgets_says_nothing():
    machine = replace(
        LAPTOP, platform=platform(is_headless=True), versions={"torch": "2.6.0"}
    )
    assert advise(machine) == []


@pytest.mark.parametrize("name", FAULTS)
def test_advise_seeded_fault_gives_exactly_its_advice(name):
    machine, severity, what, fix = FAULTS[name]
    [advice] = advise(machine)
    assert advice.severity == severity
    assert what in advice.what
    assert fix in advice.fix
    assert advice.why


def test_advise_every_rule_has_a_seeded_fault():
    assert {rule.__name__ for rule in RULES} == {n.partition(":")[0] for n in FAULTS}


def test_advise_failures_come_first():
    machine = replace(
        with_storage(problem="full", shm_bytes=1), platform=platform("kaggle")
    )
    assert [a.severity for a in advise(machine)] == ["fail", "warn", "info"]
