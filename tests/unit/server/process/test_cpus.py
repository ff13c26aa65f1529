"""How many CPUs a process may use: its cgroup's share, at most those of the machine."""

from __future__ import annotations

import os

import pytest

from polyhead_server.process.resources.cpus import available_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def membership(tmp_path):
    """The kernel's file that lists the cgroups of this process."""
    path = tmp_path / "membership"
    path.write_text("4:cpu,cpuacct:/\n0::/\n")
    return path


def version_1(folder, quota, period):
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def version_2(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000\n", 8),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),  # a part of a CPU counts as one
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("50000 0\n", 8),  # no kernel writes this
        ("nonsense\n", 8),
        ("", 8),
    ],
)
def test_the_limit_of_cgroups_version_2(tmp_path, membership, text, count):
    version_2(tmp_path, text)
    assert available_cpus(tmp_path, membership) == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [(-1, 100000, 8), (250000, 100000, 3), (1000, 100000, 1), (100000, 0, 8), ("x", 1, 8)],
)
def test_the_limit_of_cgroups_version_1(tmp_path, membership, quota, period, count):
    version_1(tmp_path / "cpu", quota, period)
    assert available_cpus(tmp_path, membership) == count


def test_the_lowest_limit_counts(tmp_path, membership):
    version_1(tmp_path / "cpu", 400000, 100000)
    version_2(tmp_path, "300000 100000")
    assert available_cpus(tmp_path, membership) == 3


@pytest.mark.parametrize(
    ("own", "above", "count"),
    [
        ("300000 100000", "max 100000", 3),  # a systemd service's CPUQuota, on a host
        ("max 100000", "200000 100000", 2),  # its slice's
        ("300000 100000", "200000 100000", 2),
        ("max 100000", "max 100000", 8),
    ],
)
def test_the_lowest_limit_of_nested_groups_counts(tmp_path, membership, own, above, count):
    membership.write_text("0::/system.slice/polyhead.service\n")
    version_2(tmp_path / "system.slice", above)
    version_2(tmp_path / "system.slice" / "polyhead.service", own)
    version_2(tmp_path / "system.slice" / "other.service", "100000 100000")
    assert available_cpus(tmp_path, membership) == count


def test_the_lowest_limit_of_nested_groups_of_version_1_counts(tmp_path, membership):
    membership.write_text("7:cpuset:/elsewhere\n4:cpu,cpuacct:/outer/inner\n0::/unified\n")
    version_1(tmp_path / "cpu" / "outer" / "inner", 400000, 100000)
    version_1(tmp_path / "cpu" / "elsewhere", 100000, 100000)
    assert available_cpus(tmp_path, membership) == 4
    version_1(tmp_path / "cpu" / "unrelated", 100000, 100000)
    (tmp_path / "cpu" / "outer" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "outer" / "cpu.cfs_period_us").write_text("100000")
    assert available_cpus(tmp_path, membership) == 2


@pytest.mark.parametrize(
    "text", ["0::/docker/0123\n", "0::/../../elsewhere\n", "0::/a:b\n", "nonsense\n", "\n", ""]
)
def test_a_group_without_a_folder_counts_as_the_root(tmp_path, membership, text):
    """In a container the process's group is the root, and the kernel may name another path."""
    membership.write_text(text)
    version_2(tmp_path, "300000 100000")
    assert available_cpus(tmp_path, membership) == 3


def test_without_cgroups_the_affinity_counts(tmp_path):
    assert available_cpus(tmp_path / "absent", tmp_path / "absent") == 8


def test_without_affinities_the_number_of_cpus_counts(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path, tmp_path / "absent") == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path, tmp_path / "absent") == 1
