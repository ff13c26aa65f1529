"""`polyhead demo`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from rich.console import Console

    from polyhead import Client

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
        help="use a server that runs already [POLYHEAD_SERVER]; it must serve river-bank",
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
        "--layer", type=int, default=0, help="layer of the checkpoint; only 0 [default: 0]"
    )
    parser.add_argument(
        "--no-color", action="store_true", help="plain text; NO_COLOR does the same"
    )


def _run(arguments: Namespace) -> int:
    from rich.console import Console

    console = Console(no_color=arguments.no_color or None, highlight=False)
    if arguments.checkpoint is not None:
        return _run_checkpoint(arguments, console)
    return _run_river_bank(arguments, console)


def _run_checkpoint(arguments: Namespace, console: Console) -> int:
    from polyhead_server.demo import checkpoint_story, story

    if arguments.server is not None:
        raise UsageError("--checkpoint exports and serves its own model; leave out --server")
    sentence = story.FISHING if arguments.sentence is None else arguments.sentence
    checkpoint_story.tell(console, arguments.checkpoint, arguments.layer, sentence, arguments.png)
    return 0


def _run_river_bank(arguments: Namespace, console: Console) -> int:
    from polyhead_models.river_bank import UnknownWordError, tokenize
    from polyhead_server.demo import story

    if arguments.sentence is not None and not tokenize(arguments.sentence):
        raise UsageError("--sentence is empty; give at least one word")
    with _client(arguments.server) as (client, target):
        if arguments.sentence is None:
            scenes = story.tell(console, client, target)
        else:
            try:
                scenes = story.tell_sentence(console, client, target, arguments.sentence)
            except UnknownWordError as error:
                raise UsageError(f"--sentence: {error}") from error
    if arguments.png is not None:
        for path in story.save_pictures(scenes, arguments.png):
            console.print(f"\nwrote {path}", markup=False, soft_wrap=True)
    _check_replicas(arguments.server, console)
    console.print("\n[bold]What next?[/]")
    console.print(_NEXT, markup=False, soft_wrap=True)
    return 0


@contextmanager
def _client(server: str | None) -> Iterator[tuple[Client, str]]:
    """Connect to the server named, or to one that is started for the occasion."""
    import polyhead
    from polyhead_server.running import running_server

    if target := server or os.environ.get("POLYHEAD_SERVER"):
        with polyhead.Client(target) as client:
            yield client, target
    else:
        with running_server() as running, polyhead.Client(running.target) as client:
            yield client, running.target


def _check_replicas(server: str | None, console: Console) -> None:
    """Where EXPECT_REPLICAS says how many servers stand behind the name, ask each of them."""
    from polyhead_server.demo import replicas, story

    target = server or os.environ.get("POLYHEAD_SERVER")
    wanted = os.environ.get("EXPECT_REPLICAS", "")
    if not target or not wanted:
        return
    if not wanted.isdecimal() or int(wanted) < 1:
        raise UsageError(f"EXPECT_REPLICAS is {wanted!r}; expected a number of at least 1")
    if int(wanted) == 1:
        return
    targets = replicas.resolve(target)
    replicas.check_replicas(targets, int(wanted), story.FISHING)
    console.print(f"\nAll {wanted} replicas answer alike: {', '.join(targets)}", markup=False)


COMMAND = Command(
    help="see attention decide which bank is meant, in the terminal",
    description=_DESCRIPTION,
    extra="demo",
    add_arguments=_add_arguments,
    run=_run,
)
