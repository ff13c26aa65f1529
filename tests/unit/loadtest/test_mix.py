"""Reading the mix of a load test, and making its calls for the models of a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import make_calls
from mix import MixError, Stage, read_mix

from polyhead import Client, Weights
from polyhead_server.running import running_server

ROOT = Path(__file__).parents[3]
LEAST = """
[[work]]
name = "a"
call = "attend"
"""


def read(folder, text):
    path = folder / "mix.toml"
    path.write_text(text)
    return read_mix(path)


def test_a_mix_says_what_is_sent(tmp_path):
    mix = read(
        tmp_path,
        """
        timeout_s = 2
        wait_s = [0, 0.5]
        [[work]]
        name = "rows"
        call = "attend"
        share = 0.5
        tokens = "2..4"
        weights = { queries = [0, 1], top_k = 3 }
        output = false
        [[stage]]
        users = 4
        seconds = 1.5
        """,
    )
    [work] = mix.work
    assert mix.wait_s == (0, 0.5)
    assert work.tokens == (2, 3, 4)
    assert work.weights == Weights(queries=[0, 1], top_k=3)
    assert mix.stage == (Stage(users=4, seconds=1.5),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: work: is missing"),
        ("work = []", "work: expected at least one table that begins with"),
        ("timeout_s = [", "cannot be read as TOML"),
        (f"timeouts = 2\n{LEAST}", "the file: no such entry: 'timeouts'; expected work, timeout_s"),
        (f"timeout_s = 0\n{LEAST}", "timeout_s: expected a number above 0; got 0"),
        (f"transport = 'udp'\n{LEAST}", "transport: expected unary or stream; got 'udp'"),
        (f"wait_s = [2, 1]\n{LEAST}", "wait_s: expected two numbers, least and most seconds"),
        (f"{LEAST}share = -1", "work 'a': share: expected a number above 0; got -1"),
        (f"{LEAST}tokens = '4-8'", "work 'a': tokens: expected lengths from 1"),
        (f"{LEAST}weights = 3", "work 'a': weights: expected true, false or a table; got 3"),
        (f"{LEAST}weights = {{ head = 1 }}", "work 'a': weights: no such entry: 'head'; expected"),
        (f"{LEAST}model = 3", "work 'a': model: expected str; got 3"),
        (LEAST.replace("attend", "ask"), "work 'a': call: expected attend, attend_rows, forward"),
        (LEAST.replace("attend", "forward"), "work 'a': texts: expected at least one text"),
        (f"{LEAST}[[stage]]\nusers = 1", "stage: seconds: is missing"),
    ],
)
def test_a_wrong_mix_is_refused_by_the_place_of_the_fault(tmp_path, text, message):
    with pytest.raises(MixError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert "mix.toml" in str(refused.value)


def test_work_without_a_model_is_left_out_and_the_others_are_answered():
    mix = read_mix(ROOT / "loadtest/mix.toml")
    with running_server() as server, Client(server.target) as client:
        calls, left_out = make_calls(mix, client.models())
        assert left_out == ["a text, a word's row of the last layer"]
        assert {call.method for call in calls} == {"Attend", "AttendRows"}
        assert all(call.send(client) > 0 for call in calls)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("model = 'bert'", "work 'a': the server has no model 'bert': it has river-bank"),
        ("model = 'river-bank'\ntexts = ['a']", "work 'a': 'river-bank' takes no texts"),
    ],
)
def test_a_model_that_is_named_must_be_served(tmp_path, more, message):
    call = "forward" if "texts" in more else "attend"
    mix = read(tmp_path, LEAST.replace("attend", call) + more)
    with running_server() as server, Client(server.target) as client:
        models = client.models()
    with pytest.raises(MixError) as refused:
        make_calls(mix, models)
    assert message in str(refused.value)
