"""The doctor's report on this machine and on a sick one."""

import builtins
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from nbutils.environment import disk
from nbutils.environment import doctor as doctor_function
from nbutils.environment.advice import Advice
from nbutils.environment.doctor import DoctorReport, doctor
from nbutils.environment.gpu import Gpu
from nbutils.environment.machine import inspect_machine
from nbutils.errors import EnvironmentProblem

FAIL = Advice("fail", "The disk <is> full.", "Nothing is saved.", "Delete old runs.")
WARN = Advice("warn", "64 threads.", "Slow.", "Use 8.")
FACTS = {"python": "3.11.7", "packages": "torch 2.15.0, numpy 2.4.6"}


@pytest.fixture
def sick(monkeypatch):
    """A machine whose disk refuses every write."""
    machine = inspect_machine()
    storage = replace(machine.storage, problem="/data: Read-only file system")
    broken = replace(machine, storage=storage)
    module = sys.modules[doctor.__module__]
    monkeypatch.setattr(module, "inspect_machine", lambda **_: broken)


def test_doctor_here_tells_every_fact():
    report = doctor()
    assert set(report.facts) >= {
        "platform",
        "python",
        "torch",
        "device",
        "threads",
        "memory",
        "disk",
        "/dev/shm",
        "persistent folder",
        "secrets",
        "open files",
        "scratch folder",
        "mixed precision",
        "torch.compile",
        "8-bit optimizers",
        "attention kernels",
        "loader workers",
        "packages",
    }
    assert all(isinstance(value, str) for value in report.facts.values())


def test_doctor_takes_less_than_three_seconds():
    start_s = time.perf_counter()
    doctor()
    assert time.perf_counter() - start_s < 3


def test_doctor_in_passing_does_not_write_to_measure(monkeypatch):
    def refuse(folder):
        raise AssertionError("the disk was tried")

    monkeypatch.setattr(disk, "_known", {})
    monkeypatch.setattr(disk, "_tried", refuse)
    assert "MiB/s" not in doctor(thorough=False).facts["disk"]
    monkeypatch.undo()
    assert "MiB/s" in doctor().facts["disk"]
    assert "MiB/s" in doctor(thorough=False).facts["disk"]  # known by now


def test_doctor_asks_nothing_and_reaches_nobody(monkeypatch):
    def refuse(*args, **more):
        raise AssertionError("the doctor asked")

    for place in ("builtins.input", "getpass.getpass", "socket.getaddrinfo"):
        monkeypatch.setattr(place, refuse)
    assert doctor().facts


def test_doctor_where_torch_cannot_be_imported_says_so(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **more):
        if name == "torch":
            raise OSError("libcudnn.so.9: cannot open shared object file")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    report = doctor()
    assert not report.ok
    assert "importing torch fails: OSError: libcudnn.so.9" in report.advice[0].what
    assert report.facts["device"].startswith("none (importing torch fails")
    assert "mixed precision" not in report.facts


def test_doctor_in_a_kernel_whose_nbutils_was_edited_asks_for_a_restart(monkeypatch):
    module = sys.modules[inspect_machine.__module__]
    monkeypatch.setattr(module, "edited_modules", lambda modules: ["nbutils.part"])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not any("nbutils.part" in advice.what for advice in doctor().advice)
    monkeypatch.setitem(sys.modules, "ipykernel", module)
    [advice] = [a for a in doctor().advice if "nbutils.part" in a.what]
    assert "Run All again" in advice.fix


def test_doctor_on_a_server_tells_gpu_and_abilities(monkeypatch):
    machine = inspect_machine()
    abilities = replace(
        machine.abilities,
        name="NVIDIA T4",
        memory_bytes=15 * 2**30,
        bf16=False,
        emulated=("bf16",),
        architecture="sm_75",
        attention=("memory-efficient", "math"),
    )
    gpu = Gpu(
        driver="550.54.15",
        total_bytes=15 * 2**30,
        taken_bytes=2**31,
        num_memory_errors=0,
        keeps_state="Disabled",
    )
    server = replace(
        machine, device="cuda", abilities=abilities, gpu=gpu, driver="550.54.15"
    )
    monkeypatch.setattr(
        sys.modules[doctor.__module__], "inspect_machine", lambda **_: server
    )
    facts = doctor().facts
    assert facts["processor"] == "NVIDIA T4, 15.0 GiB sm_75"
    assert (
        facts["mixed precision"] == "fp32, bf16 emulated, slower than fp32, fp16 native"
    )
    assert facts["GPU memory"] == "2.0 GiB taken by others; 0 memory errors"
    assert facts["GPU driver"] == "persistence mode disabled"
    assert facts["torch"].endswith("driver 550.54.15")
    assert facts["attention kernels"] == "memory-efficient, math"


def test_doctor_never_shows_a_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    report = doctor()
    assert "environment variable WANDB_API_KEY" in report.facts["secrets"]
    for view in (str(report), report._repr_html_(), report.to_json()):
        assert "0123456789abcdef" not in view


def test_doctor_opens_no_vault_and_says_so(monkeypatch):
    monkeypatch.setenv("NBUTILS_PLATFORM", "kaggle")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert "HF_TOKEN: not outside the vault" in doctor().facts["secrets"]


def test_doctor_broken_netrc_is_advice_not_a_crash(monkeypatch, tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai passwort\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert any("cannot be read" in advice.what for advice in doctor().advice)


def test_doctor_strict_on_a_sick_machine_raises_with_the_fix(sick):
    with pytest.raises(EnvironmentProblem, match=r"(?s)Read-only.*fix: Set runs_dir"):
        doctor(strict=True)


def test_doctor_lenient_on_a_sick_machine_reports(sick):
    report = doctor()
    assert not report.ok
    assert report.advice[0].severity == "fail"


def test_report_ok_only_failures_count():
    assert DoctorReport(FACTS, ()).ok
    assert DoctorReport(FACTS, (WARN,)).ok
    assert not DoctorReport(FACTS, (WARN, FAIL)).ok


def test_report_text_names_what_why_and_fix():
    text = str(DoctorReport(FACTS, (FAIL, WARN)))
    assert text.startswith("✗ fail  Doctor: 1 to mend first, 1 to look at")
    for part in (FAIL.what, FAIL.why, FAIL.fix, "torch 2.15.0"):
        assert part in text
    assert repr(DoctorReport(FACTS, (FAIL, WARN))) == text  # where HTML is not shown


def test_report_html_is_escaped_and_folds_packages():
    html = DoctorReport(FACTS, (FAIL,))._repr_html_()
    assert "The disk &lt;is&gt; full." in html
    assert "2 packages" in html.split("<details")[1]


def test_report_json_round_trips():
    report = DoctorReport(FACTS, (FAIL,))
    loaded = json.loads(report.to_json())
    assert loaded == report.to_dict()
    assert loaded["advice"][0]["fix"] == FAIL.fix
    assert loaded["ok"] is False


def test_environment_import_loads_neither_torch_nor_ipython():
    code = (
        "import sys, nbutils.environment as e; "
        "print(sorted({'torch', 'IPython', 'ipywidgets'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=sys.modules["nbutils"].__path__[0] + "/..",
    )
    assert run.stdout.strip() == "[]"
    assert doctor_function is doctor
