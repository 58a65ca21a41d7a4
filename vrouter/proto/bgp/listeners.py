"""The sockets that neighbors connect to, one of each family, and their keys (RFC 2385)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vrouter.net.address import IPV4, IPV6, Prefix
from vrouter.proto.base import CloseSocket, Md5Key, OpenSocket, Output, SetKeys, SocketKind
from vrouter.proto.bgp.session import NEVER

PORT: Final = 179
_FAMILIES: Final = {"listen4": IPV4, "listen6": IPV6}
_RETRY: Final = 1.0
_TTL: Final = 255  # of answers to connections, before it is known whose they are: RFC 5082 asks for no less
_TOS: Final = 0xC0  # internetwork control


class Listeners:
    """The listeners of a router."""

    def __init__(self, emit: Callable[[Output], None]) -> None:
        self._emit = emit
        self._open: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._keys: dict[Prefix, bytes] = {}

    def want(self, keys: dict[Prefix, bytes] | None) -> None:
        """Listen with these keys by the neighbors' prefixes; None: do not listen."""
        wanted = keys or {}
        for name, family in _FAMILIES.items():
            if keys is None:
                if name in self._open:
                    self._emit(CloseSocket(name))
                self._retry_at.pop(name, None)
                self._open.discard(name)
            elif name in self._open:
                changed = tuple(
                    Md5Key(prefix, wanted.get(prefix, b""))
                    for prefix in sorted(wanted.keys() | self._keys.keys())
                    if prefix.family == family and wanted.get(prefix, b"") != self._keys.get(prefix, b"")
                )
                if changed:
                    self._emit(SetKeys(name, changed))
            elif name not in self._retry_at:
                self._listen(name, wanted)
        self._keys = wanted

    def closed(self, socket: str, now: float) -> bool:
        """Take note that a socket is gone; tell whether it is one of these, which is tried again."""
        if socket not in _FAMILIES:
            return False
        if socket in self._open:
            self._open.discard(socket)
            self._retry_at[socket] = now + _RETRY
        return True

    @property
    def deadline(self) -> float:
        """Give the time at which one is tried again."""
        return min(self._retry_at.values(), default=NEVER)

    def expire(self, now: float) -> None:
        """Try those again that are due."""
        for name in [name for name, at in self._retry_at.items() if at <= now]:
            del self._retry_at[name]
            self._listen(name, self._keys)

    def _listen(self, name: str, keys: dict[Prefix, bytes]) -> None:
        family = _FAMILIES[name]
        md5 = tuple(Md5Key(prefix, key) for prefix, key in sorted(keys.items()) if prefix.family == family)
        self._open.add(name)
        self._emit(OpenSocket(name, SocketKind.LISTEN, family, local_port=PORT, ttl=_TTL, tos=_TOS, md5=md5))
