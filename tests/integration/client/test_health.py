"""`polyhead health`, the probe: exit statuses for servers, services and models."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polyhead import cli

SERVICE = "polyhead.v1.AttentionService"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ([], 0),
        (["--service", SERVICE], 0),
        (["--service", "made.up.Service"], 1),
        (["--model", "plain"], 0),
        (["--model", "plain:1"], 0),
        (["--model", "plain:9"], 1),
        (["--model", "made-up"], 1),
    ],
)
def test_exit_statuses(server, capsys, asked, status):
    assert cli.main(["health", server.target, *asked]) == status
    assert cli.main(["health", "--server", server.target, *asked]) == status
    text = capsys.readouterr()
    assert (text.out == "serving\n" * 2) == (status == 0)


def test_a_server_that_is_not_there(capsys):
    assert cli.main(["health", "127.0.0.1:1", "--timeout", "5"]) == 1
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["", "plain:", "plain:newest"])
def test_models_that_make_no_sense_are_refused(model, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["health", "--model", model])
    assert ended.value.code == 2
    assert "NAME:VERSION" in capsys.readouterr().err


def test_it_starts_without_numpy(server):
    code = (
        "import sys; from polyhead import cli; status = cli.main(sys.argv[1:]); "
        "print('numpy' in sys.modules); sys.exit(status)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "health", server.target, "--service", SERVICE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "serving\nFalse\n"
