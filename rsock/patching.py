"""Other people's libraries in a virtual router: `patch` makes the standard module's sockets and names the VR's.

    rsock.patch(vr="red")          for good
    with rsock.patch(vr="red"):    for a while; for all threads

What `socket.socket` is stays the same class, so subclasses, isinstance() and `from socket import socket` work; it
makes sockets of the VR for AF_INET and AF_INET6.  `ssl`, asyncio, socketserver, http and the like follow, since they
stand on it.  getaddrinfo and its relatives ask the VR's name servers, by whatever name they were imported where that
is `getaddrinfo` of `socket`; the others where they are looked up as `socket.gethostbyname` and so on.

Not patched: what libraries in C do by themselves (see `rsock exec` for those), and Unix, packet and netlink sockets.
"""

from __future__ import annotations

import _socket
import socket as stdlib
import threading
from collections.abc import Callable
from typing import Any, Final, Self

from rsock import resolver
from rsock.base import RouterSocket, kinds, new_socket, patched_vrs

_NAMES: Final[dict[str, Callable[..., Any]]] = {
    "gethostbyname": resolver.gethostbyname,
    "gethostbyname_ex": resolver.gethostbyname_ex,
    "gethostbyaddr": resolver.gethostbyaddr,
    "getnameinfo": resolver.getnameinfo,
}
_lock: Final = threading.RLock()
_before: Final[dict[str, Any]] = {}
_original_init: Final = stdlib.socket.__init__


class Patch:
    """The standard module, as long as it is patched."""

    def __init__(self, vr: str) -> None:
        self.vr = vr
        with _lock:
            if not patched_vrs():
                _install()
            patched_vrs().append(vr)
        self._done = False

    def undo(self) -> None:
        """Take the patch back; sockets that were made meanwhile stay in the VR."""
        with _lock:
            if self._done:
                return
            self._done = True
            patched_vrs().remove(self.vr)
            if not patched_vrs():
                _remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.undo()


def patch(vr: str) -> Patch:
    """Let the standard module make sockets in a VR and look names up there; see the module."""
    return Patch(vr)


def _new(cls: type[Any], family: int = -1, type: int = -1, *arguments: Any, **more: Any) -> Any:  # noqa: A002
    fileno = arguments[1] if len(arguments) > 1 else more.get("fileno")
    return new_socket(cls, family, type, fileno, more.get("vr"))


def _init(self: Any, *arguments: Any, **more: Any) -> None:
    """Initialize what `_new` has made, also where a subclass calls this and not its super()."""
    if isinstance(self, RouterSocket):
        ours: Any = next(kind for kind in type(self).__mro__ if kind in kinds.values() or kind is RouterSocket)
        ours.__init__(self, *arguments, **more)
    else:
        _original_init(self, *arguments, **more)


def _getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0  # noqa: A002
) -> list[Any]:  # fmt: skip
    return resolver.getaddrinfo(host, port, family, type, proto, flags)


def _install() -> None:
    for name, replacement in _NAMES.items():
        _before[name] = getattr(stdlib, name)
        setattr(stdlib, name, replacement)
    # What socket.getaddrinfo itself calls: whoever has imported that by name follows too.
    setattr(_socket, "getaddrinfo", _getaddrinfo)  # noqa: B010 - the types do not allow it
    setattr(stdlib.socket, "__new__", staticmethod(_new))  # noqa: B010
    setattr(stdlib.socket, "__init__", _init)  # noqa: B010


def _remove() -> None:
    for name, original in _before.items():
        setattr(stdlib, name, original)
    setattr(_socket, "getaddrinfo", resolver.kernel_getaddrinfo)  # noqa: B010
    setattr(stdlib.socket, "__init__", _original_init)  # noqa: B010
    del stdlib.socket.__new__
