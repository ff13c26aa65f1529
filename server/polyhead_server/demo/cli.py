"""`polyhead demo`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead.cli.command import Command, UsageError
from polyhead.cli.output_paths import check_png, writing
from polyhead.cli.shared_arguments import (
    add_security_arguments,
    client_arguments,
    client_errors_name_flags,
    errors_name_flags,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from polyhead import Client

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Show how attention decides which bank is meant in "Tom is going to fish at the river bank."
Every number comes from a real server over gRPC, which the command starts.

  polyhead demo
  polyhead demo --png river-bank.png
  polyhead demo --sentence "A bank gave Tom a loan."
  polyhead demo --server localhost:50051
  polyhead demo --checkpoint all-MiniLM-L6-v2/
"""

_NEXT = """\
  polyhead demo --sentence "A bank gave Tom a loan."   your own sentence
  polyhead demo --png river-bank.png                   heat maps as PNG files
  polyhead demo --checkpoint DIR                       layers of a real model
  polyhead serve                                       a server for your client"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="server with river-bank (default: $POLYHEAD_SERVER, or else one is started)",
    )
    parser.add_argument("--sentence", help="show another sentence instead")
    parser.add_argument("--png", type=Path, metavar="FILE", help="save the heat maps as PNG files")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="a Hugging Face folder with its tokenizer.json: follow bank through all layers",
    )
    parser.add_argument(
        "--no-color", action="store_true", help="plain text; NO_COLOR does the same"
    )
    add_security_arguments(parser)


def _run(arguments: Namespace) -> int:
    from rich.console import Console

    from polyhead_server.errors import StartupError

    if arguments.png is not None:
        check_png("--png", str(arguments.png))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal can show every word
    console = Console(no_color=arguments.no_color or None, highlight=False)
    show = _show_river_bank if arguments.checkpoint is None else _show_checkpoint
    try:
        show(arguments, console)
    except StartupError as error:
        raise UsageError(f"the demo's server cannot start: {error}") from error
    return 0


def _show_checkpoint(arguments: Namespace, console: Console) -> None:
    from polyhead import viz
    from polyhead_server.demo import checkpoint_story, story

    if arguments.server is not None:
        raise UsageError("--checkpoint exports and serves its own model; leave out --server")
    sentence = story.FISHING if arguments.sentence is None else arguments.sentence
    with errors_name_flags(lambda path: "--sentence" if path.startswith("texts[0]") else None):
        readings = checkpoint_story.show_checkpoint(console, arguments.checkpoint, sentence)
    if arguments.png is not None:
        grid = partial(viz.save_figure, figure=readings.result.plot(layers=True))
        _save(console, [grid, checkpoint_story.heat_maps(readings).save], arguments.png)
    _show_next(console, checkpoint_story.next_commands(readings, arguments.checkpoint))


def _show_river_bank(arguments: Namespace, console: Console) -> None:
    from polyhead_models.river_bank import UnknownWordError, tokenize
    from polyhead_server.demo import story

    if arguments.sentence is not None and not tokenize(arguments.sentence):
        raise UsageError("--sentence is empty; give at least one word")
    remote = arguments.server or os.environ.get("POLYHEAD_SERVER")
    security = client_arguments(arguments) if remote else {}
    with _client(remote, security) as (client, target):
        if arguments.sentence is None:
            scenes = story.show_story(console, client, target)
        else:
            try:
                scenes = story.show_sentence(console, client, target, arguments.sentence)
            except UnknownWordError as error:
                raise UsageError(f"--sentence: {error}") from error
    if arguments.png is not None:
        _save(console, [story.heat_maps(scene).save for scene in scenes], arguments.png)
    _show_next(console, _NEXT)
    if remote:
        _check_replicas(console, remote, security, os.environ.get("EXPECT_REPLICAS", "1"))


def _show_next(console: Console, commands: str) -> None:
    console.print("\n[bold]What next?[/]")
    console.print(commands, markup=False, soft_wrap=True)


def _save(console: Console, pictures: Sequence[Callable[[Path], object]], path: Path) -> None:
    """Save pictures as PATH, as PATH with -2 appended to its stem, and so on."""
    console.print()
    for number, save in enumerate(pictures, start=1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with writing(name):
            save(name)
        console.print(f"wrote {name}", markup=False, soft_wrap=True)


@contextmanager
def _client(remote: str | None, security: dict[str, Any]) -> Iterator[tuple[Client, str]]:
    """Connect to the server named, or start one."""
    import polyhead

    if remote:
        with client_errors_name_flags():
            connected = polyhead.Client(remote, **security)
        with connected as client:
            yield client, remote
    else:
        from polyhead_server.running import running_server

        with running_server() as server, polyhead.Client(server.target) as client:
            yield client, server.target


def _check_replicas(console: Console, remote: str, security: dict[str, Any], expected: str) -> None:
    """If EXPECT_REPLICAS says that the name has several servers, check each of them."""
    from polyhead_server.demo import replicas, story

    if not expected.isdecimal() or int(expected) < 1:
        raise UsageError(f"EXPECT_REPLICAS is {expected!r}; expected a number of at least 1")
    if int(expected) > 1:
        targets = replicas.resolve(remote)
        replicas.check_replicas(targets, security, int(expected), story.FISHING)
        console.print(
            f"\nAll {expected} replicas give the same output: {', '.join(targets)}", markup=False
        )


COMMAND = Command(
    help="see attention decide which bank is meant, in the terminal",
    description=_DESCRIPTION,
    extra="demo",
    add_arguments=_add_arguments,
    run=_run,
)
