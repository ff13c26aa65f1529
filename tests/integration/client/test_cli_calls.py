"""Subcommands that call a server: their output, files and exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_server import NOT_SERVING

from polyhead import cli

QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def run(fake, capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder; return its exit status, stdout and stderr."""
    monkeypatch.setenv("POLYHEAD_SERVER", fake.target)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    np.save("query.npy", QUERY)

    def run_here(*arguments):
        status = cli.main(arguments)
        return status, *capsys.readouterr()

    return run_here


def test_models_as_table_and_json(run):
    status, text, _ = run("models")
    assert status == 0
    heading, first, second = (line.split() for line in text.splitlines())
    assert heading[:3] == ["NAME", "VERSION", "STATE"]
    assert first == ["a", "1", "unavailable", *"---"]  # its spec is not known
    assert second[0] == "b"
    assert [model["name"] for model in json.loads(run("models", "--json")[1])] == ["a", "b"]


def test_models_describe_their_mathematics(server, capsys):
    assert cli.main(["models", "--server", server.target]) == 0
    heading, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading[3:] == ["WIDTH", "HEADS", "ABOUT"]
    rows = {name: " ".join(cells) for name, _, _, *cells in lines}
    assert rows["plain"] == "16 4 x 4 float32, bidirectional; random seed 7"
    assert rows["grouped"].startswith("16 4/2 x 4 float32, bidirectional; random")
    assert rows["int8"].startswith("64 4 x 16 int8, causal; random")
    assert rows["window-causal"].startswith("16 2 x 8 float32, causal, sliding window 3; random")
    assert rows["sdpa"].startswith("16 4/2 x 4 float32, bidirectional, no projections; random")


def test_health_is_an_exit_status(run, fake, monkeypatch):
    assert run("health") == (0, "serving\n", "")
    fake.health = NOT_SERVING
    assert run("health") == (1, "not serving\n", "")
    monkeypatch.setenv("POLYHEAD_TOKEN", "a token")  # neither sent nor looked at
    assert run("health")[0] == 1
    status, _, error = run("health", "--server", "127.0.0.1:1", "--timeout", "5")
    assert status == 1
    assert "no server answers at 127.0.0.1:1" in error


def test_info_is_a_health_check(run, fake):
    status, text, _ = run("info")
    assert status == 0
    assert text.split()[:4] == ["state", "ready", "polyhead", "9"]
    fake.health = NOT_SERVING
    status, text, _ = run("info", "--json")
    assert status == 1
    assert json.loads(text)["is_ready"] is False


def test_attend_prints_a_summary(run):
    status, text, _ = run("attend", "query.npy", "--model", "echo")
    assert status == 0
    assert "float32 (2, 3, 4)" in text
    assert "attn_weights" not in text


def test_attend_saves_the_output(run):
    assert run("attend", "query.npy", "--model", "echo", "--out", "out.npy")[0] == 0
    np.testing.assert_array_equal(np.load("out.npy"), QUERY)


def test_attend_draws_and_saves_the_weights_selected(run, tmp_path):
    status, text, _ = run(
        *("attend", "query.npy", "--model", "echo", "--weights", "--heads", "4"),
        *("--queries", "2,0", "--tokens", "Tom will fish", "--out", "out.npz", "--png", "a.png"),
    )
    assert status == 0
    title, keys, first, second, *_ = (line.split() for line in text.splitlines())
    assert title == ["head", "4"]
    assert keys == ["Tom", "will", "fish"]
    assert first == ["fish", "0.33", "0.33", "0.33"]
    assert second[0] == "Tom"
    with np.load("out.npz") as saved:
        assert saved["attn_weights"].shape == (2, 1, 2, 3)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_attend_prints_the_top_keys_of_one_row_without_output(run, fake):
    np.save("positions.npy", [7, 8, 9])
    status, text, _ = run(
        *("attend", "query.npy", "--model", "echo", "--weights", "--queries", "2", "--top-k", "2"),
        *("--average-heads", "--no-output", "--tokens", "Tom will fish", "--out", "out.npz"),
        *("--positions", "positions.npy", "--png", "A.PNG"),
    )
    assert status == 0
    title, keys, row, *_ = (line.split() for line in text.splitlines())
    assert title == ["mean", "of", "all", "heads"]
    assert keys == ["Tom", "will"]
    assert row == ["fish", "0.67", "0.17"]
    assert "top_keys      int32 (2, 1, 1, 2)" in text
    assert "\noutput" not in text
    with np.load("out.npz") as saved:
        assert set(saved) == {"attn_weights", "top_keys"}
        assert saved["top_keys"][0, 0, 0].tolist() == [0, 1]
    assert list(fake.request.positions.shape) == [3]


def test_attend_prints_stages(run, fake):
    assert run("attend", "query.npy", "--model", "echo", "--stage", "masked")[0] == 0
    assert fake.request.attn_weights.stage == 3


def test_attend_asks_for_dtypes_and_names_its_request(run, fake):
    status, text, _ = run(
        *("attend", "query.npy", "--model", "echo", "--weights-dtype", "float16"),
        *("--request-id", "from a script"),
    )
    assert status == 0
    assert "attn_weights  float16 (2, 2, 3, 3)" in text
    assert fake.request.request_id == "from a script"


def test_attend_takes_heads(run):
    np.save("heads.npy", np.ones((1, 2, 3, 4), np.float32))
    status, text, _ = run("attend", "heads.npy", "--model", "echo", "--weights")
    assert status == 0
    assert "float32 (1, 2, 3, 4)" in text


def test_attend_with_png_alone_prints_no_map(run):
    status, text, _ = run("attend", "query.npy", "--model", "echo", "--png", "a.png")
    assert status == 0
    assert "head 0" not in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("no.npy",), 2, "cannot read no.npy"),
        (
            ("query.npy", "--out", "out.npy", "--weights"),
            2,
            "use .npz to save weights and vectors too",
        ),
        (("query.npy", "--png", "no/a.png"), 2, "there is no folder no"),
        (("query.npy", "--png", "folder.png"), 2, "cannot write"),
        (("query.npy", "--png", "a.jpg"), 2, "--png is a.jpg; expected a name that ends in .png"),
        (
            ("query.npy", "--no-output", "--out", "out.npy"),
            2,
            "use .npz to save weights and vectors too",
        ),
        (("query.npy", "--top-k", "0"), 2, "polyhead: --top-k: expected a whole number from 1"),
        (("query.npy", "--heads", "1,1"), 2, "polyhead: --heads: expected each index once"),
        (("query.npy", "--model-version", "0"), 2, "polyhead: --model-version: expected"),
        (("query.npy", "--request-id", "x" * 257), 2, "polyhead: --request-id: expected at most"),
        (("query.npy", "--positions", "no.npy"), 2, "cannot read no.npy"),
        (("query.npy", "--positions", "several.npz"), 2, "several.npz holds several arrays"),
        (("query.npy", "--positions", "query.npy"), 1, "positions: expected integers"),
        (("query.npy", "--tokens", "a"), 2, "expected 3 tokens"),
        (("query.npy", "--queries", "3"), 2, "polyhead: --queries: expected indices from 0"),
        (("query.npy", "--timeout", "0"), 2, "expected seconds above 0"),
        (("query.npy", "--server", "localhost"), 2, "expected host and port"),
    ],
)
def test_attend_refuses_in_one_line(run, tmp_path, arguments, status, message):
    (tmp_path / "folder.png").mkdir()
    np.savez("several.npz", a=QUERY)
    got, _, error = run("attend", *arguments, "--model", "echo")
    assert got == status
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", [("--out", "full.npy"), ("--out", "full.npz"), ("--png", "full.png")]
)
def test_attend_names_the_file_for_which_the_disk_is_too_full(run, tmp_path, arguments):
    (tmp_path / arguments[1]).symlink_to("/dev/full")
    status, _, error = run("attend", "query.npy", "--model", "echo", *arguments)
    assert status == 2
    assert error == f"polyhead: cannot write {arguments[1]}: No space left on device\n"


def test_indices_are_numbers(run):
    with pytest.raises(SystemExit) as caught:
        run("attend", "query.npy", "--model", "echo", "--heads", "first")
    assert caught.value.code == 2
