"""`polyhead demo`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from polyhead import Client
    from polyhead_server.demo.heat_maps import HeatMaps

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Tell the story of "Tom is going to fish at the river bank.": how attention decides which bank is
meant. Every number comes from a real server over gRPC, started for the occasion.

  polyhead demo
  polyhead demo --png river-bank.png
  polyhead demo --sentence "A bank gave Tom a loan."
  polyhead demo --server localhost:50051
  polyhead demo --checkpoint all-MiniLM-L6-v2/
"""

_NEXT = """\
  polyhead demo --sentence "A bank gave Tom a loan."   your own sentence
  polyhead demo --png river-bank.png                   the heat maps as pictures
  polyhead demo --checkpoint DIR                       a layer of a real BERT
  polyhead serve                                       a server for your own client"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="server to use, which must serve river-bank (default: $POLYHEAD_SERVER, or else one "
        "that is started for the occasion)",
    )
    parser.add_argument("--sentence", help="tell another sentence instead")
    parser.add_argument("--png", type=Path, metavar="FILE", help="save the heat maps as pictures")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="a Hugging Face folder of the BERT family, to see the sentence through its attention",
    )
    parser.add_argument(
        "--layer", type=int, default=0, help="layer of the checkpoint: 0, the default"
    )
    parser.add_argument(
        "--no-color", action="store_true", help="plain text; NO_COLOR does the same"
    )


def _run(arguments: Namespace) -> int:
    from rich.console import Console

    from polyhead_server.errors import StartupError

    if arguments.png is not None and arguments.png.suffix.lower() != ".png":
        raise UsageError(f"--png is {arguments.png}; expected a name that ends in .png")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a word a terminal cannot show must not end it
    console = Console(no_color=arguments.no_color or None, highlight=False)
    run = _run_river_bank if arguments.checkpoint is None else _run_checkpoint
    try:
        run(arguments, console)
    except StartupError as error:
        raise UsageError(f"the demo's server cannot start: {error}") from error
    return 0


def _run_checkpoint(arguments: Namespace, console: Console) -> None:
    from polyhead_server.demo import checkpoint_story, story

    if arguments.server is not None:
        raise UsageError("--checkpoint exports and serves its own model; leave out --server")
    sentence = story.FISHING if arguments.sentence is None else arguments.sentence
    pictures = checkpoint_story.tell(console, arguments.checkpoint, arguments.layer, sentence)
    if arguments.png is not None:
        _save(console, [pictures], arguments.png)


def _run_river_bank(arguments: Namespace, console: Console) -> None:
    from polyhead_models.river_bank import UnknownWordError, tokenize
    from polyhead_server.demo import story

    if arguments.sentence is not None and not tokenize(arguments.sentence):
        raise UsageError("--sentence is empty; give at least one word")
    remote = arguments.server or os.environ.get("POLYHEAD_SERVER")
    with _client(remote) as (client, target):
        if arguments.sentence is None:
            scenes = story.tell(console, client, target)
        else:
            try:
                scenes = story.tell_sentence(console, client, target, arguments.sentence)
            except UnknownWordError as error:
                raise UsageError(f"--sentence: {error}") from error
    if arguments.png is not None:
        _save(console, [story.heat_maps(scene) for scene in scenes], arguments.png)
    console.print("\n[bold]What next?[/]")
    console.print(_NEXT, markup=False, soft_wrap=True)
    if remote:
        _check_replicas(console, remote, os.environ.get("EXPECT_REPLICAS", "1"))


def _save(console: Console, pictures: Sequence[HeatMaps], path: Path) -> None:
    """Save pictures as PATH, PATH with -2 at the end of its name, and so on."""
    console.print()
    for number, picture in enumerate(pictures, start=1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            picture.save(name)
        except OSError as error:
            raise UsageError(f"--png {name} cannot be written: {error.strerror}") from error
        console.print(f"wrote {name}", markup=False, soft_wrap=True)


@contextmanager
def _client(remote: str | None) -> Iterator[tuple[Client, str]]:
    """Connect to the server named, or to one that is started for the occasion."""
    import polyhead

    if remote:
        with polyhead.Client(remote) as client:
            yield client, remote
    else:
        from polyhead_server.running import running_server

        with running_server() as server, polyhead.Client(server.target) as client:
            yield client, server.target


def _check_replicas(console: Console, remote: str, wanted: str) -> None:
    """Where EXPECT_REPLICAS says that several servers stand behind the name, ask each of them."""
    from polyhead_server.demo import replicas, story

    if not wanted.isdecimal() or int(wanted) < 1:
        raise UsageError(f"EXPECT_REPLICAS is {wanted!r}; expected a number of at least 1")
    if int(wanted) > 1:
        targets = replicas.resolve(remote)
        replicas.check_replicas(targets, int(wanted), story.FISHING)
        console.print(f"\nAll {wanted} replicas answer alike: {', '.join(targets)}", markup=False)


COMMAND = Command(
    help="see attention decide which bank is meant, in the terminal",
    description=_DESCRIPTION,
    extra="demo",
    add_arguments=_add_arguments,
    run=_run,
)
