"""The command line: subcommands come from entry points; users' mistakes give no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import polyhead
from polyhead import cli
from polyhead.cli.command import Command, UsageError


def make_command(run, *, extra=""):
    return Command(
        help="does it",
        description="Does it.",
        extra=extra,
        add_arguments=lambda parser: parser.add_argument("--word", default="none"),
        run=run,
    )


@pytest.fixture
def install(monkeypatch):
    """Replace the installed subcommands by these: name to Command, or to an error of its import."""

    def replace(**commands):
        class Point(EntryPoint):
            def load(self):
                command = commands[self.name]
                if isinstance(command, Exception):
                    raise command
                return command

        points = [Point(name, "module:COMMAND", "polyhead.commands") for name in commands]
        monkeypatch.setattr(cli, "entry_points", lambda group: points)

    return replace


def raising(error):
    def run(_):
        raise error

    return run


def test_a_command_gets_its_arguments_and_gives_the_exit_status(install):
    seen = []
    install(do=make_command(lambda arguments: seen.append(arguments.word) or 7))
    assert cli.main(["do", "--word", "x"]) == 7
    assert seen == ["x"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("no such file"), 2, "polyhead: no such file\n"),
        (polyhead.ServerUnavailableError("nobody there"), 1, "polyhead: nobody there\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, "disk full", "/the/file"),
            1,
            "polyhead: cannot read or write /the/file: disk full\n",
        ),
        (
            OSError(errno.ENOSPC, "disk full"),
            1,
            "polyhead: cannot read or write standard output or a file: disk full\n",
        ),
    ],
)
def test_expected_failures_are_one_message(install, capsys, error, status, message):
    install(do=make_command(raising(error)))
    assert cli.main(["do"]) == status
    assert capsys.readouterr() == ("", message)


def test_unexpected_errors_show_a_traceback(install):
    install(do=make_command(raising(RuntimeError("a bug"))))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["do"])


def test_a_missing_package_is_answered_with_the_extra(install, capsys):
    missing = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    install(do=make_command(raising(missing), extra="server"))
    assert cli.main(["do"]) == 1
    message = capsys.readouterr().err
    assert "`polyhead do` needs onnxruntime" in message
    assert "pip install 'polyhead[server]'" in message


def test_a_protobuf_older_than_stubs_is_answered_with_one_command(install, capsys):
    refusal = type("VersionError", (Exception,), {"__module__": "google.protobuf.runtime_version"})
    install(do=make_command(raising(refusal("gencode 7.35.1, runtime 6.33.6")), extra="server"))
    assert cli.main(["do"]) == 1
    message = capsys.readouterr().err
    assert "pip install 'polyhead[server]' 'tritonclient[grpc]'" in message
    assert "gencode 7.35.1" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("extra", "name"), [("", "rich"), ("server", "polyhead_server.lost")])
def test_a_missing_module_of_no_extra_shows_a_traceback(install, extra, name):
    install(do=make_command(raising(ModuleNotFoundError(name=name)), extra=extra))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["do"])


def test_a_command_that_cannot_be_imported_is_listed_with_the_reason(install, capsys):
    install(
        good=make_command(lambda _: 0),
        bad=ModuleNotFoundError(name="onnx"),
        gone=ModuleNotFoundError(name="polyhead_server"),
    )
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "good does it" in text
    assert "bad (not installed) `polyhead bad` needs onnx" in text
    assert "gone (not installed) `polyhead gone` is not part of this installation" in text

    assert cli.main(["bad", "--anything"]) == 1
    assert "pip install 'polyhead[demo]'" in capsys.readouterr().err
    assert cli.main(["good"]) == 0


def test_help_is_printed_without_a_command(install, capsys):
    install(do=make_command(lambda _: 0))
    assert cli.main([]) == 2
    assert "does it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wor", "abbreviated"], "there is no flag --wor; did you mean --word?"),
        (["--wor=x"], "there is no flag --wor; did you mean --word?"),
        (["--word"], "argument --word: expected one argument"),
        (["more"], "'more' is one argument too many"),
    ],
)
def test_wrong_command_lines_are_refused_in_one_line(install, capsys, arguments, message):
    install(do=make_command(lambda _: 0))
    with pytest.raises(SystemExit) as caught:
        cli.main(["do", *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"polyhead do: error: {message}")
    assert error.endswith("(`polyhead do --help` lists all)\n")
    assert error.count("\n") == 1


def test_an_unknown_command_is_answered_with_the_nearest(install, capsys):
    install(serve=make_command(lambda _: 0))
    assert cli.main(["sevre"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("polyhead: there is no command 'sevre'; did you mean serve?")


def test_a_flag_of_a_subcommand_is_no_unknown_flag_of_the_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "randm", "--embed-dim", "8"])
    error = capsys.readouterr().err
    assert "invalid choice: 'randm'" in error
    assert "there is no flag" not in error


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("polyhead se", {"serve"}),
        ("polyhead serve --max-queue-s", {"--max-queue-size"}),
        ("polyhead serve --log-format ", {"auto", "json", "text"}),
        ("polyhead export ran", {"random"}),
    ],
)
def test_shells_complete_commands_and_flags(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    run_polyhead(env=os.environ | asked)
    assert {word.strip() for word in answer.read_text().split("\n")} >= expected


def run_polyhead(*arguments, **options):
    command = [sys.executable, "-m", "polyhead", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_every_installed_command_describes_itself():
    text = run_polyhead("--help").stdout
    for name in ("attend", "bench", "demo", "export", "forward", "info", "models", "serve"):
        assert f"\n    {name}" in text
    assert "not installed" not in text


def test_version():
    assert run_polyhead("--version").stdout == f"polyhead {polyhead.__version__}\n"


@pytest.mark.parametrize("command", ["models", "info", "attend", "forward", "bench"])
def test_commands_explain_themselves(command):
    run = run_polyhead(command, "--help")
    assert run.returncode == 0
    assert f"  polyhead {command}" in run.stdout  # an example


WRITE = """
import sys
from polyhead import cli
from polyhead.cli.command import Command, UsageError

def run(arguments):
    sys.stdout.write("x" * arguments.size)
    if arguments.fail:
        raise UsageError("a message")
    return 0

def add_arguments(parser):
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--fail", action="store_true")

command = Command(help="", description="", extra="", run=run, add_arguments=add_arguments)
cli._load = lambda _: command
sys.exit(cli.main(["models", *sys.argv[1:]]))
"""
"""A command that writes less or more than a buffer holds."""
OUTPUTS = [["--size", "10"], ["--size", "1000000"], ["--help"]]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
BUFFERED = [{}, {"PYTHONUNBUFFERED": "1"}]


def run_writer(arguments, environment, **streams):
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", WRITE, *arguments],
        env=inherited | environment,
        timeout=60,
        check=False,
        **streams,
    )


@pytest.mark.parametrize("environment", BUFFERED)
@pytest.mark.parametrize("arguments", OUTPUTS)
def test_a_closed_pipe_is_not_an_error(arguments, environment):
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = run_writer(arguments, environment, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert run.stderr == b""
    # argparse itself ignores that it cannot write, unless the flush afterwards fails as well
    assert run.returncode == 1 or (arguments == ["--help"] and environment)


@needs_full
@pytest.mark.parametrize("environment", BUFFERED)
@pytest.mark.parametrize("arguments", OUTPUTS[:2])
def test_a_full_disk_under_stdout_is_one_line_of_error(arguments, environment):
    with FULL.open("wb") as full:
        run = run_writer(arguments, environment, stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 1
    message = run.stderr.decode()
    assert message.startswith("polyhead: cannot read or write standard output")
    assert message.endswith(": No space left on device\n")
    assert len(message.splitlines()) == 1


@needs_full
def test_a_full_disk_under_the_help_is_one_line_of_error():
    with FULL.open("wb") as full:
        run = run_writer(["--help"], {}, stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 1
    assert run.stderr == (
        b"polyhead: cannot read or write standard output: No space left on device\n"
    )


@needs_full
def test_a_message_that_cannot_be_written_keeps_the_exit_status():
    with FULL.open("wb") as full:
        run = run_writer([], {}, stdout=full, stderr=full)
    assert run.returncode == 1


@needs_full
def test_an_error_before_the_flush_is_the_one_that_is_reported():
    with FULL.open("wb") as full:
        run = run_writer(["--fail"], {}, stdout=full, stderr=subprocess.PIPE)
    assert run.stderr == b"polyhead: a message\n"
    assert run.returncode == 2


@pytest.mark.parametrize("command", [["models"], ["info"]])
def test_a_missing_server_is_one_line_of_error(command):
    run = run_polyhead(*command, "--server", "127.0.0.1:1")
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("polyhead: no server answers at 127.0.0.1:1")
    assert len(run.stderr.splitlines()) == 1
