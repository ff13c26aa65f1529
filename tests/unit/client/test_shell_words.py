"""In the shell, messages name flags; nothing there speaks of Python's arguments or of a target."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from polyhead import cli
from polyhead.cli.shell_words import SPELLINGS, in_shell_words

ROOT = Path(__file__).parents[3]
CALLERS = {
    "models": ["models"],
    "info": ["info"],
    "health": ["health"],
    "bench": ["bench"],
    "demo": ["demo"],
    "forward": ["forward", "text", "--model", "m"],
}


def texts_of(source):
    """The texts of a module; those that follow each other are one."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_spelling_is_one_that_messages_have():
    words = SPELLINGS.keys()
    sources = [*ROOT.glob("client/polyhead/**/*.py"), *ROOT.glob("server/**/*.py")]
    texts = [t for s in sources if s.name != "shell_words.py" for t in texts_of(s)]
    assert not [word for word in words if not any(word in text for text in texts)]


def test_words_that_belong_to_no_message_stay():
    assert in_shell_words("target practice, timeout of 3 s") == "target practice, timeout of 3 s"


@pytest.mark.parametrize("command", CALLERS.values(), ids=CALLERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "host"], "--server: expected host and port"),
        (["--server", "http://host:1"], "--server: leave out http://, as in 'host:1'"),
        (["--server", "https://host"], "--server: expected host and port"),
        (["--header", "a b=c"], "--header: 'a b' is not a key"),
        (["--server", "localhost:1", "--tls-ca", "nowhere"], "--tls-ca: nowhere cannot be read"),
        (["--server", "localhost:1", "--tls-ca", __file__], "--tls-ca: holds no certificate"),
    ],
)
def test_errors_about_a_server_name_the_flag(command, arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("POLYHEAD_SERVER", "localhost:1")  # demo: none is started
    assert cli.main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"polyhead: {message}")
    assert "target" not in error


def test_a_header_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["models", "--header", "name"])
    assert "expected NAME=VALUE; got 'name'" in capsys.readouterr().err


def test_hints_name_flags(monkeypatch, capsys):
    monkeypatch.setenv("POLYHEAD_TOKEN", "a")
    assert cli.main(["models", "--server", "example.org:1"]) == 1
    error = capsys.readouterr().err
    assert "use TLS (--tls), unset POLYHEAD_TOKEN, or allow it" in error
    assert "=" not in error
