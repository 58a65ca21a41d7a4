"""BGP messages but UPDATE: header, OPEN, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH.

RFC 4271 sections 4.1, 4.2, 4.4, 4.5 and 6; 2918 and 7313 (refresh), 8203 and 9003 (a text in a Cease), 8654
(messages beyond 4,096 bytes), 9072 (long optional parameters), 4486 and 6608 (subcodes).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from vrouter.wire.bgp.attributes import AS_TRANS, MalformedError

MARKER: Final = b"\xff" * 16
HEADER: Final = 19
MAX_LENGTH: Final = 4096
MAX_EXTENDED: Final = 65535
VERSION: Final = 4
MAX_SHUTDOWN_TEXT: Final = 255  # RFC 9003
_PARAMETER_CAPABILITIES: Final = 2
_LONG_PARAMETERS: Final = 255  # RFC 9072


class MessageType(enum.IntEnum):
    """Types of messages; RFC 4271 section 4.1, RFC 2918."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


class Code(enum.IntEnum):
    """Error codes of a NOTIFICATION."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7
    SEND_HOLD_TIMER = 8


class OpenError(enum.IntEnum):
    """Subcodes of an OPEN's error."""

    VERSION = 1
    PEER_AS = 2
    IDENTIFIER = 3
    PARAMETER = 4
    HOLD_TIME = 6
    CAPABILITY = 7
    ROLE = 11


class FsmError(enum.IntEnum):
    """Subcodes of an FSM error; RFC 6608."""

    UNSPECIFIC = 0
    OPEN_SENT = 1
    OPEN_CONFIRM = 2
    ESTABLISHED = 3


class Cease(enum.IntEnum):
    """Subcodes of a Cease; RFC 4486, 8538, 9384."""

    MAX_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CHANGED = 6
    COLLISION = 7
    RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


_CODES: Final = {
    1: ("message header error", {1: "connection not synchronized", 2: "bad message length", 3: "bad message type"}),
    2: (
        "OPEN message error",
        {
            1: "unsupported version",
            2: "bad peer AS",
            3: "bad BGP identifier",
            4: "unsupported optional parameter",
            6: "unacceptable hold time",
            7: "unsupported capability",
            11: "role mismatch",
        },
    ),
    3: (
        "UPDATE message error",
        {
            1: "malformed attribute list",
            2: "unrecognized well-known attribute",
            3: "missing well-known attribute",
            4: "attribute flags error",
            5: "attribute length error",
            6: "invalid ORIGIN attribute",
            8: "invalid NEXT_HOP attribute",
            9: "optional attribute error",
            10: "invalid network field",
            11: "malformed AS_PATH",
        },
    ),
    4: ("hold timer expired", {}),
    5: ("FSM error", {1: "in OpenSent", 2: "in OpenConfirm", 3: "in Established"}),
    6: (
        "cease",
        {
            1: "maximum number of prefixes reached",
            2: "administrative shutdown",
            3: "peer de-configured",
            4: "administrative reset",
            5: "connection rejected",
            6: "other configuration change",
            7: "connection collision resolution",
            8: "out of resources",
            9: "hard reset",
            10: "BFD down",
        },
    ),
    7: ("ROUTE-REFRESH message error", {1: "invalid message length"}),
    8: ("send hold timer expired", {}),
}


@dataclass(frozen=True, slots=True)
class Open:
    """An OPEN as it came, or will go; capabilities as (code, value) in order."""

    asn: int  # of two bytes: AS_TRANS for a larger one
    hold_time: int
    router_id: int
    capabilities: tuple[tuple[int, bytes], ...] = ()
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Notification:
    """A NOTIFICATION."""

    code: int
    subcode: int = 0
    data: bytes = b""

    def reason(self) -> str:
        """Tell in words what it says, with the text of RFC 9003."""
        name, subcodes = _CODES.get(self.code, (f"error {self.code}", {}))
        words = name
        if self.subcode:
            words += f": {subcodes.get(self.subcode, f'subcode {self.subcode}')}"
        text = shutdown_text(self)
        return f'{words}: "{text}"' if text else words


class RefreshKind(enum.IntEnum):
    """What a ROUTE-REFRESH says; RFC 7313."""

    REQUEST = 0
    BEGIN = 1
    END = 2


@dataclass(frozen=True, slots=True)
class Refresh:
    """A ROUTE-REFRESH."""

    afi: int
    safi: int
    kind: int = RefreshKind.REQUEST


def frame(kind: int, body: bytes = b"") -> bytes:
    """Give a whole message."""
    return MARKER + struct.pack("!HB", HEADER + len(body), kind) + body


_MIN_LENGTH: Final = {1: 29, 2: 23, 3: 21, 4: 19, 5: 19}


def next_message(data: bytes, at: int, limit: int = MAX_LENGTH) -> tuple[int, int] | None:
    """Give the type and the length of the message at `at`; None: not all there.  Raises MalformedError."""
    if len(data) - at < HEADER:
        return None
    if data[at : at + 16] != MARKER:
        raise MalformedError(Code.HEADER, 1)
    length, kind = int.from_bytes(data[at + 16 : at + 18], "big"), data[at + 18]
    field = data[at + 16 : at + 18]
    if kind not in _MIN_LENGTH:
        raise MalformedError(Code.HEADER, 3, bytes([kind]))
    most = {MessageType.OPEN: MAX_LENGTH, MessageType.KEEPALIVE: HEADER}.get(MessageType(kind), limit)
    if not _MIN_LENGTH[kind] <= length <= most:
        raise MalformedError(Code.HEADER, 2, field)
    return (kind, length) if len(data) - at >= length else None


def encode_open(message: Open) -> bytes:
    """Give an OPEN with each capability in a parameter of its own; RFC 9072 where they are long."""
    capabilities = [struct.pack("!BB", code, len(value)) + value for code, value in message.capabilities]
    head = struct.pack("!BHHI", message.version, message.asn, message.hold_time, message.router_id)
    parameters = b"".join(struct.pack("!BB", _PARAMETER_CAPABILITIES, len(each)) + each for each in capabilities)
    if len(parameters) < 255 and all(len(each) <= 255 for each in capabilities):
        return frame(MessageType.OPEN, head + bytes([len(parameters)]) + parameters)
    parameters = b"".join(struct.pack("!BH", _PARAMETER_CAPABILITIES, len(each)) + each for each in capabilities)
    return frame(MessageType.OPEN, head + struct.pack("!BBH", 255, _LONG_PARAMETERS, len(parameters)) + parameters)


def decode_open(body: bytes) -> Open:
    """Read the body of an OPEN.  Raises MalformedError; sense is checked by the session."""
    if len(body) < 10:
        raise MalformedError(Code.HEADER, 2)
    version, asn, hold_time, router_id, size = struct.unpack_from("!BHHIB", body)
    if version != VERSION:
        raise MalformedError(Code.OPEN, OpenError.VERSION, struct.pack("!H", VERSION))
    rest = body[10:]
    width = 1
    if size == 255 and len(rest) >= 3 and rest[0] == _LONG_PARAMETERS:
        size, width, rest = int.from_bytes(rest[1:3], "big"), 2, rest[3:]
    if size != len(rest):
        raise MalformedError(Code.OPEN, 0)
    capabilities: list[tuple[int, bytes]] = []
    at = 0
    while at < len(rest):
        end = at + 1 + width
        if end > len(rest):
            raise MalformedError(Code.OPEN, 0)
        kind, length = rest[at], int.from_bytes(rest[at + 1 : end], "big")
        if end + length > len(rest):
            raise MalformedError(Code.OPEN, 0)
        if kind != _PARAMETER_CAPABILITIES:
            raise MalformedError(Code.OPEN, OpenError.PARAMETER)
        capabilities += _read_capabilities(rest[end : end + length])
        at = end + length
    return Open(asn, hold_time, router_id, tuple(capabilities), version)


def _read_capabilities(value: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(value):
        if at + 2 > len(value) or at + 2 + value[at + 1] > len(value):
            raise MalformedError(Code.OPEN, 0)
        end = at + 2 + value[at + 1]
        found.append((value[at], value[at + 2 : end]))
        at = end
    return found


def two_byte_asn(asn: int) -> int:
    """Give what stands in the OPEN of an AS; RFC 6793 section 4.2.3."""
    return asn if asn <= 0xFFFF else AS_TRANS


def encode_notification(message: Notification) -> bytes:
    """Give a NOTIFICATION, its data cut to what every neighbor takes."""
    data = message.data[: MAX_LENGTH - HEADER - 2]
    return frame(MessageType.NOTIFICATION, bytes([message.code, message.subcode]) + data)


def decode_notification(body: bytes) -> Notification:
    """Read the body of a NOTIFICATION; a short one says nothing."""
    padded = body[:2].ljust(2, b"\0")
    return Notification(padded[0], padded[1], body[2:])


def shutdown(text: str, subcode: int = Cease.SHUTDOWN) -> Notification:
    """Give a Cease with a text for the neighbor's operators, cut to what fits; RFC 9003."""
    data = text.encode()[:MAX_SHUTDOWN_TEXT]
    data = data.decode(errors="ignore").encode()
    return Notification(Code.CEASE, subcode, bytes([len(data)]) + data if data else b"")


def shutdown_text(message: Notification) -> str:
    """Give the text of a Cease, fit to be printed; empty: none, or none that can be read."""
    if message.code != Code.CEASE or message.subcode not in {Cease.SHUTDOWN, Cease.RESET} or not message.data:
        return ""
    text = message.data[1 : 1 + message.data[0]].decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def encode_refresh(message: Refresh) -> bytes:
    """Give a ROUTE-REFRESH."""
    return frame(MessageType.ROUTE_REFRESH, struct.pack("!HBB", message.afi, message.kind, message.safi))


def decode_refresh(body: bytes) -> Refresh:
    """Read the body of a ROUTE-REFRESH.  Raises MalformedError; RFC 7313 section 5."""
    if len(body) != 4:
        if len(body) > 2 and body[2] in {RefreshKind.BEGIN, RefreshKind.END}:
            raise MalformedError(Code.ROUTE_REFRESH, 1, frame(MessageType.ROUTE_REFRESH, body))
        raise MalformedError(Code.HEADER, 2, struct.pack("!H", HEADER + len(body)))
    afi, kind, safi = struct.unpack("!HBB", body)
    return Refresh(afi, safi, kind)


KEEPALIVE: Final = frame(MessageType.KEEPALIVE)
