"""`polyhead demo` with a real server: what it prints is what the server computed."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import polyhead
from polyhead.cli import main
from polyhead.cli.command import UsageError
from polyhead_models.river_bank import TOWN_GROUP, WATER_GROUP
from polyhead_server.demo import replicas, story
from polyhead_server.demo.scene import attend_to, centroid, cosine
from polyhead_server.running import running_server


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("POLYHEAD_SERVER", "EXPECT_REPLICAS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


def numbers_after(text, label):
    """The decimals on the first line that starts with a label."""
    (line, *_) = [line for line in text.splitlines() if line.strip().startswith(label)]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


def png_size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_served_weights_make_bank_attend_to_river_and_fish(server):
    with polyhead.Client(server.target) as client:
        fishing = attend_to(client, story.FISHING)
        banking = attend_to(client, story.BANKING)
    bank = fishing.tokens.index("bank")
    (first, most), (second, next_most), (_, third), *_ = fishing.attended(0, bank)
    assert (first, second) == ("river", "fish")
    assert most + next_most > 0.8 > 0.1 > third
    assert [word for word, _ in banking.attended(0, banking.tokens.index("bank"))[:2]] == [
        "money",
        "deposit",
    ]


def test_served_output_moves_bank_one_way_or_the_other(server):
    water, town = centroid(WATER_GROUP), centroid(TOWN_GROUP)
    with polyhead.Client(server.target) as client:
        for sentence, near, far in (
            (story.FISHING, water, town),
            (story.BANKING, town, water),
        ):
            scene = attend_to(client, sentence)
            bank = scene.tokens.index("bank")
            before, after = scene.before[bank], scene.after[bank]
            assert cosine(after, near) > 0.75
            assert cosine(after, near) > cosine(before, near) + 0.1
            assert cosine(after, far) < cosine(before, far) - 0.4


def test_weights_of_a_repeated_word_are_added_up(server):
    with polyhead.Client(server.target) as client:
        scene = attend_to(client, "the bank of the river by the bank")
    bank = scene.tokens.index("bank")
    ranked = scene.attended(1, bank)
    assert sorted(word for word, _ in ranked) == ["by", "of", "river", "the"]
    to_banks = scene.attn_weights[1, bank, [token == "bank" for token in scene.tokens]].sum()
    assert sum(weight for _, weight in ranked) == pytest.approx(1.0 - to_banks, abs=1e-6)


def test_the_story_shows_what_the_server_computed(capsys):
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b[" not in out  # a pipe, not a terminal
    assert numbers_after(out, "River") == [-0.9, 0.9, -0.2, 0.4, 0.2, 0.6]
    fishing, banking = re.split(re.escape(story.BANKING), out)
    assert "CPUExecutionProvider" in fishing
    assert "Head 0: meaning" in fishing
    assert "Head 1: verb and noun" in fishing
    river, fish = (
        max(numbers_after(fishing.split("Whom bank attends to")[1], word))
        for word in ("river", "fish")
    )
    assert river > 0.4
    assert fish > 0.3
    for part, toward, away in ((fishing, "water (", "town ("), (banking, "town (", "water (")):
        moved = part.split("Cosines to the two groups")[1]
        before, after = numbers_after(moved, toward)
        assert after > before + 0.15
        before, after = numbers_after(moved, away)
        assert after < before - 0.4
    assert "moved bank toward the water" in fishing
    assert "moved bank toward the town" in banking


def test_another_sentence(capsys):
    assert main(["demo", "--sentence", "A BANK gave Tom a loan."]) == 0
    assert "The sentence moved bank toward the town." in capsys.readouterr().out


def test_a_sentence_without_context_is_called_undecided(capsys):
    assert main(["demo", "--sentence", "Tom is at the bank"]) == 0
    assert "The sentence leaves bank undecided." in capsys.readouterr().out


def test_unknown_words_are_named_with_the_known_ones(capsys):
    assert main(["demo", "--sentence", "Tom [bold] dances at the bank"]) == 2
    err = capsys.readouterr().err
    assert "does not know: [, bold, ], dances. It knows: river fish" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sentence", "  "], "--sentence is empty"),
        (["--png", "heads.pdf"], "ends in .png"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_heat_maps_are_saved_as_png(tmp_path, capsys):
    assert main(["demo", "--png", str(tmp_path / "bank.png")]) == 0
    out = capsys.readouterr().out
    for name in ("bank.png", "bank-2.png"):
        width, height = png_size(tmp_path / name)
        assert width > height > 200
        assert f"wrote {tmp_path / name}\n" in out


def test_an_unwritable_png_is_refused(tmp_path, capsys):
    path = tmp_path / "missing" / "bank.png"
    assert main(["demo", "--sentence", "river bank", "--png", str(path)]) == 2
    printed = capsys.readouterr()
    assert "there is no folder" in printed.err
    assert printed.out == ""  # it is refused before anything is shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_demo_with_one_line_that_names_the_file(tmp_path, capsys):
    path = tmp_path / "bank.png"
    path.symlink_to("/dev/full")
    assert main(["demo", "--sentence", "river bank", "--png", str(path)]) == 2
    error = capsys.readouterr().err
    assert error == f"polyhead: cannot write {path}: No space left on device\n"


def test_an_existing_server_is_used(server, capsys, monkeypatch):
    assert main(["demo", "--server", server.target, "--sentence", "bank"]) == 0
    assert f"went to {server.target}" in capsys.readouterr().out
    monkeypatch.setenv("POLYHEAD_SERVER", server.target)
    assert main(["demo", "--sentence", "bank"]) == 0
    assert f"went to {server.target}" in capsys.readouterr().out


def test_an_unreachable_server_fails_without_traceback(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert main(["demo", "--server", f"127.0.0.1:{port}"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_every_replica_is_checked(server, capsys, monkeypatch):
    with running_server() as second:
        targets = [server.target, second.target]
        monkeypatch.setattr(replicas, "resolve", lambda target: targets)
        monkeypatch.setenv("EXPECT_REPLICAS", "2")
        assert main(["demo", "--server", server.target]) == 0
    assert f"All 2 replicas give the same output: {', '.join(targets)}" in capsys.readouterr().out


def test_a_missing_replica_fails_the_demo(server, capsys, monkeypatch):
    monkeypatch.setenv("EXPECT_REPLICAS", "2")
    assert main(["demo", "--server", server.target]) == 2
    assert f"expected 2 replicas (EXPECT_REPLICAS), found 1: {server.target}" in (
        capsys.readouterr().err
    )


def test_a_replica_that_is_down_fails_the_demo(server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(polyhead.PolyheadError):
        replicas.check_replicas([server.target, f"127.0.0.1:{port}"], {}, 2, "river bank")


def test_targets_are_resolved_to_addresses():
    assert replicas.resolve("127.0.0.1:50051") == ["127.0.0.1:50051"]
    assert replicas.resolve("[::1]:50051") == ["[::1]:50051"]
    assert "127.0.0.1:7" in replicas.resolve("localhost:7")
    for target in ("unix:/run/polyhead", "no-host.invalid:50051"):
        with pytest.raises(UsageError, match="cannot be resolved"):
            replicas.resolve(target)


def run_in_shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "polyhead", "demo", *arguments],
        env=os.environ | environment,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout


def test_colour_depends_on_the_terminal_and_the_flag(server):
    arguments = ("--server", server.target, "--sentence", "river bank")
    assert b"\x1b[" in run_in_shell(*arguments, FORCE_COLOR="1")
    plain = run_in_shell(*arguments, "--no-color", FORCE_COLOR="1")
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|4[0-7]|38|48)[;m]", plain)


def test_narrow_ascii_terminals(server):
    out = run_in_shell("--server", server.target, COLUMNS="50", PYTHONIOENCODING="ascii").decode(
        "ascii"
    )
    assert max(map(len, out.split("What next?")[0].splitlines())) <= 50
    assert "-0.24" in out
    assert numbers_after(out.split("Whom bank attends to")[1], "river")[0] > 0.4
    assert "####" in out
