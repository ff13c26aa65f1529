"""`polyhead demo --checkpoint`: what it prints of a whole model is what the model computes."""

from __future__ import annotations

import errno
import json
import re
import struct

import numpy as np
import pytest
from golden import GOLDEN
from minilm import MINILM, needs_minilm
from tiny_checkpoint import SPECIAL, tiny_checkpoint, words_of
from tokenizers import Tokenizer, normalizers
from whole import SegmentedModel

from polyhead.cli import main
from polyhead_models.checkpoint.checkpoint import load_checkpoint
from polyhead_models.reference.attention import attend
from polyhead_server.demo import checkpoint_story, served_checkpoint, story

SENTENCES = [
    story.FISHING,
    "Tom is going to deposit money at the bank.",
    "They sat by the water on the shore.",
    "She counted the money.",
]
WORDS = words_of(SENTENCES)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("POLYHEAD_SERVER", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_checkpoint(tmp_path, "bert", WORDS)


def tokens_of(checkpoint, sentence):
    encoding = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(sentence)
    return encoding.tokens, np.array([encoding.ids])


def states_of(checkpoint, tmp_path, sentence, word):
    """Hidden states of one word after each number of layers, computed without server and client."""
    tokens, ids = tokens_of(checkpoint, sentence)
    model = SegmentedModel.export(checkpoint, tmp_path / "reference")
    stack = next(stack for stack in model.config.stacks if stack.input == "token_ids")
    states = model.forward(stack, ids)[: len(stack.layers) + 1]
    return [state[0, tokens.index(word)] for state in states]


def show(checkpoint, capsys, *arguments):
    """Run the demo, and return what it prints."""
    assert main(["demo", "--checkpoint", str(checkpoint), *arguments]) == 0
    return capsys.readouterr().out


def table(out, heading):
    """The rows of numbers under the first line that starts with a heading, until an empty line."""
    lines = out[out.index(heading) :].split("\n\n")[0].splitlines()
    rows = [re.findall(r"-?\d+(?:\.\d+)?", line) for line in lines if re.match(r" +\d", line)]
    return np.array([[float(number) for number in row] for row in rows])


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_weights_equal_those_of_the_reference(checkpoint, tmp_path, capsys):
    out = show(checkpoint, capsys)
    assert "tiny-bert: 2 layers, 4 heads in each" in out
    assert "ran encoder layers 0 to 1: CPUExecutionProvider" in out
    tokens, ids = tokens_of(checkpoint, SENTENCES[0])
    model = SegmentedModel.export(checkpoint, tmp_path / "reference")
    states = model.forward(model.config.stacks[0], ids)
    shown = table(out, "layer   h0")
    assert shown[:, 0].tolist() == [0, 1]
    for layer in range(2):
        _, weights = attend(load_checkpoint(checkpoint, layer), states[layer])
        expected = weights[0, :, tokens.index("bank"), tokens.index("river")]
        np.testing.assert_allclose(shown[layer, 1:], expected, atol=0.0051)
    strongest = table(out, " layer  head")
    assert strongest[0, 2] == shown[:, 1:].max()
    assert (np.diff(strongest[:, 2]) <= 0).all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "clip"])
def test_cosines_equal_those_of_the_hidden_states(family, tmp_path, capsys):
    checkpoint = tiny_checkpoint(tmp_path, family, WORDS)
    shown = table(show(checkpoint, capsys), "layers in 1")
    words = ["bank", "bank", "shore", "money"]
    banks, others = np.split(
        np.array(
            [
                states_of(checkpoint, tmp_path, sentence, word)
                for sentence, word in zip(SENTENCES, words, strict=True)
            ]
        ),
        2,
    )
    expected = [
        [k, *(cosine(bank[k], other[k]) for other in others for bank in banks)]
        for k in range(len(shown))
    ]
    np.testing.assert_allclose(shown, expected, atol=0.0051)
    assert shown[0, 1] == shown[0, 2]  # before any layer bank is the same in both sentences


def test_the_layers_are_counted_while_they_are_exported(checkpoint, capsys):
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 0
    assert re.findall(r"\d of \d", capsys.readouterr().err) == ["1 of 2", "2 of 2"]


@pytest.mark.parametrize("columns", [50, 80, 100])
def test_lines_fit_the_terminal(columns, checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = show(checkpoint, capsys).split("What next?")[0]
    assert max(map(len, out.splitlines())) <= columns


def test_of_many_heads_the_strongest_are_shown(checkpoint, capsys, monkeypatch):
    whole = table(show(checkpoint, capsys), "layer   h0")[:, 1:]
    monkeypatch.setenv("COLUMNS", "20")  # room for two heads
    out = show(checkpoint, capsys)
    strongest = sorted(np.argsort(-whole.max(axis=0), kind="stable")[:2])
    heading = next(line for line in out.splitlines() if line.startswith("layer") and "h" in line)
    assert heading.split() == ["layer", *(f"h{head}" for head in strongest)]
    assert "2 of 4 heads" in " ".join(out.split())


def test_of_many_layers_some_are_shown(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint_story, "_MAX_ROWS", 1)
    whole = table(show(checkpoint, capsys), "layer   h0")
    strongest = table(show(checkpoint, capsys), " layer  head")[0, 0]
    assert whole[:, 0].tolist() == [strongest]
    monkeypatch.setattr(checkpoint_story, "_MAX_ROWS", 2)
    out = show(checkpoint, capsys)
    assert table(out, "layers in 1")[:, 0].tolist() == [0, 2]  # the first and the last


def test_pictures_of_all_layers_and_of_the_strongest_heads(checkpoint, tmp_path, capsys):
    out = show(checkpoint, capsys, "--png", str(tmp_path / "bank.png"))
    for name in ("bank.png", "bank-2.png"):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert min(struct.unpack(">II", data[16:24])) > 200
        assert f"wrote {tmp_path / name}\n" in out


def test_the_next_commands_name_the_checkpoint_and_the_strongest_head(checkpoint, capsys):
    out = show(checkpoint, capsys)
    commands = out.split("What next?\n")[1]
    assert f"polyhead export checkpoint {checkpoint} --name bank --out models\n" in commands
    layer, head = table(out, " layer  head")[0, :2].astype(int)
    assert f"--layers {layer} --heads {head} --queries bank" in commands


def test_another_sentence_is_followed(checkpoint, capsys):
    out = show(checkpoint, capsys, "--sentence", "The water at the RIVER Bank")
    assert "  1  The water at the RIVER Bank\n" in out
    assert "--queries Bank " in out  # polyhead forward finds words as they are spelled
    assert "Note" not in out


def test_words_that_the_tokenizer_cuts_are_named(tmp_path, capsys):
    pieces = [word for word in WORDS if word not in {"river", "shore"}]
    pieces += ["ri", "##ver", "sh", "##ore"]
    out = show(tiny_checkpoint(tmp_path, "gpt2", pieces), capsys)
    assert "Note: The tokenizer cuts river into ri ##ver; the last piece stands for it.\n" in out
    assert "Note: The tokenizer cuts shore into sh ##ore; the last piece stands for it.\n" in out
    assert out.count("Note: ") == 2


def test_the_weights_of_a_cut_words_pieces_are_added_up(tmp_path, capsys):
    pieces = [word for word in WORDS if word != "river"] + ["ri", "##ver"]
    checkpoint = tiny_checkpoint(tmp_path, "bert", pieces)
    shown = table(show(checkpoint, capsys), "layer   h0")
    tokens, ids = tokens_of(checkpoint, SENTENCES[0])
    model = SegmentedModel.export(checkpoint, tmp_path / "reference")
    state = model.forward(model.config.stacks[0], ids)[0]
    _, weights = attend(load_checkpoint(checkpoint, 0), state)
    rows = weights[0, :, tokens.index("bank")]
    expected = rows[:, tokens.index("ri")] + rows[:, tokens.index("##ver")]
    np.testing.assert_allclose(shown[0, 1:], expected, atol=0.0051)


def test_the_last_piece_of_a_cut_word_stands_for_it(tmp_path, capsys):
    pieces = [word for word in WORDS if word != "shore"] + ["sh", "##ore"]
    checkpoint = tiny_checkpoint(tmp_path, "gpt2", pieces)
    shown = table(show(checkpoint, capsys), "layers in 1")
    bank = states_of(checkpoint, tmp_path, SENTENCES[0], "bank")
    shore = states_of(checkpoint, tmp_path, SENTENCES[2], "##ore")
    np.testing.assert_allclose(shown[:, 1], list(map(cosine, bank, shore)), atol=0.0051)


def test_words_that_the_vocabulary_lacks_are_named(tmp_path, capsys):
    words = [*SPECIAL, "the", "bank", "river", "money"]
    out = show(tiny_checkpoint(tmp_path, "bert", words), capsys)
    assert "Note: The vocabulary lacks shore; [UNK] stands for it.\n" in out
    assert out.count("Note: ") == 1


def test_code_that_is_not_run_is_warned_of(checkpoint, capsys):
    change_config(checkpoint, auto_map={"AutoModel": "someone/own--modeling_own.OwnModel"})
    out = show(checkpoint, capsys)
    assert "Warning: " in out
    assert "modeling_own.OwnModel" in "".join(out.split())


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("Tom is at the bank.", "--sentence has no word 'river'"),
        ("The riverbank", "--sentence has no word 'bank'"),
        ("river bank " * 40, "--sentence: has 82 tokens, and the model takes 64; shorten it"),
    ],
)
def test_unsuitable_sentences_are_refused(checkpoint, sentence, message, capsys):
    assert main(["demo", "--checkpoint", str(checkpoint), "--sentence", sentence]) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert printed.out == ""


def test_a_checkpoint_without_tokenizer_is_refused_before_it_is_exported(checkpoint, capsys):
    (checkpoint / "tokenizer.json").unlink()
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint} has no tokenizer.json, and the demo sends sentences" in error
    assert "exported" not in error


def test_a_tokenizer_that_drops_the_words_is_refused(checkpoint, capsys):
    file = checkpoint / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.normalizer = normalizers.Replace("bank", "")
    tokenizer.save(str(file))
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    assert "its tokenizer makes no token of the word 'bank'" in capsys.readouterr().err


def test_a_broken_tokenizer_is_refused(checkpoint, capsys):
    (checkpoint / "tokenizer.json").write_text("{}")
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint} cannot be sent sentences: its tokenizer.json is not a tokenizer" in error
    assert "exported" not in error


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("gpt_oss", "layer by layer only"),
        ("vit", "vit takes no text"),
        ("whisper", "whisper takes no text"),
        ("nowhere", "nowhere is not a folder"),
    ],
)
def test_checkpoints_without_a_whole_model_of_text_are_refused(folder, message, capsys):
    assert main(["demo", "--checkpoint", str(GOLDEN / folder)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("polyhead: --checkpoint: ")
    assert message in error
    assert "Traceback" not in error


def test_another_family_is_refused(checkpoint, capsys):
    change_config(checkpoint, model_type="mamba")
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    assert "'mamba'" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_exported_is_refused(checkpoint, capsys):
    change_config(checkpoint, num_hidden_layers=5)
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    assert "polyhead: --checkpoint: " in capsys.readouterr().err


def test_another_server_is_refused(checkpoint, capsys):
    assert main(["demo", "--checkpoint", str(checkpoint), "--server", "localhost:1"]) == 2
    assert "leave out --server" in " ".join(capsys.readouterr().err.split())


def test_a_full_disk_under_the_exported_model_is_one_line(checkpoint, capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(served_checkpoint, "export_whole_model", fail)
    assert main(["demo", "--checkpoint", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("polyhead: cannot write ")
    assert error.endswith(": No space left on device\n")
    assert len(error.splitlines()) == 1


def change_config(checkpoint, **changes):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | changes))


@needs_minilm
def test_minilm_reads_the_river_and_the_money(capsys):
    out = show(MINILM, capsys)
    weights = table(out, "layer   h0")[:, 1:]
    assert weights.shape == (6, 12)
    assert (weights[0, 2], weights[0, 4], weights[2, 11]) == (1.0, 0.85, 0.78)
    (positional,) = [line for line in out.splitlines() if line.endswith("always one token back ")]
    assert positional.split()[:3] == ["0", "2", "1.00"]
    cosines = table(out, "layers in 1")[:, 1:]
    assert cosines[0].tolist() == [0.20, 0.20, 0.37, 0.37]
    assert cosines[2].tolist() == [0.42, 0.35, 0.44, 0.54]
    assert (cosines[1:, 0] > cosines[1:, 1] + 0.02).all()
    assert (cosines[1:, 3] > cosines[1:, 2] + 0.02).all()
    assert "sentence 1 has moved bank toward the water" in " ".join(out.split())
    assert "--layers 0 --heads 4 --queries bank" in out  # the strongest that is not positional
