"""Stale kernels, and torch beside torchvision."""

from types import SimpleNamespace

import pytest

from nbutils.environment import versions as versions_module
from nbutils.environment.versions import (
    explain_import_error,
    pairing_advice,
    stack_versions,
    stale_advice,
    torch_requirement,
    torchvision_fix,
    unsupported,
    version_numbers,
)

NMS = "operator torchvision::nms does not exist"


def test_stack_versions_lists_what_is_installed():
    found = stack_versions()
    assert found["torch"].startswith("2.")
    assert "pydantic" in found


def test_stale_upgraded_package_asks_for_a_restart():
    [advice] = stale_advice(
        {"numpy": SimpleNamespace(__version__="1.26.4")}, {"numpy": "2.4.6"}
    )
    assert advice.severity == "fail"
    assert "numpy 1.26.4 is loaded, but 2.4.6 is installed" in advice.what
    assert advice.fix == "Restart the kernel, then Run All again."


def test_stale_build_label_is_no_difference():
    modules = {"torch": SimpleNamespace(__version__="2.15.0+cu132")}
    assert stale_advice(modules, {"torch": "2.15.0"}) == []
    assert stale_advice({}, {"torch": "2.15.0"}) == []
    assert stale_advice(modules, {}) == []


@pytest.mark.parametrize(
    ("torch", "torchvision", "requires"),
    [
        ("2.13.0", "0.29.2", ">=2.14.0"),
        ("2.15.0", "0.28.0", "==2.13.0"),
        ("2.8.0+cpu", "0.23.0+cu128", "==2.8.0"),
    ],
)
def test_pairing_mismatch_is_a_failure_with_a_pip_line(torch, torchvision, requires):
    advice = pairing_advice(torch, torchvision, requires)
    assert advice is not None
    assert advice.severity == "fail"
    assert torchvision in advice.what
    assert advice.fix.startswith("pip install torchvision==0.")


@pytest.mark.parametrize(
    ("torch", "torchvision", "requires"),
    [
        ("2.15.0", "0.29.2", ">=2.14.0"),
        ("2.14.1", "0.29.0", "==2.14.0"),
        ("2.6.0+cu124", "0.21.0+cu124", "==2.6.0"),
        ("2.8.0+cpu", "0.23.0+cpu", "==2.8.0"),
        ("2.8.0", "0.23.0", ""),
        ("2.8.0", None, ""),
        (None, "0.23.0", "==2.8.0"),
    ],
)
def test_pairing_match_is_silent(torch, torchvision, requires):
    assert pairing_advice(torch, torchvision, requires) is None


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [
        ("2.6.0", "0.21.0"),
        ("2.7.1", "0.22.1"),
        ("2.8.0+cu128", "0.23.0"),
        ("2.9.1", "0.24.1"),
        ("2.10.0", "0.25.0"),
        ("2.11.0", "0.26.0"),
        ("2.12.1", "0.27.1"),
        ("2.13.0", "0.28.0"),
        ("2.14.1", "0.29.2"),
        ("2.15.0", "0.29.2"),
    ],
)
def test_torchvision_fix_names_the_match(torch, torchvision):
    expected = f"pip install torchvision=={torchvision}  # then restart the kernel"
    assert torchvision_fix(torch) == expected


def test_torchvision_fix_cpu_build_names_its_index():
    assert "--index-url https://download.pytorch.org/whl/cpu" in torchvision_fix(
        "2.8.0+cpu"
    )


@pytest.mark.parametrize("torch", ["3.0.0", "2.99.0", "2.5.1", ""])
def test_torchvision_fix_unknown_torch_upgrades_both(torch):
    assert torchvision_fix(torch).startswith("pip install --upgrade torch torchvision")


def test_explain_import_error_knows_the_missing_operator(monkeypatch):
    installed = {"torch": "2.13.0", "torchvision": "0.29.2"}
    monkeypatch.setattr(versions_module, "_installed", installed.get)
    advice = explain_import_error(RuntimeError(NMS))
    assert advice is not None
    assert advice.fix.startswith("pip install torchvision==0.28.0")


def test_explain_import_error_looks_at_causes():
    error = ImportError("cannot import timm")
    error.__cause__ = RuntimeError(NMS)
    assert explain_import_error(error) is not None


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'timm'"), RuntimeError("operator nms")]
)
def test_explain_import_error_leaves_others_alone(error):
    assert explain_import_error(error) is None


def test_torch_requirement_is_read_from_the_installed_torchvision(monkeypatch):
    pytest.importorskip("torchvision")
    assert torch_requirement()[0] in "=><"
    lines = ["numpy", "torch (==2.13.0)", "gdown ; extra == 'x'", "torchaudio>=2"]
    monkeypatch.setattr(versions_module.metadata, "requires", lambda name: lines)
    assert torch_requirement() == "==2.13.0"


def test_torch_requirement_without_torchvision_is_empty(monkeypatch):
    def absent(name):
        raise versions_module.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions_module.metadata, "requires", absent)
    assert torch_requirement() == ""


REQUIREMENTS = [
    "torch>=2.6",
    "ipywidgets<9,>=7.7; extra == 'notebook'",
    "wandb (>=0.28) ; extra == 'tracking'",
    "pyright[nodejs]>=1.1.400; extra == 'dev'",
    "types-PyYAML; extra == 'dev'",
    "wandb>=0.28; extra == 'all'",
]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"torch": "2.6.0+cpu", "ipywidgets": "7.7.1"}, []),
        ({"torch": "2.6", "ipywidgets": "8.1.9", "types-PyYAML": "1"}, []),
        ({"ipywidgets": "9.0.0"}, [("ipywidgets", "9.0.0", "<9,>=7.7")]),
        ({"ipywidgets": "7.6.5"}, [("ipywidgets", "7.6.5", "<9,>=7.7")]),
        ({"wandb": "0.19.11"}, [("wandb", "0.19.11", ">=0.28")]),
        ({"pyright": "1.1.300"}, [("pyright", "1.1.300", ">=1.1.400")]),
        ({"torch": "2.10.1"}, []),
    ],
)
def test_unsupported_is_what_lies_outside_of_its_range(versions, expected):
    assert unsupported(versions, REQUIREMENTS) == expected


def test_unsupported_here_is_nothing():
    requirements = versions_module.metadata.requires("nbutils")
    assert unsupported(stack_versions(), requirements) == []


def test_version_numbers_stop_at_the_first_word():
    assert version_numbers("2.15.0rc1") == (2, 15, 0)
    assert version_numbers("2.6.0+cu124") == (2, 6, 0)
    assert version_numbers("unknown") == ()


def test_stale_nbutils_itself_is_named():
    modules = {"nbutils": SimpleNamespace(__version__="0.1.0")}
    [advice] = stale_advice(modules, {"nbutils": "0.2.0"})
    assert advice.what == "nbutils 0.1.0 is loaded, but 0.2.0 is installed."
    assert "Run All again" in advice.fix
