"""A container's share counts, not the host's."""

import os

import psutil
import pytest

from nbutils.environment.limits import (
    available_memory_bytes,
    memory_limit_bytes,
    usable_cores,
)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


def test_usable_cores_without_quota_is_the_affinity(tmp_path):
    expected = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    assert usable_cores(tmp_path) == expected
    assert usable_cores(write(tmp_path, cpu_dot_max="max 100000")) == expected


@pytest.mark.parametrize("quota", ["100000 100000", "150000 100000", "50000 100000"])
def test_usable_cores_with_quota_is_rounded_down_to_at_least_one(tmp_path, quota):
    assert usable_cores(write(tmp_path, cpu_dot_max=quota)) == 1


def test_usable_cores_old_control_groups_are_read(tmp_path):
    files = {"cpu__cpu_dot_cfs_quota_us": "100000"}
    files["cpu__cpu_dot_cfs_period_us"] = "100000"
    assert usable_cores(write(tmp_path, **files)) == 1
    unlimited = write(tmp_path, cpu__cpu_dot_cfs_quota_us="-1")
    assert usable_cores(unlimited) >= 1


def test_memory_limit_is_the_smaller(tmp_path):
    assert memory_limit_bytes(tmp_path) == psutil.virtual_memory().total
    write(tmp_path, memory_dot_max="1048576")
    assert memory_limit_bytes(tmp_path) == 1048576
    write(tmp_path, memory_dot_max="max")
    assert memory_limit_bytes(tmp_path) == psutil.virtual_memory().total


def test_available_memory_counts_file_cache_as_free(tmp_path):
    write(tmp_path, memory_dot_max="1000", memory_dot_current="900")
    assert available_memory_bytes(tmp_path) == 100
    write(tmp_path, memory_dot_stat="anon 700\ninactive_file 200")
    assert available_memory_bytes(tmp_path) == 300


def test_available_memory_without_limit_is_the_machines(tmp_path):
    assert 0 < available_memory_bytes(tmp_path) <= psutil.virtual_memory().total
