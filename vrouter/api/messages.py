"""Messages between manager, control processes and CLI, and their framing.

    CLI     --(manager.sock)----------> manager      ops: ManagerOp
    manager --(control/NAME.sock)-----> control      ops: ControlOp

AF_UNIX stream sockets; a message is a 32-bit big-endian length and a msgpack map.  A request has
`op` and `id`; its reply has the same `id` and either `result` or `error` = {message, kind,
details}.  A control sends no unasked messages but `{"op": "event", ...}`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

MAX_MESSAGE: Final = 64 * 1024 * 1024
_MAX_REASON: Final = 1000
_LENGTH: Final = struct.Struct(">I")


class ManagerOp(enum.StrEnum):
    """What a CLI may ask of the manager."""

    ROUTERS = "routers"  # -> list as in `vr -j show routers`
    STATUS = "status"  # -> {config: Applied.describe(), loop_lag: Timings.plain()}, of the manager itself
    PLAN = "plan"  # {} re-reads the manager's own conf dir -> Plan as plain data
    APPLY = "apply"  # -> Plan as plain data, once carried out
    ROUTER = "router"  # {action: stop|start|restart, name}
    SEGMENTS = "segments"  # {name} -> {}, with two read-only fds: tables, state
    SHOW = "show"  # {name, instance, query, arguments} -> what the router's control answers
    CLEAR = "clear"  # likewise -> {}
    RECORD = "record"  # {name, action: start | fetch | stop} -> {data, more, steps, cut}, see Control.record


class ControlOp(enum.StrEnum):
    """What the manager asks of a control."""

    CONFIGURE = "configure"  # {router: RouterConfig as plain data} -> {changed: bool}
    LINK = "link"  # {port, up, mtu}
    SHOW = "show"  # {instance, query, arguments} -> what the protocol answers
    CLEAR = "clear"  # likewise -> {}
    RECORD = "record"  # {action: start | fetch | stop} -> {data, more, steps, cut}
    OFFLOAD = "offload"  # {size, fds: 1} and the fd of the map that gets a copy of the routes; without fds: none does
    PING = "ping"  # -> {}: the liveness probe
    SHUTDOWN = "shutdown"


class FrameError(ValueError):
    """The peer sent something that is no message."""


def encode(message: dict[str, Any]) -> bytes:
    """Frame one message."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def encode_reply(reply: dict[str, Any], refused: Callable[[str], None]) -> bytes:
    """Frame a reply; of a result that the reader could not take, an error becomes that answers this one request.

    Otherwise it would cost both sides their connection, and a control its life.
    """
    try:
        framed = encode(reply)
        Decoder().feed(framed)
    except Exception as error:  # noqa: BLE001 - told; other requests must not suffer
        text = f"no answer can be made of the result: {type(error).__name__}: {error}"
        reason = text.encode(errors="backslashreplace").decode()[:_MAX_REASON]
        refused(reason)
        framed = encode({"id": reply.get("id"), "error": {"message": reason, "kind": "internal", "details": {}}})
    return framed


class Decoder:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes; give the messages that are complete.  Raises FrameError."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE:
                raise FrameError(f"message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            try:
                message = msgpack.unpackb(body, raw=False, strict_map_key=True)
            except Exception as error:
                raise FrameError(f"not msgpack: {error}") from error
            if not isinstance(message, dict):
                raise FrameError("not a map")
            messages.append(message)
        return messages
