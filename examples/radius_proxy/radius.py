"""RADIUS packets: reading, writing, and what their secrets protect (RFC 2865, 2866, 2868, 2869; RFC 2548's keys).

A packet passed on by a proxy changes its secret and its request authenticator, so whatever is hidden with these is
revealed and hidden anew: User-Password, Tunnel-Password, Microsoft's MPPE keys.  What is signed with them is signed
anew: response and accounting authenticators, Message-Authenticator.

No I/O.  Not supported: Ascend's hidden attributes, packets over TCP or TLS.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field, replace
from typing import Final

HEADER: Final = struct.Struct("!BBH16s")
MAX_PACKET: Final = 4096
ZEROS: Final = bytes(16)
VENDOR_MICROSOFT: Final = (311).to_bytes(4, "big")
MPPE_KEYS: Final = frozenset({16, 17})


class Code(enum.IntEnum):
    """What a packet is."""

    ACCESS_REQUEST = 1
    ACCESS_ACCEPT = 2
    ACCESS_REJECT = 3
    ACCOUNTING_REQUEST = 4
    ACCOUNTING_RESPONSE = 5
    ACCESS_CHALLENGE = 11


class Type(enum.IntEnum):
    """Attributes that a proxy has to understand."""

    USER_PASSWORD = 2
    CHAP_PASSWORD = 3
    VENDOR_SPECIFIC = 26
    PROXY_STATE = 33
    CHAP_CHALLENGE = 60
    TUNNEL_PASSWORD = 69
    EAP_MESSAGE = 79
    MESSAGE_AUTHENTICATOR = 80


class RadiusError(ValueError):
    """A packet that must be dropped; the text says why."""


@dataclass(frozen=True)
class Packet:
    """A packet.  Attributes are (type, value), in their order."""

    code: int
    identifier: int
    authenticator: bytes
    attributes: tuple[tuple[int, bytes], ...] = field(default=())

    def value(self, kind: int) -> bytes | None:
        """Give the first attribute of a type."""
        return next((value for found, value in self.attributes if found == kind), None)


def parse(data: bytes) -> Packet:
    """Read a packet.  Raises RadiusError."""
    if len(data) < HEADER.size:
        raise RadiusError("short")
    code, identifier, length, authenticator = HEADER.unpack_from(data)
    if not HEADER.size <= length <= min(len(data), MAX_PACKET):
        raise RadiusError("wrong length")
    attributes = []
    at = HEADER.size
    while at < length:
        if at + 2 > length or not 2 <= data[at + 1] <= length - at:
            raise RadiusError("an attribute's length is wrong")
        attributes.append((data[at], data[at + 2 : at + data[at + 1]]))
        at += data[at + 1]
    if sum(kind == Type.MESSAGE_AUTHENTICATOR for kind, _value in attributes) > 1:
        raise RadiusError("two Message-Authenticators")
    return Packet(code, identifier, authenticator, tuple(attributes))


def write(packet: Packet) -> bytes:
    """Write a packet.  Raises RadiusError when it has become too long."""
    body = b"".join(bytes([kind, len(value) + 2]) + value for kind, value in packet.attributes)
    length = HEADER.size + len(body)
    if length > MAX_PACKET:
        raise RadiusError("too long")
    return HEADER.pack(packet.code, packet.identifier, length, packet.authenticator) + body


# --- signatures ---


def _message_authenticator(packet: Packet, authenticator: bytes, secret: bytes) -> bytes:
    blank = tuple((kind, ZEROS if kind == Type.MESSAGE_AUTHENTICATOR else value) for kind, value in packet.attributes)
    return hmac.digest(secret, write(replace(packet, authenticator=authenticator, attributes=blank)), "md5")


def _check_message_authenticator(packet: Packet, authenticator: bytes, secret: bytes, *, needed: bool) -> None:
    told = packet.value(Type.MESSAGE_AUTHENTICATOR)
    if told is None:
        if needed or packet.value(Type.EAP_MESSAGE) is not None:  # RFC 3579 section 3.2
            raise RadiusError("no Message-Authenticator")
        return
    if not hmac.compare_digest(told, _message_authenticator(packet, authenticator, secret)):
        raise RadiusError("wrong Message-Authenticator")


def check_request(packet: Packet, secret: bytes, *, needed: bool) -> None:
    """See that a client knows the secret; `needed`: an Access-Request without signature is refused.

    Raises RadiusError.
    """
    if packet.code == Code.ACCESS_REQUEST:
        _check_message_authenticator(packet, packet.authenticator, secret, needed=needed)
        return
    # RFC 2866 section 3
    signed = hashlib.md5(write(replace(packet, authenticator=ZEROS)) + secret, usedforsecurity=False).digest()
    if not hmac.compare_digest(signed, packet.authenticator):
        raise RadiusError("wrong authenticator")
    _check_message_authenticator(packet, ZEROS, secret, needed=False)


def check_response(packet: Packet, request: bytes, secret: bytes, *, needed: bool) -> None:
    """See that a response belongs to the request with this authenticator.  Raises RadiusError."""
    signed = hashlib.md5(write(replace(packet, authenticator=request)) + secret, usedforsecurity=False).digest()
    if not hmac.compare_digest(signed, packet.authenticator):
        raise RadiusError("wrong authenticator")
    _check_message_authenticator(packet, request, secret, needed=needed)


def _signed_first(packet: Packet, authenticator: bytes, secret: bytes) -> Packet:
    """Put a Message-Authenticator before everything else, where nothing can be slipped in ahead of it."""
    rest = tuple(entry for entry in packet.attributes if entry[0] != Type.MESSAGE_AUTHENTICATOR)
    blank = replace(packet, attributes=((int(Type.MESSAGE_AUTHENTICATOR), ZEROS), *rest))
    signature = _message_authenticator(blank, authenticator, secret)
    return replace(packet, attributes=((int(Type.MESSAGE_AUTHENTICATOR), signature), *rest))


def sign_request(packet: Packet, secret: bytes) -> Packet:
    """Sign a request for its server; an Access-Request keeps its authenticator."""
    if packet.code == Code.ACCESS_REQUEST:
        return _signed_first(packet, packet.authenticator, secret)
    rest = tuple(entry for entry in packet.attributes if entry[0] != Type.MESSAGE_AUTHENTICATOR)
    bare = replace(packet, authenticator=ZEROS, attributes=rest)
    return replace(bare, authenticator=hashlib.md5(write(bare) + secret, usedforsecurity=False).digest())


def sign_response(packet: Packet, request: bytes, secret: bytes) -> Packet:
    """Sign a response to the request with this authenticator."""
    bare = replace(packet, authenticator=request)
    if packet.code != Code.ACCOUNTING_RESPONSE:
        bare = _signed_first(bare, request, secret)
    return replace(bare, authenticator=hashlib.md5(write(bare) + secret, usedforsecurity=False).digest())


# --- hidden values ---


def _pads(first: bytes, secret: bytes, hidden: bytes, *, hiding: bool) -> bytes:
    """Hide or reveal by a chain of MD5 blocks (RFC 2865 section 5.2)."""
    out, block = b"", first
    for at in range(0, len(hidden), 16):
        piece = hidden[at : at + 16]
        pad = hashlib.md5(secret + block, usedforsecurity=False).digest()
        made = bytes(a ^ b for a, b in zip(piece, pad, strict=False))
        block = made if hiding else piece
        out += made
    return out


def reveal_password(hidden: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """Reveal a User-Password, its padding kept.  Raises RadiusError."""
    if len(hidden) % 16 or not 16 <= len(hidden) <= 128:
        raise RadiusError("a password's length is wrong")
    return _pads(authenticator, secret, hidden, hiding=False)


@dataclass(frozen=True)
class Hop:
    """One side of the proxy: a secret and the authenticator of the request there."""

    secret: bytes
    authenticator: bytes


def _salted(value: bytes, old: Hop, new: Hop) -> bytes:
    """Hide anew what is hidden with a salt (RFC 2868 section 3.5): two bytes of salt, then blocks."""
    salt, hidden = value[:2], value[2:]
    if len(salt) != 2 or not hidden or len(hidden) % 16:
        raise RadiusError("a hidden value's length is wrong")
    clear = _pads(old.authenticator + salt, old.secret, hidden, hiding=False)
    fresh = bytes([0x80 | secrets.randbelow(0x80), secrets.randbelow(0x100)])
    return fresh + _pads(new.authenticator + fresh, new.secret, clear, hiding=True)


def _microsoft(value: bytes, old: Hop, new: Hop) -> bytes:
    out, at = value[:4], 4
    while at < len(value):
        if at + 2 > len(value) or not 2 <= value[at + 1] <= len(value) - at:
            raise RadiusError("a vendor attribute's length is wrong")
        kind, inner = value[at], value[at + 2 : at + value[at + 1]]
        inner = _salted(inner, old, new) if kind in MPPE_KEYS else inner
        out += bytes([kind, len(inner) + 2]) + inner
        at += value[at + 1]
    return out


def rehide(kind: int, value: bytes, old: Hop, new: Hop) -> bytes:
    """Give an attribute's value as the other side must see it.  Raises RadiusError."""
    if kind == Type.USER_PASSWORD:
        clear = reveal_password(value, old.authenticator, old.secret)
        return _pads(new.authenticator, new.secret, clear, hiding=True)
    if kind == Type.TUNNEL_PASSWORD:
        return value[:1] + _salted(value[1:], old, new)
    if kind == Type.VENDOR_SPECIFIC and value[:4] == VENDOR_MICROSOFT:
        return _microsoft(value, old, new)
    return value
