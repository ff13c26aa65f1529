"""Where a call comes from."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_ORIGIN", "Origin"]


class Origin(NamedTuple):
    """Whose call it is, for shares of the server's time, places and memory."""

    peer: str = ""
    """The caller's name, or else its address. Each peer has a share of the server's memory, and of
    the turns, whatever the number of its connections."""
    caller: str = ""
    """The caller's name, or else its connection. Callers of one peer share its turns."""


NO_ORIGIN = Origin()
