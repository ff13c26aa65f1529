"""The files that `polyhead attend` reads and writes, and how others are refused."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from polyhead.cli.calls.attend_files import check_out, read_array, read_input, save
from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import check_file, check_png, writing
from polyhead.errors import InvalidArgumentError
from polyhead.types import AttentionResult, Execution

QUERY = np.zeros((2, 3, 4), np.float32)
WORDS = np.array(["a", "b", "c"])


@pytest.fixture
def write(tmp_path):
    def write_npz(**arrays):
        path = str(tmp_path / "input.npz")
        np.savez(path, **arrays)
        return path

    return write_npz


def test_an_npy_file_is_the_query(tmp_path):
    path = str(tmp_path / "query.npy")
    np.save(path, QUERY)
    given = read_input(path)
    np.testing.assert_array_equal(given.query, QUERY)
    assert given.key is None
    assert given.tokens is None


def test_an_npz_file_holds_everything(write):
    given = read_input(
        write(query=QUERY, key=QUERY[:, :1], value=QUERY[:, :1], attn_mask=np.ones((3, 1), bool),
              kv_lengths=[1, 1], positions=[0, 1, 2], key_positions=[9], tokens=WORDS)
    )  # fmt: skip
    assert given.value.shape == (2, 1, 4)
    assert given.attn_mask.shape == (3, 1)
    assert given.kv_lengths.tolist() == [1, 1]
    assert given.positions.tolist() == [0, 1, 2]
    assert given.key_positions.tolist() == [9]
    assert given.tokens.tolist() == ["a", "b", "c"]


def test_four_axes_are_heads(write):
    given = read_input(write(query=np.zeros((2, 5, 3, 4)), tokens=WORDS))
    assert given.query.shape == (2, 5, 3, 4)
    assert given.words(None, 1) == ["a", "b", "c"]


def test_two_axes_are_one_sequence(write):
    given = read_input(write(query=QUERY[0], key=QUERY[0, :1], value=QUERY[0, :1]))
    assert given.query.shape == (1, 3, 4)
    assert given.key.shape == given.value.shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing; expected query"),
        ({"key": QUERY}, "holds key; expected query"),
        ({"query": QUERY, "attn_msk": QUERY}, "holds attn_msk, query; .* otherwise only attn_mask"),
        ({"query": QUERY[0, 0]}, r"it has shape \(4,\)"),
        ({"query": QUERY[None, None]}, r"expected query of shape .*\(1, 1, 2, 3, 4\)"),
        ({"query": QUERY, "tokens": WORDS[:2]}, r"tokens has shape \(2,\).* = \(3,\) or"),
        ({"query": QUERY, "tokens": [WORDS]}, r"tokens has shape \(1, 3\).* = \(2, 3\)"),
    ],
)
def test_invalid_files_are_refused(write, arrays, message):
    with pytest.raises(UsageError, match=message):
        read_input(write(**arrays))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no array",
        lambda data: data[: len(data) // 2],
        lambda data: data[:70] + b"\xff" * 9 + data[79:],
    ],
)
@pytest.mark.parametrize("name", ["input.npy", "input.npz"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez_compressed(path, query=np.random.default_rng(0).random((9, 9, 9)))
    else:
        np.save(path, QUERY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match="plain arrays, or damaged"):
        read_input(str(path))


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "query.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="plain arrays") as caught:
        read_input(str(path))
    assert "allow_pickle" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*no.npy: No such file"):
        read_input(str(tmp_path / "no.npy"))
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        read_input(str(tmp_path))


def test_words_come_from_the_option_or_the_file(write):
    assert read_input(write(query=QUERY)).words(None, 0) is None
    assert read_input(write(query=QUERY, tokens=WORDS)).words(None, 0) == ["a", "b", "c"]
    given = read_input(write(query=QUERY, tokens=[WORDS, ["x", "y", "z"]]))
    assert given.words(None, 1) == ["x", "y", "z"]
    assert given.words("p q r", 1) == ["p", "q", "r"]


@pytest.mark.parametrize("sequence", [-1, 2])
def test_a_missing_sequence_is_refused(write, sequence):
    with pytest.raises(UsageError, match=f"--sequence is {sequence}; the batch has 2"):
        read_input(write(query=QUERY)).words(None, sequence)


def test_the_number_of_words_must_match_the_query(write):
    with pytest.raises(UsageError, match=r"expected 3 tokens.*; got 2"):
        read_input(write(query=QUERY)).words("a b", 0)


def test_an_array_is_one_npy_file(tmp_path, write):
    path = tmp_path / "positions.npy"
    np.save(path, [1, 2])
    assert read_array(str(path)).tolist() == [1, 2]
    with pytest.raises(UsageError, match="holds several arrays"):
        read_array(write(query=QUERY))
    with pytest.raises(UsageError, match=r"cannot read .*no.npy: No such file"):
        read_array(str(tmp_path / "no.npy"))
    path.write_bytes(b"no array")
    with pytest.raises(UsageError, match="plain arrays, or damaged"):
        read_array(str(path))


def test_pictures_are_png(tmp_path):
    check_png("--png", str(tmp_path / "maps.png"))
    check_png("--png", str(tmp_path / "MAPS.PNG"))
    for name in ("maps.jpg", "maps", "maps.png.svg"):
        with pytest.raises(UsageError, match=f"--png is {name}; expected .* ends in .png"):
            check_png("--png", name)
    with pytest.raises(UsageError, match="there is no folder"):
        check_png("--png", str(tmp_path / "no" / "maps.png"))


def test_unsuitable_file_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.npy or \.npz"):
        check_out("result.txt", has_several=False)
    with pytest.raises(UsageError, match=r"use \.npz"):
        check_out("result.npy", has_several=True)
    with pytest.raises(UsageError, match="there is no folder"):
        check_out(str(tmp_path / "no" / "result.npz"), has_several=True)
    with pytest.raises(UsageError, match="there is no folder"):
        check_file(str(tmp_path / "no" / "maps.png"))
    with pytest.raises(UsageError, match="it is a folder"):
        check_file(str(tmp_path))
    check_out("result.npy", has_several=False)
    check_out(str(tmp_path / "result.npz"), has_several=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/other"), "Permission denied"),
        (OSError("8 requested and 0 written"), r"the disk may be full \(8 requested"),  # NumPy's
    ],
)
def test_files_that_cannot_be_written_are_named(error, reason):
    with pytest.raises(UsageError, match=f"^cannot write here.npy: {reason}"), writing("here.npy"):
        raise error


@pytest.mark.parametrize(
    "names",
    [("output",), ("output", "attn_weights"), ("attn_weights", "top_keys")],
)
def test_all_results_are_saved(tmp_path, names):
    execution = Execution(
        model="m", model_version=1, provider="p", kernel="fused", queue_ms=0, compute_ms=0,
        batch_size=1,
    )  # fmt: skip
    arrays = {"output": None, "attn_weights": None, "top_keys": None}
    arrays |= {name: np.full((2, 1, 3, 3), place) for place, name in enumerate(names)}
    result = AttentionResult(
        **arrays, q_seq_len=3, kv_seq_len=3, request_id="", execution=execution
    )
    path = tmp_path / "result.npz"
    save(str(path), result)
    with np.load(path) as saved:
        assert set(saved) == set(names)
        for name in names:
            np.testing.assert_array_equal(saved[name], arrays[name])


def test_a_text_in_place_of_a_file_is_refused_with_the_right_command():
    with pytest.raises(UsageError, match="polyhead forward takes texts"):
        read_input("Tom is going to fish")


def test_a_file_of_text_is_answered_with_what_takes_it(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Tom is going to fish")
    with pytest.raises(UsageError, match="polyhead forward takes texts"):
        read_input(str(path))


@pytest.mark.parametrize(
    ("array", "takes_it"),
    [
        (np.array(["Tom is going to fish"]), r"client\.forward\(text"),
        (np.arange(10), r"client\.forward\(token_ids"),
        (np.arange(10)[None], r"client\.forward\(token_ids"),
    ],
)
def test_arrays_of_texts_and_ids_are_answered_with_what_takes_them(array, takes_it, tmp_path):
    np.save(tmp_path / "query.npy", array)
    with pytest.raises(InvalidArgumentError, match=takes_it):
        read_input(str(tmp_path / "query.npy"))
