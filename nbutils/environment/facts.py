"""What was measured, in words."""

from __future__ import annotations

from collections.abc import Mapping

from nbutils.environment.device import Capabilities, eight_bit_trouble, worker_start
from nbutils.environment.machine import Machine

__all__ = ["ABILITIES", "PACKAGES", "facts_of"]

GIB = 2**30
PACKAGES = "packages"
VAULTS = ("colab", "kaggle")
ABILITIES = (
    "mixed precision",
    "torch.compile",
    "8-bit optimizers",
    "attention kernels",
    "loader workers",
)
"""Facts about what the device offers to a run."""


def facts_of(machine: Machine) -> dict[str, str]:
    """The measurements in words, in the order they are shown."""
    platform = machine.platform
    variant = f", {platform.variant}" if platform.variant else ""
    # Opening a vault may ask for consent: that is left to the part that needs the key.
    absent = "not outside the vault" if platform.name in VAULTS else "no"
    presence = [f"{name}: {where or absent}" for name, where in machine.secrets.items()]
    return {
        "platform": f"{platform.name}{variant} ({platform.reason})",
        "front end": "none; widgets stay off" if platform.is_headless else "yes",
        "python": f"{machine.python} on {machine.system}",
        "torch": _torch(machine),
        **_device_facts(machine),
        **_host_facts(machine),
        **_storage_facts(machine),
        "secrets": "; ".join(presence),
        **_ability_facts(machine),
        PACKAGES: ", ".join(f"{k} {v}" for k, v in machine.versions.items()),
    }


def _torch(machine: Machine) -> str:
    version = machine.versions.get("torch")
    if version is None:
        return "not installed"
    driver = f", driver {machine.driver}" if machine.driver else ""
    return f"{version} for CUDA {machine.torch_cuda or 'none'}{driver}"


def _device_facts(machine: Machine) -> dict[str, str]:
    """Device, its memory and its other users; only the reason without torch."""
    abilities, gpu = machine.abilities, machine.gpu
    if abilities is None:
        return {"device": f"none ({machine.device_reason})"}
    name = abilities.name
    if machine.device != "cpu":
        name += f", {_gib(abilities.memory_bytes)} {abilities.architecture}".rstrip()
    facts = {
        "device": f"{machine.device} ({machine.device_reason})",
        "processor": name,
    }
    if gpu is not None:
        facts["GPU memory"] = f"{_gib(gpu.taken_bytes)} taken by others"
        if gpu.num_memory_errors is not None:
            facts["GPU memory"] += f"; {gpu.num_memory_errors} memory errors"
        if gpu.keeps_state:
            facts["GPU driver"] = f"persistence mode {gpu.keeps_state.lower()}"
    return facts


def _host_facts(machine: Machine) -> dict[str, str]:
    swap = machine.swap
    facts: dict[str, str] = {}
    if abilities := machine.abilities:
        of_host = (
            f" of the host's {machine.host_cores}"
            if machine.host_cores > abilities.num_cores
            else ""
        )
        facts["threads"] = (
            f"{abilities.num_threads} for torch, "
            f"{abilities.num_cores} cores usable{of_host}"
        )
    facts["memory"] = (
        f"{_gib(machine.available_bytes)} free of {_gib(machine.memory_bytes)}; "
    ) + (
        f"swap {_gib(swap.used_bytes)} used of {_gib(swap.total_bytes)}"
        if swap.total_bytes
        else "no swap"
    )
    limit = machine.open_files
    facts["open files"] = "no limit" if limit is None else f"up to {limit}"
    return facts


def _storage_facts(machine: Machine) -> dict[str, str]:
    storage, platform = machine.storage, machine.platform
    speed = storage.write_bytes_per_s
    parts = [f"{_gib(storage.free_bytes)} free at {storage.path}", storage.filesystem]
    parts.append("" if speed is None else f"writes {speed / 2**20:.0f} MiB/s")
    kept = platform.persistent_dir
    lives = f" (files live {platform.lifetime})" if platform.lifetime else ""
    return {
        "disk": ", ".join(part for part in parts if part),
        "/dev/shm": "none" if storage.shm_bytes is None else _gib(storage.shm_bytes),
        "persistent folder": "none" if kept is None else f"{kept.resolve()}{lives}",
        "scratch folder": str(platform.scratch_dir.resolve()),
    }


def _ability_facts(machine: Machine) -> Mapping[str, str]:
    abilities = machine.abilities
    if abilities is None:
        return {}
    version = machine.versions.get("bitsandbytes")
    start = worker_start()
    told = {
        "fork": "fork: they find datasets that a cell defines",
        "forkserver": "forkserver: a dataset must come from a module, not from a cell",
        "spawn": "spawn: a dataset must come from a module, not from a cell",
    }
    trouble = eight_bit_trouble((machine.device or "").partition(":")[0], version)
    values = (
        _formats(abilities),
        "yes" if abilities.compile else "no compiler found",
        trouble or f"yes, bitsandbytes {version}",
        ", ".join(abilities.attention) or "not tried",
        told[start],
    )
    return dict(zip(ABILITIES, values, strict=True))


def _formats(abilities: Capabilities) -> str:
    """Number formats of mixed precision: native, emulated or none."""
    told = ["fp32"]
    for name in ("bf16", "fp16"):
        if getattr(abilities, name):
            told.append(f"{name} native")
        elif name in abilities.emulated:
            told.append(f"{name} emulated, slower than fp32")
        else:
            told.append(f"no {name}")
    return ", ".join(told)


def _gib(num_bytes: int) -> str:
    """Bytes in GiB."""
    return f"{num_bytes / GIB:.1f} GiB"
