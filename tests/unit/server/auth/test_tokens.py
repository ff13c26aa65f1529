"""Tokens, their lines, and which token a line admits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from polyhead_server.auth.access import roles_that_may_call
from polyhead_server.auth.tokens import find_caller, make_token, parse


@pytest.fixture(scope="module")
def made():
    """A token, and the lines of a file with it and another one."""
    token, line = make_token("ci", ["infer"])
    _, other = make_token("ops", ["infer", "admin"])
    return token, f"# tokens\n\n{line}\n  {other}  \n"


def caller_of(text, token):
    return find_caller(parse(text)[0], token)


def test_a_token_is_found_by_its_line(made):
    token, text = made
    caller = caller_of(text, token)
    assert (caller.name, caller.roles) == ("ci", {"infer"})
    lines, problems = parse(text)
    assert lines["ops"].caller.roles == {"infer", "admin"}
    assert problems == []


def test_a_line_does_not_hold_the_secret(made):
    token, text = made
    assert re.fullmatch(r"polyhead\.ci\.[\w-]{43}", token)
    assert token.rpartition(".")[2] not in text


def test_two_tokens_of_one_name_have_nothing_in_common():
    (first, first_line), (second, second_line) = (make_token("ci", ["infer"]) for _ in range(2))
    assert first != second
    assert first_line.salt != second_line.salt
    assert not first_line.matches(second)


def test_equal_tokens_have_different_digests_because_of_the_salt(made):
    line = parse(made[1])[0]["ci"]
    assert not replace(line, salt=bytes(16)).matches(made[0])


def flip(text, index):
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: flip(token, -1),
        lambda token: flip(token, 15),
        lambda token: token.upper(),
        lambda token: token.replace(".ci.", ".ops."),
        lambda token: token.replace(".ci.", ".nobody."),
        lambda token: token.replace(".ci.", ".."),
        lambda token: token.removeprefix("polyhead."),
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token + "\udcff",
        lambda token: "ü" * 10_000,
    ],
)
def test_other_tokens_are_unknown(made, change):
    token, text = made
    assert caller_of(text, change(token)) is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ci", "expected NAME ROLES HASH"),
        ("ci infer", "expected NAME ROLES HASH"),
        ("ci infer {hash} more", "expected NAME ROLES HASH"),
        ("C/I infer {hash}", "lower-case letters"),
        (f"{'c' * 64} infer {{hash}}", "lower-case letters"),
        ("ci root {hash}", "some of infer, admin"),
        ("ci infer, {hash}", "some of infer, admin"),
        ("ci infer sha256:00:00", "third field"),
        ("ci infer {hash}0", "third field"),
        ("ci infer polyhead.ci.secret", "third field"),
    ],
)
def test_a_malformed_line_grants_nothing_and_is_not_quoted(made, line, problem):
    _, text = made
    hashed = str(parse(text)[0]["ci"]).split()[2]
    line = line.format(hash=hashed)
    lines, problems = parse(f"{line}\n{text.splitlines()[3]}\n")
    assert list(lines) == ["ops"]
    (found,) = problems
    assert found.startswith("line 1: ")
    assert problem in found
    assert "secret" not in found


def test_a_name_with_several_lines_grants_nothing(made):
    token, text = made
    _, again = make_token("ci", ["admin"])
    lines, problems = parse(f"{text}{again}\n{again}\n")
    assert list(lines) == ["ops"]
    assert problems == [
        "line 5: the name ci has a line already",
        "line 6: the name ci has a line already",
    ]
    assert caller_of(f"{text}{again}\n", token) is None


@pytest.mark.parametrize("text", ["", "\n", "# ci infer\n"])
def test_a_file_without_tokens_is_a_problem(text):
    assert parse(text) == ({}, ["it lists no token"])


@pytest.mark.parametrize(("name", "roles"), [("", ["infer"]), ("a b", ["infer"]), ("ci", [])])
def test_no_token_is_made_for_an_invalid_name_or_without_a_role(name, roles):
    with pytest.raises(ValueError, match="must"):
        make_token(name, roles)


@pytest.mark.parametrize("method", ["", "/", "x/y", "polyhead.v1.AttentionService/attend"])
def test_methods_without_an_entry_need_the_role_admin(method):
    assert roles_that_may_call(method) == {"admin"}
