"""How a socket came to be what it is, so that it can be made again in another relay.

Kept are the requests that succeeded, in their order: of an option the last value, of group memberships and source
filters all that still count.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from rsock.client_core import Names, name_body, parse_names
from rsock.wire import Op, layout

_NAME: Final = layout("rsock_name")
_OPTION: Final = layout("rsock_option")
_OPEN: Final = layout("rsock_open")
_MOST: Final = 4096
# ip(7), ipv6(7), RFC 3678: options that come in pairs, a join with the leave that undoes it.
_PAIRS: Final = {
    (socket.IPPROTO_IP, 36): 35, (socket.IPPROTO_IP, 40): 39, (socket.IPPROTO_IP, 37): 38,  # IP_*_MEMBERSHIP, *_SOURCE
    (socket.IPPROTO_IPV6, 21): 20,  # IPV6_LEAVE_GROUP
    (socket.IPPROTO_IP, 45): 42, (socket.IPPROTO_IP, 47): 46, (socket.IPPROTO_IP, 44): 43,  # MCAST_*
    (socket.IPPROTO_IPV6, 45): 42, (socket.IPPROTO_IPV6, 47): 46, (socket.IPPROTO_IPV6, 44): 43,
}  # fmt: skip
_LISTS: Final = frozenset((level, name) for (level, _leave), name in _PAIRS.items())

Step = tuple[Op, bytes]


class Recipe:
    """The requests that made a socket."""

    def __init__(self) -> None:
        self.open = b""  # rsock_open and the app's name
        self.steps: list[Step] = []

    def fresh_open(self) -> bytes:
        """Give the OPEN with a new token: the old one might find what the last relay has left behind."""
        family, kind, protocol, reserved, _token = _OPEN.unpack_from(self.open)
        return _OPEN.pack(family, kind, protocol, reserved, os.urandom(16)) + self.open[_OPEN.size :]

    def done(self, op: Op, body: bytes, answer: bytes) -> None:
        """Remember a request that has succeeded."""
        if op == Op.SETOPT:
            self._option(body)
        elif op == Op.BIND:
            self.steps.append((op, _bound(parse_names(answer))))  # the port that it was given
        elif op == Op.CONNECT:
            self.steps = [step for step in self.steps if step[0] != op]
            if _NAME.unpack_from(body)[0] != socket.AF_UNSPEC:
                self.steps.append((op, body))
        elif op == Op.LISTEN:
            if not any(step[0] == Op.BIND for step in self.steps):
                self.steps.append((Op.BIND, _bound(parse_names(answer))))
            self.steps = [step for step in self.steps if step[0] != op]
            self.steps.append((op, body))

    def _option(self, body: bytes) -> None:
        level, name, _length = _OPTION.unpack_from(body)
        joined = _PAIRS.get((level, name))
        if joined is not None:
            undone = _OPTION.pack(level, joined, _length) + body[_OPTION.size :]
            self.steps = [step for step in self.steps if step != (Op.SETOPT, undone)]
            return
        if (level, name) not in _LISTS:
            self.steps = [
                step for step in self.steps if step[0] != Op.SETOPT or step[1][:8] != body[:8]
            ]  # level and name
        if len(self.steps) < _MOST:
            self.steps.append((Op.SETOPT, body))


def _bound(names: Names) -> bytes:
    return name_body(names.local)
