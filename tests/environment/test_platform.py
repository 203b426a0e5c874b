"""Detection is a function of variables, modules and files."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nbutils.environment.platform import (
    PLATFORMS,
    RENTED,
    current_platform,
    detect,
    is_interactive,
)
from nbutils.errors import EnvironmentProblem

COLAB = {"google.colab": object()}
METADATA = "/opt/ml/metadata/resource-metadata.json"
INSTANCE = "/home/ec2-user/SageMaker"


def ipython(*, allow_stdin=True, user_ns=None):
    """Modules of a kernel, as far as detection looks at them."""
    kernel = SimpleNamespace(_allow_stdin=allow_stdin)
    shell = SimpleNamespace(kernel=kernel, user_ns=user_ns or {})
    return {"IPython": SimpleNamespace(get_ipython=lambda: shell)}


def nothing(path):
    return False


# Variables, modules and existing paths -> name, variant and persistent folder.
TABLE = [
    (
        {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
        {},
        ("/kaggle/working",),
        ("kaggle", "", "/kaggle/working"),
    ),
    ({}, {}, ("/kaggle/working",), ("kaggle", "", "/kaggle/working")),
    # Kaggle's image is built on Colab's.
    (
        {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_RELEASE_TAG": "x"},
        COLAB | ipython(),
        ("/kaggle/working", "/content"),
        ("kaggle", "", "/kaggle/working"),
    ),
    ({}, COLAB, ("/kaggle/working",), ("kaggle", "", "/kaggle/working")),
    ({}, COLAB, ("/content",), ("colab", "", None)),
    ({"COLAB_RELEASE_TAG": "release"}, ipython(), (), ("colab", "", None)),
    (
        {"COLAB_RELEASE_TAG": "release"},
        COLAB,
        ("/content/drive/MyDrive",),
        ("colab", "", "/content/drive/MyDrive"),
    ),
    # No Drive and no userdata there, whatever else looks like Colab.
    (
        {"VERTEX_PRODUCT": "COLAB_ENTERPRISE", "COLAB_RELEASE_TAG": "x"},
        COLAB | ipython(),
        ("/content", "/content/drive/MyDrive"),
        ("colab-enterprise", "", None),
    ),
    (
        {"VERTEX_PRODUCT": "WORKBENCH_INSTANCE"},
        ipython(),
        (),
        ("jupyter", "", "."),
    ),
    (
        {"RUNPOD_POD_ID": "abc"},
        ipython(),
        ("/workspace",),
        ("runpod", "pod", "/workspace"),
    ),
    ({"RUNPOD_POD_ID": "abc"}, {}, (), ("runpod", "pod", None)),
    (
        {"RUNPOD_POD_ID": "abc", "RUNPOD_VOLUME_ID": "v"},
        {},
        ("/workspace",),
        ("runpod", "network volume", "/workspace"),
    ),
    (
        {"RUNPOD_ENDPOINT_ID": "abc", "RUNPOD_POD_ID": "abc"},
        {},
        ("/runpod-volume",),
        ("runpod", "serverless", "/runpod-volume"),
    ),
    (
        {"LIGHTNING_CLOUD_SPACE_ID": "abc"},
        ipython(),
        ("/teamspace/studios/this_studio",),
        ("lightning", "", "/teamspace/studios/this_studio"),
    ),
    ({}, {}, ("/teamspace/studios",), ("lightning", "", None)),
    (
        {"SAGEMAKER_APP_TYPE": "JupyterLab"},
        ipython(),
        (METADATA, "/home/sagemaker-user"),
        ("sagemaker", "studio", "/home/sagemaker-user"),
    ),
    (
        {},
        ipython(),
        (METADATA, INSTANCE),
        ("sagemaker", "notebook instance", INSTANCE),
    ),
    (
        {"SM_TRAINING_ENV": "{}"},
        {},
        ("/opt/ml/checkpoints",),
        ("sagemaker", "training job", "/opt/ml/checkpoints"),
    ),
    (
        {"PAPERSPACE_NOTEBOOK_REPO_ID": "abc"},
        ipython(),
        ("/storage", "/notebooks"),
        ("paperspace", "", "/storage"),
    ),
    ({"PAPERSPACE_FQDN": "x"}, {}, ("/notebooks",), ("paperspace", "", "/notebooks")),
    ({}, ipython(user_ns={"__vsc_ipynb_file__": "a"}), (), ("vscode", "", ".")),
    ({"JPY_SESSION_NAME": "a.ipynb"}, {}, (), ("jupyter", "", ".")),
    ({}, ipython(), (), ("jupyter", "", ".")),
    ({}, ipython(allow_stdin=False), (), ("jupyter", "", ".")),
    # A folder of that name alone says nothing.
    ({}, {}, ("/content", "/workspace"), ("local", "", ".")),
]


@pytest.mark.parametrize(("environ", "modules", "paths", "expected"), TABLE)
def test_detect_marks_give_platform_variant_and_storage(
    environ, modules, paths, expected
):
    found = detect(environ, modules, lambda path: path in paths)
    kept = None if found.persistent_dir is None else str(found.persistent_dir)
    assert (found.name, found.variant, kept) == expected
    assert found.reason


def test_detect_table_knows_every_platform():
    assert {expected[0] for *_, expected in TABLE} == set(PLATFORMS)
    assert set(PLATFORMS) > RENTED
    assert "local" not in RENTED


@pytest.mark.parametrize(
    ("environ", "lifetime"),
    [
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "saved version"),
        ({"RUNPOD_POD_ID": "a"}, "terminating it deletes them"),
        ({"RUNPOD_POD_ID": "a", "RUNPOD_VOLUME_ID": "v"}, ""),
        ({"SM_TRAINING_ENV": "{}"}, "S3"),
        ({"LIGHTNING_CLOUD_SPACE_ID": "a"}, ""),
    ],
)
def test_detect_tells_how_long_files_live(environ, lifetime):
    found = detect(environ, {}, lambda path: True)
    assert lifetime in found.lifetime
    assert bool(found.lifetime) == bool(lifetime)


def test_detect_imports_nothing():
    class Modules(dict):
        def __missing__(self, name):
            raise AssertionError(f"asked for {name}")

    assert detect({}, Modules(), nothing).name == "local"


def test_detect_override_wins():
    environ = {"NBUTILS_PLATFORM": "Local", "RUNPOD_POD_ID": "abc"}
    assert detect(environ, {}, nothing).name == "local"


def test_detect_unknown_override_names_the_nearest():
    with pytest.raises(EnvironmentProblem, match="Did you mean 'runpod'"):
        detect({"NBUTILS_PLATFORM": "runpd"}, {}, nothing)


def test_detect_colab_scratch_is_its_own_disk():
    found = detect({"COLAB_RELEASE_TAG": "x"}, {}, nothing)
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
