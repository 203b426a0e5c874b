"""The doctor's report on this machine and on a sick one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from nbutils.environment import doctor as doctor_function
from nbutils.environment.advice import Advice
from nbutils.environment.doctor import DoctorReport, doctor
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
    monkeypatch.setattr(module, "inspect_machine", lambda: broken)


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
        "packages",
    }
    assert all(isinstance(value, str) for value in report.facts.values())


def test_doctor_never_shows_a_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    report = doctor()
    assert "environment variable WANDB_API_KEY" in report.facts["secrets"]
    for view in (str(report), report._repr_html_(), report.to_json()):
        assert "0123456789abcdef" not in view


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
