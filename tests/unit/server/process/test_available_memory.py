"""The memory that the server may use, by its cgroups."""

from __future__ import annotations

import argparse

import pytest

from polyhead_server.process.resources.available_memory import available_memory, resident_bytes
from polyhead_server.settings import ServerSettings

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def membership(tmp_path):
    file = tmp_path / "cgroup"
    file.write_text("0::/a/b\n4:cpu,memory:/c\n")
    return file


@pytest.mark.parametrize("folder", ["", "a", "a/b", "memory/c"])
@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_the_smallest_limit_counts(tmp_path, membership, folder, name):
    (tmp_path / "memory" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    machine = available_memory(tmp_path, membership)
    assert machine > 64 * MIB
    (tmp_path / name).write_text("max\n")
    (tmp_path / folder / name).write_text(f"{64 * MIB}\n")
    assert available_memory(tmp_path, membership) == 64 * MIB


def test_a_process_uses_some_memory():
    assert 10 * MIB < resident_bytes() < available_memory()


@pytest.mark.parametrize(
    ("given", "memory", "expected"),
    [
        ([], 64 * GIB, (64 * GIB, 1 * GIB, 128 * MIB, 256 * MIB, 64 * MIB)),
        ([], 512 * MIB, (512 * MIB, 64 * MIB, 16 * MIB, 32 * MIB, 8 * MIB)),
        (["--workers", "2"], 1 * GIB, (512 * MIB, 64 * MIB, 16 * MIB, 32 * MIB, 8 * MIB)),
        (
            ["--max-queue-bytes", "1GiB"],
            512 * MIB,
            (512 * MIB, 1 * GIB, 16 * MIB, 32 * MIB, 8 * MIB),
        ),
        (
            ["--max-memory-bytes", "256MiB"],
            64 * GIB,
            (256 * MIB, 32 * MIB, 8 * MIB, 16 * MIB, 4 * MIB),
        ),
        ([], 16 * MIB, (16 * MIB, 2 * MIB, MIB, MIB, MIB)),
    ],
)
def test_limits_that_are_not_set_follow_the_memory(given, memory, expected):
    parser = argparse.ArgumentParser()
    ServerSettings.add_arguments(parser)
    settings = ServerSettings.from_arguments(parser.parse_args(given), {}, memory)
    assert expected == (
        settings.max_memory_bytes,
        settings.max_queue_bytes,
        settings.max_request_bytes,
        settings.max_response_bytes,
        settings.max_scores_bytes,
    )
