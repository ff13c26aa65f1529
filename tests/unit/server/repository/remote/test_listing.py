"""What counts as a model in the listing of a store, where anybody may have written the names."""

from __future__ import annotations

import pytest

from polyhead_server.repository.remote.listing import parse_listing


def file(size=3, **facts):
    return {"type": "file", "size": size, **facts}


def paths(models):
    return {
        (name, version, path): file.path
        for name, model in models.items()
        for version, each in model.versions.items()
        for path, file in each.files.items()
    }


def test_a_listing_is_read_like_a_folder():
    listing = ["m/1/model.onnx", "m/1/SHA256SUMS", "m/10/model.onnx/model.onnx", "m/config.pbtxt"]
    models = parse_listing({path: file() for path in listing})
    assert paths(models) == {
        ("m", 1, "model.onnx"): "m/1/model.onnx",
        ("m", 1, "SHA256SUMS"): "m/1/SHA256SUMS",
        ("m", 10, "model.onnx/model.onnx"): "m/10/model.onnx/model.onnx",
    }
    assert models["m"].config.path == "m/config.pbtxt"


@pytest.mark.parametrize(
    "path",
    [
        "../1/model.onnx",
        "m/../model.onnx",
        "m/1/..",
        "m/1/../../../etc/passwd",
        "m/1/../x",
        "m/1/.hidden",
        "m/1/a/b/c",
        "m/1//model.onnx",
        "/m/1/model.onnx",
        "m/1/a\\..\\b",
        "m/1/a\0b",
        "m/1/a\nb",
        "m/1/c:d",
        "m/1/" + "x" * 256,
        "m/1",
        "m/1/",
        "m/01/model.onnx",
        "m/-1/model.onnx",
        "m/99999999999999999999/model.onnx",
        "m/one/model.onnx",
        ".git/1/model.onnx",
        "a b/1/model.onnx",
        "README.md",
        "",
    ],
)
def test_a_path_that_is_no_file_of_a_version_is_left_out(path):
    models = parse_listing({path: file(), "good/1/model.onnx": file()})
    assert list(paths(models)) == [("good", 1, "model.onnx")]


@pytest.mark.parametrize(
    "info",
    [
        {"type": "directory", "size": 0},
        {"type": "file", "size": None},
        {"type": "file", "size": -1},
        {"type": "file"},
        {"type": "other", "size": 3},
        file(islink=True),
    ],
)
def test_what_is_no_file_of_a_known_size_is_left_out(info):
    assert parse_listing({"m/1/model.onnx": info}) == {}


@pytest.mark.parametrize(
    "change", [{"size": 4}, {"ETag": "b"}, {"generation": "2"}, {"LastModified": "later"}]
)
def test_a_file_that_was_changed_has_another_state(change):
    key = next((key for key in change if key != "size"), "ETag")
    before = parse_listing({"m/1/x": file(**{key: "a"})})["m"].states(1)
    after = parse_listing({"m/1/x": file(**{key: "a"}) | change})["m"].states(1)
    assert before != after
    assert parse_listing({"m/1/x": file(**{key: "a"}, atime=7)})["m"].states(1) == before


def test_a_change_of_the_configuration_changes_the_state_of_each_version():
    listing = {"m/1/x": file(), "m/config.pbtxt": file(ETag="a")}
    before = parse_listing(listing)["m"].states(1)
    assert parse_listing(listing | {"m/config.pbtxt": file(ETag="b")})["m"].states(1) != before
