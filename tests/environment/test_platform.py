"""Detection is a function of variables, modules and files."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nbutils.environment.platform import current_platform, detect, is_interactive
from nbutils.errors import EnvironmentProblem


def ipython(*, allow_stdin=True, user_ns=None):
    """Modules of a kernel, as far as detection looks at them."""
    kernel = SimpleNamespace(_allow_stdin=allow_stdin)
    shell = SimpleNamespace(kernel=kernel, user_ns=user_ns or {})
    return {"IPython": SimpleNamespace(get_ipython=lambda: shell)}


def nothing(path):
    return False


@pytest.mark.parametrize(
    ("environ", "modules", "paths", "name"),
    [
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, {}, (), "kaggle"),
        ({}, {"google.colab": object()}, (), "colab"),
        ({"COLAB_RELEASE_TAG": "release"}, {}, (), "colab"),
        ({"RUNPOD_POD_ID": "abc"}, {}, (), "runpod"),
        ({"LIGHTNING_CLOUD_SPACE_ID": "abc"}, {}, (), "lightning"),
        ({}, {}, ("/teamspace/studios",), "lightning"),
        ({"SAGEMAKER_APP_TYPE": "JupyterLab"}, {}, (), "sagemaker"),
        ({}, {}, ("/opt/ml/metadata/resource-metadata.json",), "sagemaker"),
        ({"PAPERSPACE_NOTEBOOK_REPO_ID": "abc"}, {}, (), "paperspace"),
        ({}, ipython(user_ns={"__vsc_ipynb_file__": "a.ipynb"}), (), "vscode"),
        ({"JPY_SESSION_NAME": "a.ipynb"}, {}, (), "jupyter"),
        ({}, ipython(), (), "jupyter"),
        ({}, {}, ("/content",), "local"),
    ],
)
def test_detect_marks_give_the_platform(environ, modules, paths, name):
    found = detect(environ, modules, lambda path: path in paths)
    assert found.name == name
    assert found.reason


def test_detect_kaggle_on_colabs_image_is_kaggle():
    environ = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "COLAB_RELEASE_TAG": "x"}
    found = detect(environ, {"google.colab": object()}, nothing)
    assert found.name == "kaggle"


def test_detect_override_wins():
    environ = {"NBUTILS_PLATFORM": "Local", "RUNPOD_POD_ID": "abc"}
    assert detect(environ, {}, nothing).name == "local"


def test_detect_unknown_override_names_the_nearest():
    with pytest.raises(EnvironmentProblem, match="Did you mean 'runpod'"):
        detect({"NBUTILS_PLATFORM": "runpd"}, {}, nothing)


@pytest.mark.parametrize(
    ("mounted", "expected"), [(True, Path("/content/drive/MyDrive")), (False, None)]
)
def test_detect_colab_keeps_only_a_mounted_drive(mounted, expected):
    found = detect({"COLAB_RELEASE_TAG": "x"}, {}, lambda path: mounted)
    assert found.persistent_dir == expected
    assert found.scratch_dir == Path("/content")


@pytest.mark.parametrize(
    ("environ", "modules", "expected"),
    [
        ({}, ipython(), True),
        ({}, ipython(allow_stdin=False), False),
        ({}, {}, False),
        ({}, {"IPython": SimpleNamespace(get_ipython=lambda: None)}, False),
        ({"CI": "true"}, ipython(), False),
        ({"CI": "false"}, ipython(), True),
        ({"NBUTILS_HEADLESS": "1"}, ipython(), False),
        ({"NBUTILS_HEADLESS": "0"}, ipython(), True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, ipython(), False),
    ],
)
def test_is_interactive_only_where_somebody_can_answer(environ, modules, expected):
    assert is_interactive(environ, modules) is expected
    assert detect(environ, modules, nothing).is_headless is not expected


def test_current_platform_here_is_headless(monkeypatch):
    monkeypatch.setenv("NBUTILS_HEADLESS", "1")
    assert current_platform().is_headless
