"""`polyhead forward`: what it prints, draws and saves, and what it refuses."""

from __future__ import annotations

import io

import numpy as np
import pytest
from golden import GOLDEN

from polyhead import cli
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

TEXT = "Tom is at the river bank"


@pytest.fixture
def run(fake, capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder; return its exit status, stdout and stderr."""
    monkeypatch.setenv("POLYHEAD_SERVER", fake.target)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments, model="bert"):
        status = cli.main(["forward", *arguments, "--model", model])
        return status, *capsys.readouterr()

    return run_here


def test_which_token_looks_at_which(run, fake):
    status, text, _ = run(
        TEXT, "--layers", "2,0", "--heads", "1", "--queries", "river,7", "--top-k", "2"
    )
    assert status == 0
    lines = text.splitlines()
    assert lines[0].split("  ")[:4] == ["tokens: 0 [CLS]", "1 tom", "2 is", "3 at"]
    assert lines[2].split() == ["layer", "2", "TOKEN", "LOOKS", "AT"]
    assert lines[3].split()[:3] == ["head", "1", "bank"]  # indices come first
    assert lines[4].split()[:3] == ["head", "1", "##r"]
    assert len(lines[3].split(",")) == 2
    assert lines[6].split()[:2] == ["layer", "0"]
    assert "attn_weights.2  float32 (1, 1, 2, 2)" in text
    assert "layers run      encoder 0 to 2" in text
    first, second = fake.request.attn_weights
    assert (first.layer.layer, second.layer.layer) == (2, 0)
    assert [*first.query_words] == ["river"]


def test_means_of_all_layers(run):
    status, text, _ = run(TEXT, "--layers", "all", "--average-heads", "--queries", "bank")
    assert status == 0
    assert text.count("mean of heads  bank") == 3
    assert text.count(",") >= 3 * 4  # five keys are printed, though all are sent


def test_several_texts_and_files(run, tmp_path):
    status, text, _ = run(
        *(TEXT, "the bank", "--layers", "0,1", "--out", "out.npz", "--png", "grid.png"),
        *("--hidden-states", "0,3", "--no-output", "--sequence", "1"),
    )
    assert status == 0
    assert text.startswith("tokens: 0 [CLS]  1 the  2 bank  3 [SEP]\n")
    with np.load("out.npz") as saved:
        assert set(saved) == {
            *("attn_weights.0", "attn_weights.1", "queries.0", "queries.1", "hidden_states.0"),
            *("hidden_states.3", "lengths", "tokens", "token_ids"),
        }
        assert saved["attn_weights.1"].shape == (2, 2, 9, 9)
        assert saved["tokens"][1].tolist() == ["[CLS]", "the", "bank", "[SEP]", *[""] * 5]
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_heat_maps(run):
    status, text, _ = run("the bank", "--layers", "1", "--heads", "0", "--maps", "--png", "a.png")
    assert status == 0
    assert "layer 1, head 0" in text
    assert "LOOKS AT" not in text


def test_special_tokens_may_be_hidden(run, tmp_path):
    flags = ("--layers", "1", "--maps", "--hide-special")
    status, text, _ = run("the bank", *flags, "--scale", "head", "--png", "a.png")
    assert status == 0
    maps = text.partition("layer 1, head 0")[2]
    assert maps.split()[:2] == ["the", "bank"]
    assert "[CLS]" not in maps
    assert "special tokens are hidden; the weights are as they were" in maps
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    status, _, error = run("the bank", "--layers", "1", "--queries", "0", *flags[2:])
    assert status == 2
    assert "--hide-special: all queries of these weights are special tokens" in error


def test_texts_of_a_file_and_of_standard_input(run, fake, monkeypatch, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbfthe river\n\nthe b\xc3\xa4nk\r\n")
    assert run("--file", "texts.txt")[0] == 0
    assert [*fake.request.texts] == ["the river", "the bänk"]
    stdin = io.TextIOWrapper(io.BytesIO(b"from a pipe\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert run()[0] == 0
    assert [*fake.request.texts] == ["from a pipe"]


def test_encoder_decoders(run, fake):
    status, text, _ = run(
        "the bank", "a river", "--decoder-ids", "0,7", "--layers", "encoder:1,cross:2", model="t5"
    )
    assert status == 0
    assert fake.request.decoder_token_ids.shape == [2, 2]
    assert "encoder layer 1" in text
    assert "cross layer 2" in text
    assert "attn_weights.cross.2    float32 (2, 2, 2, 5)" in text
    assert "encoder 0 to 2, decoder 0 to 2" in text


def test_every_option_is_sent(run, fake):
    arguments = ("--last-layer", "1", "--truncate", "--output-dtype", "float16")
    assert run(TEXT, *arguments, "--model-version", "3", "--request-id", "me")[0] == 0
    request = fake.request
    assert (request.last_layer, request.truncate, request.output_dtype) == (1, True, 10)
    assert (request.model_version, request.request_id) == (3, "me")
    assert run(TEXT, "--layers", "0", "--stage", "scores")[0] == 0
    assert fake.request.attn_weights[0].selection.stage == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((TEXT, "--file", "a.txt"), 2, "as arguments and with --file"),
        (("--file", "no.txt"), 2, "cannot read no.txt"),
        (("--file", "empty.txt"), 2, "empty.txt has no text: expected one text a line"),
        (("--file", "bytes.txt"), 2, "bytes.txt is not text in UTF-8"),
        ((" ",), 2, "TEXT: is empty"),
        ((TEXT, "--queries", "bank"), 2, "attention weights need --layers"),
        ((TEXT, "--png", "a.png"), 2, "attention weights need --layers"),
        ((TEXT, "--out", "a.npy"), 2, "expected a name that ends in .npz"),
        ((TEXT, "--out", "no/a.npz"), 2, "there is no folder no"),
        ((TEXT, "--layers", "0", "--png", "a.jpg"), 2, "expected a name that ends in .png"),
        ((TEXT, "--sequence", "1"), 2, "--sequence is 1; there are 1 texts"),
        ((TEXT, "--layers", "0", "--heads", "1,1"), 2, "--heads: expected each index once"),
        ((TEXT, "--layers", "0", "--top-k", "0"), 2, "--top-k: expected a whole number"),
        ((TEXT, "--layers", "0", "--queries", "a,a"), 2, "--queries: expected each word once"),
        ((TEXT, "--layers", "all", "--top-k", "-1"), 2, "--top-k: expected a whole number"),
        ((TEXT, "--no-output"), 2, "--no-output leaves nothing to send: add --layers"),
        ((TEXT, "--hidden-states", "1,1"), 2, "--hidden-states: expected each layer once"),
        ((TEXT, "--last-layer", "-1"), 2, "--last-layer: layers are counted from 0"),
        ((TEXT, "--request-id", "fails"), 1, "internal error"),
    ],
)
def test_mistakes_are_refused_in_one_line(run, tmp_path, arguments, status, message):
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    got, _, error = run(*arguments)
    assert got == status
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("layers", ["3,", "a", "-1", ":3", "encoder:", "all,3"])
def test_layers_are_numbers_with_a_stack(run, layers, capsys):
    with pytest.raises(SystemExit):
        run(TEXT, f"--layers={layers}")
    assert "expected layers such as 3,5 or cross:3" in capsys.readouterr().err


def test_bench_measures_no_whole_models(fake, capsys):
    assert cli.main(["bench", "--model", "bert", "--server", fake.target, "--requests", "1"]) == 2
    assert "'bert' is a whole model, and bench measures attention blocks" in capsys.readouterr().err


def test_whole_models_that_are_served(tmp_path, capsys):
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "small", tmp_path)
    np.save(tmp_path / "query.npy", np.ones((1, 3, 64), np.float32))
    with running_server(tmp_path, threads=1) as server:
        assert cli.main(["models", "--server", server.target]) == 0
        [_, line] = capsys.readouterr().out.splitlines()
        query = [str(tmp_path / "query.npy"), "--model", "small", "--server", server.target]
        assert cli.main(["attend", *query, "--layer", "1", "--heads", "0"]) == 0
        assert "attn_weights  float32 (1, 1, 3, 3)" in capsys.readouterr().out
        assert cli.main(["attend", *query, "--layer", "2"]) == 2
        assert capsys.readouterr().err.startswith("polyhead: --layer: ")
        with pytest.raises(SystemExit):
            cli.main(["attend", *query, "--layer", "1,2"])
    assert line.split()[:4] == ["small", "1", "ready", "64"]
    assert "whole, 2 layers, takes token_ids, float32, bidirectional" in line
