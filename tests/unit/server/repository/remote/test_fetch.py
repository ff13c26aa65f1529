"""Versions are fetched whole and undamaged, or not at all, whatever the store does."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from types import SimpleNamespace

import pytest

from polyhead_server.errors import FetchError, ModelFileError, StartupError
from polyhead_server.limits import FetchLimits
from polyhead_server.repository.remote import cache as cache_module
from polyhead_server.repository.remote.source import StoreSource

WEIGHTS = bytes(range(256)) * 40
FILES = {"model.onnx": b"a graph", "model.onnx.data": WEIGHTS}
PATIENCE_S = 30


@pytest.fixture
def fetch(store, tmp_path):
    """Lists the store and fetches a version, as a server that has just started does."""

    def fetch(name="m", version=1, *, cache=tmp_path / "cache", **limits):
        limits = FetchLimits(**{"chunk_bytes": 1000, "lock_poll_s": 0.01, **limits})
        source = StoreSource(store.url, cache, limits)
        source.read_all()
        return asyncio.run(source.fetch(name, version))

    return fetch


def files_of(folder, version=1):
    return {path.name: path.read_bytes() for path in (folder / str(version)).iterdir()}


def test_a_version_is_fetched_once_and_later_taken_from_the_cache(store, fetch):
    store.write_version("m", 1, FILES)
    folder = fetch()
    assert folder.name == "m"
    found = files_of(folder)
    assert found.pop("SHA256SUMS")
    assert found == FILES
    assert store.num_reads("model.onnx.data") == 11  # in parts
    assert fetch() == folder
    assert store.num_reads("model.onnx.data") == 11


def test_only_listed_files_are_fetched(store, fetch):
    store.write_version("m", 1, FILES)
    store.write("m/1/notes.txt", b"not in the list")
    store.write("m/1/other/model.onnx", b"nor in one of its own")
    assert sorted(files_of(fetch())) == ["SHA256SUMS", "model.onnx", "model.onnx.data"]


def test_configuration_and_folders_of_graphs_are_fetched(store, fetch):
    store.write("m/config.pbtxt", b"max_batch_size: 4")
    store.write_version("m", "1/model.onnx", FILES)
    folder = fetch()
    assert (folder / "config.pbtxt").read_bytes() == b"max_batch_size: 4"
    assert (folder / "1/model.onnx/model.onnx.data").read_bytes() == WEIGHTS
    store.write("m/config.pbtxt", b"max_batch_size: 8")
    changed = fetch()
    assert (changed / "config.pbtxt").read_bytes() == b"max_batch_size: 8"
    assert (folder / "config.pbtxt").read_bytes() == b"max_batch_size: 4"


def test_a_version_that_changed_does_not_replace_the_files_of_before(store, fetch):
    store.write_version("m", 1, FILES)
    before = fetch()
    store.write_version("m", 1, FILES | {"model.onnx": b"another graph"})
    after = fetch()
    assert files_of(before)["model.onnx"] == b"a graph"
    assert files_of(after)["model.onnx"] == b"another graph"


# ---------------------------------------------------------------- what is wrong in the store


def test_a_version_without_checksums_is_refused_unless_allowed(store, fetch):
    store.write_version("m", 1, FILES, with_checksums=False)
    with pytest.raises(ModelFileError, match=r"no SHA256SUMS.*--allow-unverified-models"):
        fetch()
    folder = fetch(allows_unverified=True)
    assert files_of(folder)["model.onnx.data"] == WEIGHTS
    assert fetch(allows_unverified=True) == folder
    num_reads = store.num_reads("model.onnx")
    store.write("m/1/model.onnx", b"changed")
    assert files_of(fetch(allows_unverified=True))["model.onnx"] == b"changed"
    assert store.num_reads("model.onnx") == num_reads + 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x" * 200_000, "at most 65,536"),
        (b"0" * 64 + b"  ../../etc/passwd\n", "line 1"),
        (b"0" * 64 + b"  absent\n", "'absent' is missing"),
        (b"", "line 1"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_refuses_the_version(store, fetch, content, expected):
    store.write_version("m", 1, FILES, with_checksums=False)
    store.write("m/1/SHA256SUMS", content)
    with pytest.raises(ModelFileError, match=expected) as caught:
        fetch()
    assert not isinstance(caught.value, FetchError)  # another attempt would find the same


def test_too_many_files_are_refused(store, fetch):
    store.write_version("m", 1, {f"f{number}": b"" for number in range(5)})
    with pytest.raises(ModelFileError, match="more than 5 files"):
        fetch(max_files=5)


def test_bytes_that_differ_from_their_checksum_are_not_kept(store, fetch, tmp_path):
    store.write_version("m", 1, FILES)
    store.write("m/1/model.onnx.data", WEIGHTS[:-1] + b"!")
    with pytest.raises(ModelFileError, match=r"'model.onnx.data' differs from its checksum"):
        fetch()
    assert not list(tmp_path.glob("cache/complete/*"))
    assert not list(tmp_path.glob("cache/partial/*/m/1/model.onnx.data"))


def test_a_file_that_is_cut_off_or_changed_in_size_is_an_error_that_may_pass(store, fetch):
    store.write_version("m", 1, FILES)
    store.change = lambda path, start, content: content[:-1] if start == 3000 else content
    with pytest.raises(FetchError, match=r"was listed with 10,240 bytes, and 999 came"):
        fetch()


# ---------------------------------------------------------------- interrupted fetches


def fail_at(position):
    def change(path, start, content):
        if path.endswith(".data") and start == position:
            raise ConnectionResetError("connection to https://me:secret@host/?token=abc was reset")
        return content

    return change


def test_an_interrupted_fetch_goes_on_where_it_ended(store, fetch, caplog):
    store.write_version("m", 1, FILES)
    store.change = fail_at(5000)
    with pytest.raises(FetchError, match=r"cannot be fetched; the server's log says why"):
        fetch()
    assert "secret" not in caplog.text
    assert "abc" not in caplog.text
    (record,) = [each for each in caplog.records if each.getMessage() == "file not fetched"]
    assert "https://***@host/?*** was reset" in str(record.error)
    store.change, store.reads = type(store).change, []
    assert files_of(fetch())["model.onnx.data"] == WEIGHTS
    starts = [start for path, start, _ in store.reads if path.endswith(".data")]
    assert starts == [5000, 6000, 7000, 8000, 9000, 10000]


def test_what_is_left_of_a_damaged_attempt_is_fetched_anew(store, fetch, tmp_path):
    store.write_version("m", 1, FILES)
    store.change = fail_at(5000)
    with pytest.raises(FetchError):
        fetch()
    (partial,) = tmp_path.glob("cache/partial/*/m/1/model.onnx.data")
    partial.write_bytes(b"?" * 5000)
    store.change = type(store).change
    assert files_of(fetch())["model.onnx.data"] == WEIGHTS


def test_damage_in_the_cache_is_repaired(store, fetch):
    store.write_version("m", 1, FILES)
    folder = fetch()
    (folder / "1/model.onnx").write_bytes(b"a grapH")
    assert fetch() == folder
    assert files_of(folder)["model.onnx"] == b"a graph"
    (folder / "1/SHA256SUMS").write_bytes(b"")
    (folder / "1/model.onnx").unlink()
    assert files_of(fetch())["model.onnx"] == b"a graph"


def test_a_store_that_hangs_is_an_error_that_may_pass(store, fetch, caplog):
    store.write_version("m", 1, FILES)
    go = threading.Event()
    store.change = lambda path, start, content: go.wait(PATIENCE_S) and content
    with pytest.raises(FetchError, match="its 'SHA256SUMS' cannot be fetched"):
        fetch(answer_s=0.05)
    go.set()
    assert "not answered within 0.05 s" in str(caplog.records[-1].error)


def test_a_slow_store_is_given_up_in_time(store, fetch):
    store.write_version("m", 1, FILES)
    go = threading.Event()
    store.change = lambda path, start, content: go.wait(PATIENCE_S) and content
    with pytest.raises(FetchError, match=r"more than 0.2 s, the server's --fetch-timeout-s"):
        fetch(timeout_s=0.2)
    go.set()
    store.change = type(store).change
    assert files_of(fetch())["model.onnx.data"] == WEIGHTS  # it waits for the thread of before


# ---------------------------------------------------------------- the cache, shared and full


def test_servers_that_share_a_cache_fetch_each_version_once(store, fetch):
    store.write_version("m", 1, FILES)
    barrier, folders = threading.Barrier(4), []

    def one_server():
        barrier.wait(PATIENCE_S)
        folders.append(fetch())

    threads = [threading.Thread(target=one_server) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(folders) == 4
    assert len(set(folders)) == 1
    assert store.num_reads("model.onnx.data") == 11


def unused_since(folder, seconds_ago):
    entry = folder.parent
    used_at = entry.stat().st_mtime - seconds_ago
    os.utime(entry, (used_at, used_at))


def test_versions_that_were_not_used_for_longest_make_room(store, fetch):
    for version in (1, 2, 3):
        store.write_version("m", version, FILES | {"model.onnx": b"%d" % version})
    first, second = fetch(version=1), fetch(version=2)
    unused_since(first, 7200)
    unused_since(second, 3600)
    size = sum(map(len, files_of(first).values()))
    third = fetch(version=3, max_cache_bytes=2 * size)
    assert [first.exists(), second.exists(), third.exists()] == [False, True, True]


def test_what_a_fetch_left_long_ago_is_deleted(store, fetch, tmp_path):
    for version in (1, 2):
        store.write_version("m", version, FILES | {"model.onnx": b"%d" % version})
    store.change = fail_at(5000)
    with pytest.raises(FetchError):
        fetch(version=1)
    (left,) = tmp_path.glob("cache/partial/*")
    store.change = type(store).change
    fetch(version=2)
    assert left.exists()
    unused_since(left / "m", 90_000)
    store.write_version("m", 3, FILES | {"model.onnx": b"3"})
    fetch(version=3)
    assert not left.exists()


def test_versions_that_may_be_loaded_now_are_kept(store, fetch):
    for version in (1, 2):
        store.write_version("m", version, FILES | {"model.onnx": b"%d" % version})
    first = fetch(version=1)
    with pytest.raises(FetchError, match=r"other versions that are used.*--models-cache-bytes"):
        fetch(version=2, max_cache_bytes=11_000)
    with pytest.raises(FetchError, match=r"at most 100, its --models-cache-bytes"):
        fetch(version=2, max_cache_bytes=100)
    assert first.exists()
    assert store.num_reads("2/model.onnx") == 0


def test_a_full_disk_is_reported_before_and_while_fetching(store, fetch, tmp_path, monkeypatch):
    store.write_version("m", 1, FILES)
    little = SimpleNamespace(free=5000)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: little)
    with pytest.raises(FetchError, match="the server's disk has 5,000 left"):
        fetch()
    monkeypatch.undo()

    def flush(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_flush", flush)
    with pytest.raises(FetchError, match="--models-cache: No space left on device"):
        fetch()
    assert not list(tmp_path.glob("cache/*/*/m"))


def test_an_unwritable_cache_is_reported(store, fetch, tmp_path):
    store.write_version("m", 1, FILES)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match=r"--models-cache .*/file: cannot be made: File exists"):
        fetch(cache=tmp_path / "file")
    with pytest.raises(StartupError, match=r"--models-cache .*/file/x: cannot be made: Not a dir"):
        fetch(cache=tmp_path / "file/x")
