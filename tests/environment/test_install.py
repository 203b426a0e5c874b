"""What is missing is installed beside what is there; elsewhere nothing happens."""

import json
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from nbutils.environment import install
from nbutils.environment.install import complete, missing_requirements, pins
from nbutils.errors import EnvironmentProblem

LINES = [
    "torch>=2.6",
    "absent-core>=1.0",
    'absent-vision<3,>=2; extra == "vision"',
    'timm>=999; extra == "vision"',
    'absent-export; extra == "export"',
    'absent-vision>=2; extra == "all"',
    'absent-old; python_version < "3"',
]


@pytest.fixture
def on_colab(monkeypatch):
    """A Colab session that lacks two packages; what pip is told is recorded."""
    calls = []

    def pip(*arguments):
        constraints = arguments[arguments.index("-c") + 1]
        with open(constraints, encoding="utf-8") as file:
            calls.append((arguments[4:], file.read().splitlines()))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.delenv("NBUTILS_HEADLESS", raising=False)
    monkeypatch.setattr(install.metadata, "requires", lambda name: LINES)
    monkeypatch.setattr(install, "_pip", pip)
    return calls


def test_missing_requirements_are_those_of_core_and_extras_not_installed():
    assert missing_requirements(LINES, []) == ["absent-core>=1.0"]
    assert missing_requirements(LINES, ["vision", "export"]) == [
        "absent-core>=1.0",
        "absent-vision<3,>=2",
        "absent-export",
    ]


def test_missing_requirements_here_are_none():
    lines = install.metadata.requires("nbutils")
    assert missing_requirements(lines, ["vision", "export"]) == []


def test_pins_hold_everything_installed_once_but_nbutils():
    found = list(pins())
    names = [line.partition("==")[0].lower() for line in found]
    assert "torch" in names
    assert "nbutils" not in names
    assert len(names) == len(set(names))
    assert all(line.partition("==")[2] for line in found)


def test_complete_installs_beside_the_versions_that_are_there(on_colab, capsys):
    complete("vision")
    [(requirements, constraints)] = on_colab
    assert requirements == ("absent-core>=1.0", "absent-vision<3,>=2")
    assert f"torch=={install.metadata.version('torch')}" in constraints
    assert "installed: absent-core>=1.0, absent-vision<3,>=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [("NBUTILS_HEADLESS", "1"), ("NBUTILS_PLATFORM", "local")],
)
def test_complete_at_home_and_under_a_run_does_nothing(
    on_colab, monkeypatch, capsys, name, value
):
    monkeypatch.setenv(name, value)
    complete("vision")
    assert on_colab == []
    assert capsys.readouterr().out == ""


def test_complete_with_nothing_missing_is_silent(on_colab, monkeypatch, capsys):
    monkeypatch.setattr(install.metadata, "requires", lambda name: ["torch>=2.6"])
    complete("vision", "export")
    assert on_colab == []
    assert capsys.readouterr().out == ""


def test_complete_that_pip_refuses_says_what_and_how(on_colab, monkeypatch):
    text = "Looking\nERROR: ResolutionImpossible: for help visit\n"
    refused = SimpleNamespace(returncode=1, stderr=text)
    monkeypatch.setattr(install, "_pip", lambda *arguments: refused)
    with pytest.raises(EnvironmentProblem, match="ResolutionImpossible") as caught:
        complete("export")
    assert "pip install 'absent-core>=1.0' 'absent-export'" in str(caught.value)


def test_complete_in_a_stale_session_asks_for_one_restart(on_colab, monkeypatch):
    module = SimpleNamespace(__version__="0.0.1")
    monkeypatch.setitem(sys.modules, "timm", module)
    with pytest.raises(EnvironmentProblem) as caught:
        complete("vision")
    assert "timm 0.0.1 is loaded, but " in str(caught.value)
    assert "Runtime > Restart session, then Runtime > Run all" in str(caught.value)


def wheel(folder, name, version, requires=()):
    """A wheel of a package that is only its name."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"__version__ = {version!r}\n")
        file.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


CODE = """
import json, sys
from importlib import metadata
from nbutils.environment import install
lines = ["plain_base>=1", "plain_extra>=1; extra == 'vision'"]
install.metadata.requires = lambda name: lines
try:
    install.complete("vision")
except Exception as error:
    print(error)
found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
print(json.dumps({k: v for k, v in found.items() if k.startswith("plain")}))
"""


@pytest.mark.parametrize(
    ("needs", "extra"), [("plain_base>=1", "2.0"), ("plain_base>=2", None)]
)
def test_complete_real_pip_never_moves_what_is_there(tmp_path, needs, extra):
    house, site = tmp_path / "house", tmp_path / "site"
    house.mkdir()
    wheel(house, "plain_base", "1.0")
    wheel(house, "plain_base", "2.0")
    wheel(house, "plain_extra", "2.0", [needs])
    with zipfile.ZipFile(house / "plain_base-1.0-py3-none-any.whl") as file:
        file.extractall(site)
    environ = {
        **install.os.environ,
        "COLAB_RELEASE_TAG": "x",
        "PYTHONPATH": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(house),
        "PIP_TARGET": str(site),
    }
    environ.pop("NBUTILS_HEADLESS", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, found = done.stdout.strip().rpartition("\n")
    assert json.loads(found).get("plain_base") == "1.0", done.stdout
    assert json.loads(found).get("plain_extra") == extra, done.stdout
    assert ("pip could not install plain_extra>=1" in text) == (extra is None)
