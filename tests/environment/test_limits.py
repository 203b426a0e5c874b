"""A container's share counts, not the host's."""

import os

import psutil
import pytest

from nbutils.environment import limits
from nbutils.environment.limits import (
    available_memory_bytes,
    host_cores,
    memory_limit_bytes,
    open_file_limit,
    swap,
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


def groups(monkeypatch, tmp_path, text):
    """Let this process be in the control groups that ``text`` lists."""
    own = tmp_path / "own"
    own.write_text(text)
    monkeypatch.setattr(limits, "OWN_GROUPS", own)
    limits._groups.cache_clear()
    return tmp_path / "cgroup"


@pytest.fixture(autouse=True)
def forget_groups():
    limits._groups.cache_clear()
    yield
    limits._groups.cache_clear()


def test_limits_of_every_group_around_the_process_count(monkeypatch, tmp_path):
    root = groups(monkeypatch, tmp_path, "0::/user.slice/job_7\n")
    write(root, user_slice__memory_dot_max="4096")  # another group: not around it
    (root / "user_slice").rename(root / "user.slice")
    write(root / "user.slice", memory_dot_max="4096", cpu_dot_max="300000 100000")
    write(root / "user.slice" / "job_7", memory_dot_max="2048", memory_dot_current="48")
    write(root / "user.slice" / "job_7", cpu_dot_max="100000 100000")
    assert memory_limit_bytes(root) == 2048
    assert available_memory_bytes(root) == 2000
    assert usable_cores(root) == 1


def test_limits_path_of_the_host_is_not_followed_in_a_container(monkeypatch, tmp_path):
    root = groups(monkeypatch, tmp_path, "4:memory,cpu:/docker/abc\n0::/docker/abc\n")
    write(root / "memory", memory_dot_limit_in_bytes="4096")
    assert memory_limit_bytes(root) == 4096


def test_memory_of_old_control_groups_is_limit_less_use(monkeypatch, tmp_path):
    root = groups(monkeypatch, tmp_path, "4:memory:/\n")
    write(
        root / "memory",
        memory_dot_limit_in_bytes="4096",
        memory_dot_usage_in_bytes="4000",
        memory_dot_stat="inactive_file 7\ntotal_inactive_file 904",
    )
    assert available_memory_bytes(root) == 1000
    write(root / "memory", memory_dot_limit_in_bytes=str(2**63 - 4096))
    assert available_memory_bytes(root) > 4096


def test_swap_open_files_and_host_are_measured():
    assert swap().total_bytes >= swap().used_bytes >= 0
    limit = open_file_limit()
    assert limit is None or limit >= 64
    assert host_cores() >= usable_cores() >= 1
