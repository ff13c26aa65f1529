"""Filters of sockets, with which the kernel drops what certain addresses send.

The kernel runs such a program for each packet before the socket has it. Instructions and codes:
https://www.kernel.org/doc/Documentation/networking/filter.txt
"""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["drop_packets"]

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # Python has no names for these options of sockets
_IP_HEADER = 0xFFF00000  # where the kernel has it; other places count from the header of TCP
_IPV4_SOURCE, _IPV6_SOURCE = _IP_HEADER + 12, _IP_HEADER + 8
_LOAD_BYTE, _LOAD_WORD, _SHIFT_RIGHT, _SKIP, _SKIP_UNLESS, _RETURN = 48, 32, 116, 5, 21, 6
_DROP, _KEEP = 0, 0xFFFFFFFF  # how many bytes of the packet the socket gets
_INSTRUCTION = struct.Struct("HBBI")  # code, instructions to skip if true and if not, number
_PROGRAM = struct.Struct("HP")  # number of instructions, and where they are


def drop_packets(receiver: socket.socket, addresses: Sequence[str]) -> None:
    """Let a socket receive nothing from these addresses, and everything from all others.

    No connection to a socket that listens can begin then; those that exist have sockets of their
    own. ``addresses``: as ``rpc.open_calls.peer_address`` returns them: of IPv6 the first 64 bits.
    Raises OSError where the kernel has no such filters.
    """
    if not addresses:
        receiver.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        return
    instructions = _instructions(addresses)
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in instructions))
    program = _PROGRAM.pack(len(instructions), ctypes.addressof(code))
    receiver.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _instructions(addresses: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Write the program: it compares the source of a packet with one address after the other."""
    ipv4, ipv6 = [], []
    for address in addresses:
        if "." in address:
            number = int(IPv4Address(address))
            ipv4 += [(_SKIP_UNLESS, 0, 1, number), (_RETURN, 0, 0, _DROP)]
        else:
            number = int(IPv6Address(f"{address}::"))
            ipv6 += [
                (_LOAD_WORD, 0, 0, _IPV6_SOURCE),
                (_SKIP_UNLESS, 0, 3, number >> 96),
                (_LOAD_WORD, 0, 0, _IPV6_SOURCE + 4),
                (_SKIP_UNLESS, 0, 1, number >> 64 & _KEEP),
                (_RETURN, 0, 0, _DROP),
            ]
    keep = (_RETURN, 0, 0, _KEEP)
    return [
        (_LOAD_BYTE, 0, 0, _IP_HEADER),  # the version is its upper half
        (_SHIFT_RIGHT, 0, 0, 4),
        (_SKIP_UNLESS, 0, 1, 6),
        (_SKIP, 0, 0, len(ipv4) + 2),  # to what belongs to IPv6
        (_LOAD_WORD, 0, 0, _IPV4_SOURCE),
        *ipv4,
        keep,
        *ipv6,
        keep,
    ]
