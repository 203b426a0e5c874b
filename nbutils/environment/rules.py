"""From what was measured to advice: small rules, silent on a healthy machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nbutils.environment.advice import Advice
from nbutils.environment.machine import Machine
from nbutils.environment.versions import MIN_TORCH, pairing_advice

__all__ = ["RULES", "advise"]

GIB = 2**30
MIB = 2**20
DISK_FAIL_BYTES = GIB // 2
DISK_WARN_BYTES = 5 * GIB
MEMORY_WARN_BYTES = 2 * GIB
# Containers get 64 MiB unless told otherwise; a batch of images does not fit.
SHM_WARN_BYTES = 256 * MIB

Rule = Callable[[Machine], Iterator[Advice]]


def advise(machine: Machine) -> list[Advice]:
    """Advice on a machine, the most urgent first."""
    order = ("fail", "warn", "info")
    found = [advice for rule in RULES for advice in rule(machine)]
    return sorted(found, key=lambda advice: order.index(advice.severity))


def torch_rule(machine: Machine) -> Iterator[Advice]:
    """Torch is there, and not older than supported."""
    least = ".".join(map(str, MIN_TORCH))
    fix = "pip install --upgrade torch torchvision  # then restart the kernel"
    version = machine.versions.get("torch")
    if version is None:
        yield Advice("fail", "torch is not installed.", "Nothing can train.", fix)
    elif tuple(int(part) for part in version.split(".")[:2]) < MIN_TORCH:
        yield Advice(
            "fail",
            f"torch is {version}; expected {least} or newer.",
            "Functions that the engine calls are missing.",
            fix,
        )


def pairing_rule(machine: Machine) -> Iterator[Advice]:
    """Torch and torchvision were built for each other."""
    versions = machine.versions
    advice = pairing_advice(
        versions.get("torch"), versions.get("torchvision"), machine.torch_requirement
    )
    if advice is not None:
        yield advice


def stale_rule(machine: Machine) -> Iterator[Advice]:
    """The kernel runs what is installed."""
    yield from machine.stale


def gpu_rule(machine: Machine) -> Iterator[Advice]:
    """A GPU that is paid for is used."""
    if machine.cuda_trouble:
        yield Advice(
            "warn",
            f"An NVIDIA GPU is here, but torch cannot use it: {machine.cuda_trouble}.",
            "Training would run on the CPU, at a GPU's price.",
            "Run nvidia-smi for the driver's CUDA version, then install the torch "
            "that matches it: https://pytorch.org/get-started/locally/",
        )
    elif machine.device == "cpu" and machine.platform.name in {"colab", "kaggle"}:
        menu = {
            "colab": "Runtime > Change runtime type > GPU",
            "kaggle": "Settings > Accelerator",
        }
        yield Advice(
            "info",
            "This session has no GPU.",
            "Training runs on the CPU.",
            menu[machine.platform.name],
        )


def threads_rule(machine: Machine) -> Iterator[Advice]:
    """Torch starts no more threads than this process has cores."""
    abilities = machine.abilities
    if abilities is None or abilities.num_threads <= abilities.num_cores:
        return
    yield Advice(
        "warn",
        f"torch uses {abilities.num_threads} threads on {abilities.num_cores} cores.",
        "Threads without a core of their own wait for each other; steps get slower.",
        f"Set OMP_NUM_THREADS={abilities.num_cores} before the kernel starts, or call "
        f"torch.set_num_threads({abilities.num_cores}).",
    )


def memory_rule(machine: Machine) -> Iterator[Advice]:
    """Main memory is left for data and model."""
    if machine.available_bytes < MEMORY_WARN_BYTES:
        yield Advice(
            "warn",
            f"{_size(machine.available_bytes)} of memory are free; expected "
            f"{_size(MEMORY_WARN_BYTES)} or more.",
            "The system ends the kernel without a message when memory runs out.",
            "Shut down other kernels (Running > Shut Down All), then restart this one.",
        )


def shm_rule(machine: Machine) -> Iterator[Advice]:
    """Worker processes have shared memory to pass batches through."""
    shm = machine.storage.shm_bytes
    if shm is not None and shm < SHM_WARN_BYTES:
        yield Advice(
            "warn",
            f"/dev/shm holds {_size(shm)}.",
            "With num_workers > 0 a batch that does not fit ends in a bus error.",
            "Keep num_workers=0, or start the container with --shm-size=8g.",
        )


def disk_rule(machine: Machine) -> Iterator[Advice]:
    """Runs can be written, and there is room for them."""
    storage = machine.storage
    if storage.problem:
        yield Advice(
            "fail",
            f"Nothing can be written here: {storage.problem}.",
            "Checkpoints and reports could not be saved.",
            "Set runs_dir=... to a folder of your own.",
        )
    if storage.free_bytes < DISK_WARN_BYTES:
        is_full = storage.free_bytes < DISK_FAIL_BYTES
        yield Advice(
            "fail" if is_full else "warn",
            f"{_size(storage.free_bytes)} are free on the disk of {storage.path}.",
            "A checkpoint that does not fit stops the run.",
            "Delete old runs, or set runs_dir=... to a folder on a larger disk.",
        )


def persistence_rule(machine: Machine) -> Iterator[Advice]:
    """Runs outlive the session."""
    platform, storage = machine.platform, machine.storage
    if storage.is_persistent:
        return
    if platform.persistent_dir is not None:
        fix = f"Set runs_dir={str(platform.persistent_dir / 'runs')!r}."
    elif platform.name == "colab":
        fix = "from google.colab import drive; drive.mount('/content/drive')"
    else:
        fix = "Attach a volume, or set mirror=... to a folder that is kept."
    yield Advice(
        "warn",
        f"Files in {storage.path} vanish when this {platform.name} session ends.",
        "A disconnect would cost the whole run.",
        fix,
    )


def widgets_rule(machine: Machine) -> Iterator[Advice]:
    """A notebook that somebody looks at can show the wizard."""
    if not machine.platform.is_headless and "ipywidgets" not in machine.versions:
        yield Advice(
            "info",
            "ipywidgets is not installed.",
            "The wizard and the live panel show text instead.",
            'pip install "ipywidgets>=7.7,<9"  # then reload the page',
        )


def secrets_rule(machine: Machine) -> Iterator[Advice]:
    """Credential files can be read."""
    for problem in machine.secret_problems:
        what, _, fix = problem.partition("; ")
        yield Advice("warn", f"{what}.", "Tracking would stay offline.", fix)


RULES: tuple[Rule, ...] = (
    torch_rule,
    pairing_rule,
    stale_rule,
    gpu_rule,
    threads_rule,
    memory_rule,
    shm_rule,
    disk_rule,
    persistence_rule,
    widgets_rule,
    secrets_rule,
)


def _size(num_bytes: int) -> str:
    """Bytes as a reader's number."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.0f} MiB"
