"""Each rule turns on its seeded fault and stays silent on the healthy twin."""

from dataclasses import replace
from pathlib import Path

import pytest

from nbutils.environment.advice import Advice
from nbutils.environment.device import Capabilities
from nbutils.environment.gpu import Gpu
from nbutils.environment.limits import Swap
from nbutils.environment.machine import Machine
from nbutils.environment.platform import PLATFORMS, Platform
from nbutils.environment.rules import RULES, advise
from nbutils.environment.rules.known_bad import KNOWN_BAD
from nbutils.environment.storage import Storage

GIB = 2**30
MIB = 2**20


def platform(name="local", *, persistent_dir=Path("."), is_headless=False, **more):
    return Platform(
        name=name,
        is_headless=is_headless,
        persistent_dir=persistent_dir,
        scratch_dir=Path(PLATFORMS[name][1]),
        reason="test",
        **more,
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
        shm_free_bytes=8 * GIB,
        filesystem="ext4",
        write_bytes_per_s=500e6,
        clock_skew_s=-0.004,
    ),
    secrets={"WANDB_API_KEY": "", "HF_TOKEN": ""},
    versions={"torch": "2.15.0", "torchvision": "0.29.2", "ipywidgets": "8.1.9"},
    torch_requirement=">=2.14.0",
    torch_cuda="13.2",
    swap=Swap(total_bytes=8 * GIB, used_bytes=GIB // 2),
    open_files=1024,
    host_cores=8,
)
SERVER = replace(
    LAPTOP,
    device="cuda",
    driver="580.65.06",
    gpu=Gpu(
        driver="580.65.06",
        total_bytes=80 * GIB,
        taken_bytes=GIB // 2,
        num_memory_errors=0,
        keeps_state="Enabled",
    ),
)
STALE = Advice("fail", "numpy 1 is loaded, but 2 is installed.", "why", "Restart.")


def with_storage(**changes):
    return replace(LAPTOP, storage=replace(LAPTOP.storage, **changes))


def with_versions(machine=LAPTOP, **versions):
    return replace(machine, versions={**LAPTOP.versions, **versions})


def without_vision(machine):
    versions = {k: v for k, v in machine.versions.items() if k != "torchvision"}
    return replace(machine, versions=versions)


def with_gpu(**changes):
    return replace(SERVER, gpu=replace(SERVER.gpu, **changes))


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
    "torch_rule: broken": (
        replace(
            LAPTOP,
            device=None,
            abilities=None,
            device_reason="importing torch fails: OSError: libcudnn.so.9: cannot open",
        ),
        "fail",
        "torch 2.15.0 is installed, but importing torch fails: OSError: libcudnn",
        "--force-reinstall torch==2.15.0",
    ),
    "trips_rule: torchvision": (
        replace(LAPTOP, broken_trips=(("torchvision", "RuntimeError: no nms"),)),
        "fail",
        "torchvision 0.29.2 does not run beside torch 2.15.0: RuntimeError: no nms.",
        "pip install torchvision==0.29.2",
    ),
    "trips_rule: numpy": (
        replace(
            with_versions(numpy="2.4.6"),
            broken_trips=(("numpy", "RuntimeError: Numpy is not available"),),
        ),
        "fail",
        "torch 2.15.0 and numpy 2.4.6 do not work together: RuntimeError: Numpy is",
        "pip install --force-reinstall --no-deps torch==2.15.0 numpy==2.4.6",
    ),
    "trips_rule: device": (
        replace(SERVER, broken_trips=(("device", "AcceleratorError: no kernel"),)),
        "fail",
        "A product on cuda failed: AcceleratorError: no kernel.",
        "device='cpu'",
    ),
    "range_rule": (
        replace(LAPTOP, unsupported=(("wandb", "0.19.1", ">=0.28"),)),
        "warn",
        "wandb 0.19.1 is installed; nbutils is tested with >=0.28.",
        'pip install "wandb>=0.28"',
    ),
    "edited_rule": (
        replace(LAPTOP, edited=("nbutils.a", "nbutils.b", "nbutils.c", "nbutils.d")),
        "warn",
        "nbutils.a, nbutils.b, nbutils.c and 1 more were changed on disk",
        "Restart the kernel, then Run All again",
    ),
    "known_bad_rule: pandas": (
        with_versions(numpy="2.1.0", pandas="2.1.4"),
        "fail",
        "pandas 2.1.4 is known to fail here",
        "pandas>=2.2.2",
    ),
    "known_bad_rule: scikit-learn": (
        with_versions(**{"numpy": "2.1.0", "scikit-learn": "1.3.2"}),
        "warn",
        "scikit-learn 1.3.2 is known to fail",
        "scikit-learn>=1.5",
    ),
    "known_bad_rule: torch": (
        without_vision(with_versions(SERVER, torch="2.9.1")),
        "info",
        "torch 2.9.1 is known to fail here (github.com/pytorch/pytorch/issues/166643)",
        "pip install --upgrade torch",
    ),
    "known_bad_rule: onnx": (
        with_versions(onnx="1.19.0", ml_dtypes="0.4.1"),
        "warn",
        "onnx 1.19.0 is known to fail here",
        "ml_dtypes>=0.5",
    ),
    "known_bad_rule: ipywidgets": (
        replace(SERVER, platform=platform("colab")),
        "warn",
        "ipywidgets 8.1.9 is known to fail here",
        "ipywidgets==7.7.1",
    ),
    "known_bad_rule: ipykernel": (
        with_versions(replace(LAPTOP, platform=platform("vscode")), ipykernel="7.4.0"),
        "info",
        "ipykernel 7.4.0 is known to fail here",
        "ipykernel<7",
    ),
    "known_bad_rule: bitsandbytes": (
        with_versions(bitsandbytes="0.49.2"),
        "info",
        "8-bit optimizers do not run here: bitsandbytes 0.49.2 has none for the CPU",
        "bitsandbytes>=0.50",
    ),
    "gpu_rule: old driver": (
        replace(
            LAPTOP,
            driver="535.104.05",
            cuda_trouble="The NVIDIA driver on your system is too old",
        ),
        "warn",
        "torch cannot use it: The NVIDIA driver on your system is too old",
        "--index-url https://download.pytorch.org/whl/cu126  # driver 535.104.05 runs "
        "CUDA 12",
    ),
    "taken_rule: by processes that are known": (
        with_gpu(taken_bytes=12 * GIB, others=("pid 4 python (12288 MiB)",)),
        "warn",
        "12.0 GiB of the GPU's 80.0 GiB are taken already: pid 4 python (12288 MiB)",
        "or: kill 4",
    ),
    "taken_rule: from another container": (
        with_gpu(taken_bytes=12 * GIB),
        "warn",
        "are taken already, by processes not seen here",
        "nvidia-smi",
    ),
    "memory_errors_rule": (
        with_gpu(num_memory_errors=3),
        "warn",
        "counted 3 uncorrected memory errors",
        "nvidia-smi --gpu-reset",
    ),
    "share_rule": (
        replace(LAPTOP, host_cores=64),
        "info",
        "may use 8 of the host's 64 cores",
        "num_workers=7",
    ),
    "swap_rule": (
        replace(
            LAPTOP,
            available_bytes=3 * GIB,
            swap=Swap(total_bytes=8 * GIB, used_bytes=2 * GIB),
        ),
        "warn",
        "2.0 GiB of memory lie in swap, and 3.0 GiB are free",
        "ps aux --sort=-rss",
    ),
    "shm_rule: full": (
        with_storage(shm_free_bytes=10 * MIB),
        "warn",
        "10 MiB of /dev/shm are free",
        "rm /dev/shm/torch_*",
    ),
    "open_files_rule": (
        replace(LAPTOP, open_files=256),
        "warn",
        "may hold 256 files open",
        "ulimit -n 4096",
    ),
    "clock_rule: future": (
        with_storage(future_file="/home/me/runs/night"),
        "warn",
        "/home/me/runs/night was written later than it is now",
        "date -u",
    ),
    "clock_rule: skew": (
        with_storage(clock_skew_s=-90.0),
        "warn",
        "The disk of /home/me is 90 s behind this machine's clock",
        "date -u",
    ),
    "speed_rule": (
        replace(
            with_storage(write_bytes_per_s=2 * MIB),
            platform=platform("colab", persistent_dir=Path("/home")),
            device="cuda",
            versions={"torch": "2.15.0", "ipywidgets": "7.7.1"},
        ),
        "warn",
        "takes 2.0 MiB a second",
        "runs_dir='/content/runs'",
    ),
    "persistence_rule: pod": (
        replace(
            LAPTOP,
            platform=platform(
                "runpod",
                persistent_dir=Path("/home"),
                variant="pod",
                lifetime="as long as this pod; terminating it deletes them",
            ),
        ),
        "info",
        "Files in /home/me live as long as this pod; terminating it deletes them.",
        "mirror=",
    ),
    "persistence_rule: no volume at the usual place": (
        replace(
            with_storage(is_persistent=False, filesystem="overlay"),
            platform=platform("runpod", persistent_dir=Path("/home")),
        ),
        "warn",
        "Files in /home/me vanish when this runpod session ends",
        "Attach a volume",
    ),
    "persistence_rule: enterprise": (
        replace(
            with_storage(is_persistent=False),
            device="cuda",
            platform=platform("colab-enterprise", persistent_dir=None),
            versions={"torch": "2.15.0", "ipywidgets": "7.7.1"},
        ),
        "warn",
        "vanish when this colab-enterprise session ends",
        "gs://",
    ),
    "persistence_rule: container": (
        with_storage(filesystem="overlay"),
        "info",
        "/home/me lies in a container's own layer",
        "mounted volume",
    ),
    "persistence_rule: memory": (
        with_storage(filesystem="tmpfs"),
        "info",
        "/home/me lies in memory",
        "runs_dir",
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
            versions={"torch": "2.15.0", "ipywidgets": "7.7.1"},
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


# What is just not a fault: the twin of the rule that its name begins with.
TWINS = {
    "laptop": LAPTOP,
    "server": SERVER,
    "known_bad_rule: fixed": with_versions(
        numpy="2.4.6",
        pandas="2.2.2",
        onnx="1.19.1",
        ml_dtypes="0.4.1",
        bitsandbytes="0.50.0",
        ipykernel="7.4.0",
    ),
    "known_bad_rule: old together": with_versions(numpy="1.26.4", pandas="2.1.4"),
    "known_bad_rule: torch on the CPU": without_vision(with_versions(torch="2.9.1")),
    "known_bad_rule: Colab's own": replace(
        SERVER,
        platform=platform("colab"),
        versions={"torch": "2.15.0", "ipywidgets": "7.7.1"},
    ),
    "range_rule: torch is told apart": replace(
        LAPTOP, unsupported=(("torch", "2.5.1", ">=2.6"),)
    ),
    "taken_rule: a desktop": with_gpu(taken_bytes=GIB - 1),
    "memory_errors_rule: not counted": with_gpu(num_memory_errors=None),
    "share_rule: one core kept back": replace(LAPTOP, host_cores=9),
    "swap_rule: much is free": replace(
        LAPTOP, swap=Swap(total_bytes=8 * GIB, used_bytes=7 * GIB)
    ),
    "open_files_rule: no limit": replace(LAPTOP, open_files=None),
    "clock_rule: a second": with_storage(clock_skew_s=1.0),
    "speed_rule: a network disk": with_storage(write_bytes_per_s=30 * MIB),
    "speed_rule: not measured": with_storage(write_bytes_per_s=None),
    "shm_rule: macOS": with_storage(shm_bytes=None, shm_free_bytes=None),
    "persistence_rule: network volume": replace(
        LAPTOP, platform=platform("runpod", persistent_dir=Path("/home"))
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_advise_healthy_twin_says_nothing(name):
    assert advise(TWINS[name]) == []


def test_advise_broken_pair_is_told_once():
    machine, *_ = FAULTS["pairing_rule"]
    machine = replace(machine, broken_trips=(("torchvision", "RuntimeError: nms"),))
    assert len(advise(machine)) == 1


def test_known_bad_versions_each_have_a_fault_a_source_and_a_command():
    told = {name.partition(": ")[2] for name in FAULTS if "known_bad" in name}
    assert {bad.package for bad in KNOWN_BAD} <= told
    assert all(bad.source and bad.fix.startswith("pip install") for bad in KNOWN_BAD)


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
    machine = with_versions(machine, ipywidgets="7.7.1")
    assert [a.severity for a in advise(machine)] == ["fail", "warn", "info"]
