"""The `polyhead` command: finds its subcommands by entry point and runs one.

Neither this module nor a subcommand's module imports NumPy, grpc or packages of extras. A
subcommand's `run` imports them, so that ``polyhead --help`` stays fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead.cli.command import Command, UsageError
from polyhead.cli.parser import CommandParser, did_you_mean
from polyhead.cli.shell_words import in_shell_words
from polyhead.errors import MissingExtraError, PolyheadError
from polyhead.standard_streams import open_closed_streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

__all__ = ["main", "make_parser"]

_GROUP = "polyhead.commands"
_OUR_PACKAGES = ("polyhead", "polyhead_explorer", "polyhead_models", "polyhead_server")
_FULL_EXTRA = "demo"
"""The extra that includes all others, for a command whose module cannot be imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status.

    1: a PolyheadError, or an OSError, such as a full disk. 2: a UsageError, or arguments that
    argparse refuses. 130: Ctrl-C.
    """
    open_closed_streams()
    arguments = sys.argv[1:] if argv is None else list(argv)
    # gRPC's library in C writes lines of its own to stderr, in the middle of progress bars and of
    # JSON logs, for what our errors and logs say, and for what a server's clients do wrong, who
    # could fill a log. The variable is read when grpc is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        try:
            status = _run(arguments)
        except SystemExit:  # of argparse: after --help, for example
            _flush_stdout()
            raise
        _flush_stdout()  # here, where its errors are still caught
    except UsageError as error:
        return _fail(in_shell_words(str(error)), 2)
    except PolyheadError as error:
        return _fail(in_shell_words(str(error)), 1)
    except KeyboardInterrupt:
        return _fail("", 130)
    except BrokenPipeError:
        return _fail("", 1)  # the reader, such as `head`, has exited
    except OSError as error:
        file = error.filename or "standard output or a file"
        return _fail(f"cannot read or write {file}: {error.strerror or error}", 1)
    return status


def _run(arguments: list[str]) -> int:
    available = {point.name: point for point in entry_points(group=_GROUP)}
    if (
        arguments and arguments[0] in available and "_ARGCOMPLETE" not in os.environ
    ):  # imports one command only
        available = {arguments[0]: available[arguments[0]]}
        command = _load(available[arguments[0]])
        namespace = make_parser({arguments[0]: command}).parse_args(arguments)
        return _run_command(arguments[0], command, namespace)
    parser = make_parser({name: _load_or_describe(available[name]) for name in sorted(available)})
    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions
        _complete(parser)
    if arguments and not arguments[0].startswith("-"):
        advice = did_you_mean(arguments[0], list(available))
        raise UsageError(
            f"there is no command {arguments[0]!r}{advice} (`polyhead --help` lists all)"
        )
    parser.parse_args(arguments)  # --help, --version and errors exit here
    parser.print_help(sys.stderr)
    return 2


def _complete(parser: CommandParser) -> None:
    """Answer a shell, as `register-python-argcomplete` lets it ask, and exit."""
    with suppress(ModuleNotFoundError):
        import argcomplete

        argcomplete.autocomplete(parser)


def make_parser(commands: Mapping[str, Command]) -> CommandParser:
    """Return the parser of these commands, by their names."""
    parser = CommandParser(
        prog="polyhead",
        description="Multi-head attention as a service.",
        document="README.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"polyhead {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.help,
            description=command.description,
            document=command.documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
    return parser


def _run_command(name: str, command: Command, namespace: argparse.Namespace) -> int:
    try:
        return command.run(namespace)
    except Exception as error:
        if _is_old_protobuf(error):
            raise _old_protobuf_error(name, command.extra, error) from error
        if not isinstance(error, ModuleNotFoundError):
            raise
        if not command.extra or _is_our_module(error):
            raise
        raise _missing_extra_error(name, command.extra, error) from error


def _load(point: EntryPoint) -> Command:
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        raise _missing_extra_error(point.name, _FULL_EXTRA, error) from error
    assert isinstance(command, Command), f"{point.value} is not a Command"
    return command


def _load_or_describe(point: EntryPoint) -> Command:
    try:
        return _load(point)
    except MissingExtraError as error:
        text = f"(not installed) {error}"
        return Command(help=text, description=text, add_arguments=lambda _: None, run=lambda _: 1)


def _missing_extra_error(name: str, extra: str, error: ModuleNotFoundError) -> MissingExtraError:
    if _is_our_module(error):
        return MissingExtraError(f"`polyhead {name}` is not part of this installation")
    return MissingExtraError(
        f"`polyhead {name}` needs {error.name}, which is not installed: "
        f"pip install 'polyhead[{extra}]'"
    )


def _is_old_protobuf(error: Exception) -> bool:
    """Whether generated stubs refuse protobuf; compared by name, so that it is not imported."""
    kind = type(error)
    return kind.__module__.startswith("google.protobuf") and kind.__name__ == "VersionError"


def _old_protobuf_error(name: str, extra: str, error: Exception) -> MissingExtraError:
    package = f"polyhead[{extra}]" if extra else "polyhead"
    return MissingExtraError(
        f"`polyhead {name}` finds a protobuf that is older than another package needs, because it "
        f"was installed later for a third: name all of them in one command, such as pip install "
        f"'{package}' 'tritonclient[grpc]' ({error})"
    )


def _is_our_module(error: ModuleNotFoundError) -> bool:
    return (error.name or "").partition(".")[0] in _OUR_PACKAGES


def _fail(message: str, status: int) -> int:
    with suppress(OSError):
        _flush_stdout()
    try:
        sys.stderr.write(f"polyhead: {message}\n" if message else "")
    except OSError:
        _redirect_to_null(sys.stderr)
    return status


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        _redirect_to_null(sys.stdout)
        error.filename = "standard output"
        raise


def _redirect_to_null(stream: TextIO) -> None:
    """Let Python's own flush at the end of the process succeed."""
    with suppress(OSError):  # the stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
