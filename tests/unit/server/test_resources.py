"""What a process may use: the cgroup's share, within the machine's."""

from __future__ import annotations

import os

import pytest

from polyhead_server.resources import available_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def version_1(folder, quota, period):
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000\n", 8),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),  # a share of a second one
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("50000 0\n", 8),  # what no kernel writes
        ("nonsense\n", 8),
        ("", 8),
    ],
)
def test_version_2(tmp_path, text, count):
    (tmp_path / "cpu.max").write_text(text)
    assert available_cpus(tmp_path) == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [(-1, 100000, 8), (250000, 100000, 3), (1000, 100000, 1), (100000, 0, 8), ("x", 1, 8)],
)
def test_version_1(tmp_path, quota, period, count):
    version_1(tmp_path, quota, period)
    assert available_cpus(tmp_path) == count


def test_version_2_wins(tmp_path):
    version_1(tmp_path, 100000, 100000)
    (tmp_path / "cpu.max").write_text("300000 100000")
    assert available_cpus(tmp_path) == 3


def test_no_cgroup(tmp_path):
    assert available_cpus(tmp_path / "absent") == 8


def test_no_affinity_on_this_system(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1
