"""URLs that cannot be read, and what is said of those that have credentials."""

from __future__ import annotations

import sys
import threading

import pytest

from polyhead_server.errors import StartupError
from polyhead_server.limits import FetchLimits
from polyhead_server.repository.remote.questions import Questions, StoreError, redacted
from polyhead_server.repository.remote.source import StoreSource
from polyhead_server.repository.remote.store import Store


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/models", "s3://bucket/models"),
        ("ftp://me:secret@host/models", "ftp://***@host/models"),
        ("ftp://me:sec@ret@host/models", "ftp://***@host/models"),
        ("https://host/models?sig=secret&x=1", "https://host/models?***"),
        ("zip::https://me:secret@host/a.zip", "zip::https://***@host/a.zip"),
        ("cannot reach 'https://me:secret@host/a?b=secret', sorry", None),
    ],
)
def test_messages_have_no_credentials(text, shown):
    assert "secret" not in redacted(text)
    assert shown in {None, redacted(text)}


def reads(url, tmp_path, **limits):
    return StoreSource(url, tmp_path, FetchLimits(**limits)).read_all()


def test_without_the_extra_the_error_has_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StartupError, match=r"s3://.*pip install 'polyhead\[remote\]'"):
        reads("s3://bucket/models", tmp_path)


def test_a_url_that_no_package_knows_is_refused(tmp_path):
    with pytest.raises(StartupError, match=r"--models nothing://x: cannot be opened: ValueError"):
        reads("nothing://x", tmp_path)


def test_a_store_that_cannot_be_listed_is_refused_without_its_credentials(store, tmp_path):
    store.list_error = PermissionError("no access to https://me:secret@host")
    with pytest.raises(StartupError, match="cannot be listed: PermissionError") as caught:
        reads(store.url, tmp_path)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_store_of_too_many_files_is_refused(store, tmp_path):
    store.write_version("m", 1, {f"f{number}": b"" for number in range(5)})
    with pytest.raises(StartupError, match="it has 6 files; at most 5 are taken"):
        reads(store.url, tmp_path, max_listed_files=5)


def test_a_model_that_is_not_there_has_no_versions(store, tmp_path):
    source = StoreSource(store.url, tmp_path, FetchLimits())
    assert source.read_model("absent").versions == {}
    store.list_error = ConnectionError("lost")
    with pytest.raises(OSError, match="the store cannot be listed"):
        source.read_model("absent")


def test_a_hanging_store_is_asked_a_few_times_at_most():
    questions, go = Questions(0.01), threading.Event()
    for _ in range(4):
        with pytest.raises(StoreError, match="not answered within"):
            questions.ask(go.wait)
    with pytest.raises(StoreError, match="not answered 4 questions"):
        questions.ask(go.wait)
    go.set()
    for thread in list(questions._unanswered):
        thread.join(10)
    assert questions.ask(go.wait) is True


def test_paths_are_those_below_the_url(store):
    store.write("sub/m/1/model.onnx", b"x")
    store.write("subterranean/m/2/model.onnx", b"x")
    assert list(Store(f"{store.url}/sub", 60).find()) == ["m/1/model.onnx"]
    assert list(Store(f"{store.url}/sub/", 60).find("m")) == ["m/1/model.onnx"]
