"""`polyhead token new` prints a token, and the line by which a server recognises it."""

from __future__ import annotations

import pytest

from polyhead import cli
from polyhead_server.auth.tokens import find_caller, parse


def test_the_printed_line_recognises_the_printed_token(capsys):
    assert cli.main(["token", "new", "--name", "ci", "--role", "infer", "--role", "admin"]) == 0
    line, shown = capsys.readouterr()
    caller = find_caller(parse(line)[0], shown.split()[-1])
    assert (caller.name, caller.roles) == ("ci", {"infer", "admin"})


def test_an_invalid_name_is_refused(capsys):
    assert cli.main(["token", "new", "--name", "C I", "--role", "infer"]) == 2
    assert "--name is 'C I': the name must have" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--name", "ci", "--role", "root"], ["--name", "ci"]])
def test_a_token_needs_a_role_that_exists(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["token", "new", *arguments])
    assert "--role" in capsys.readouterr().err
