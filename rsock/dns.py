"""The messages of the Domain Name System, as far as a stub resolver needs them; RFC 1035, RFC 3596, RFC 6891.

Queries for A, AAAA and PTR; answers with chains of CNAME (and the CNAMEs that a DNAME stands for).  Everything
that comes in is hostile: a name is at most 255 bytes, a pointer only ever points back, and each step through
a message takes bytes from it or a pointer further to its beginning.

Not supported: DNSSEC, other classes than IN.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import Final

A: Final = 1
CNAME: Final = 5
PTR: Final = 12
AAAA: Final = 28
_IN: Final = 1
_OPT: Final = 41
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_RECURSION_DESIRED: Final = 0x0100
_HEADER: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">HHIH")
PAYLOAD: Final = 1232  # what we take by UDP: no fragments on usual links
_MAX_NAME: Final = 255
_MAX_LABEL: Final = 63
_MAX_CHAIN: Final = 16
_LENGTHS: Final = {A: 4, AAAA: 16}


class DnsError(ValueError):
    """Not a message, or not the answer to what was asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; `values` are numeric addresses, or names for PTR."""

    rcode: int
    truncated: bool = False
    canonical: bytes = b""  # where the chain of aliases has ended
    aliases: tuple[bytes, ...] = ()
    values: tuple[str, ...] = field(default=())


def encode_name(name: bytes) -> bytes:
    """Write a name; a dot at its end means nothing.  Raises DnsError."""
    labels = name.removesuffix(b".").split(b".") if name != b"." else []
    if any(not 0 < len(label) <= _MAX_LABEL for label in labels):
        raise DnsError("a label is empty or too long")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > _MAX_NAME:
        raise DnsError("the name is too long")
    return wire


def query(number: int, name: bytes, kind: int, *, extended: bool = True) -> bytes:
    """Write a question; `extended`: with the size of answer that we take (EDNS)."""
    header = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, int(extended))
    question = encode_name(name) + struct.pack(">HH", kind, _IN)
    return header + question + (b"\0" + _RECORD.pack(_OPT, PAYLOAD, 0, 0) if extended else b"")


def reverse_name(address: str) -> bytes:
    """Give the name whose PTR records tell the names of an address."""
    return ipaddress.ip_address(address).reverse_pointer.encode()


def parse_answer(message: bytes, number: int, name: bytes, kind: int) -> Answer:
    """Read the answer to `query(number, name, kind)`.  Raises DnsError, also where it answers something else."""
    if len(message) < _HEADER.size:
        raise DnsError("short")
    got, flags, questions, answers, _authorities, _additional = _HEADER.unpack_from(message)
    if got != number or not flags & _RESPONSE or flags & _OPCODE:
        raise DnsError("not an answer to this")
    rcode = flags & _RCODE
    if questions == 0 and rcode not in {NOERROR, NXDOMAIN}:
        return Answer(rcode)  # a server that did not understand so much as the question
    if questions != 1:
        raise DnsError("not one question")
    asked, at = _read_name(message, _HEADER.size)
    if at + 4 > len(message) or struct.unpack_from(">HH", message, at) != (kind, _IN):
        raise DnsError("another question")
    if asked != _canonical(name):
        raise DnsError("another question")
    if flags & _TRUNCATED:
        return Answer(rcode, truncated=True)
    return _collect(message, at + 4, answers, asked, kind, rcode)


def _collect(message: bytes, at: int, count: int, asked: bytes, kind: int, rcode: int) -> Answer:
    aliases: dict[bytes, bytes] = {}
    values: dict[bytes, list[str]] = {}
    for _record in range(count):
        owner, at = _read_name(message, at)
        if at + _RECORD.size > len(message):
            raise DnsError("short record")
        found, family, _ttl, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        end = at + length
        if end > len(message):
            raise DnsError("short record")
        if family == _IN and found == CNAME:
            aliases.setdefault(owner, _read_name(message[:end], at)[0])
        elif family == _IN and found == kind:
            values.setdefault(owner, []).append(_value(message[:end], at, kind))
        at = end
    chain = [asked]
    while (target := aliases.get(chain[-1])) is not None and target not in chain:
        chain.append(target)
        if len(chain) > _MAX_CHAIN:
            raise DnsError("a chain of aliases without end")
    return Answer(rcode, False, chain[-1], tuple(chain[:-1]), tuple(values.get(chain[-1], ())))


def _value(message: bytes, at: int, kind: int) -> str:
    if kind == PTR:
        return _read_name(message, at)[0].decode("ascii", "replace")
    raw = message[at:]
    if len(raw) != _LENGTHS[kind]:
        raise DnsError("an address of another length")
    return str(ipaddress.ip_address(raw))


def _canonical(name: bytes) -> bytes:
    return name.lower().removesuffix(b".")


def _read_name(message: bytes, at: int) -> tuple[bytes, int]:
    """Read a name in lower case; give it, and where what follows it begins."""
    labels: list[bytes] = []
    end, limit, size = 0, at, 1
    while True:
        if at >= len(message):
            raise DnsError("short name")
        length = message[at]
        if length & 0xC0 == 0xC0:
            if at + 1 >= len(message):
                raise DnsError("short name")
            end = end or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
            if at >= limit:
                raise DnsError("a pointer that does not point back")
            limit = at
            continue
        at += 1
        if length == 0:
            return b".".join(labels), end or at
        size += length + 1
        if length > _MAX_LABEL or at + length > len(message) or size > _MAX_NAME:
            raise DnsError("a name that is too long")
        # A dot inside a label would make another name of it.
        labels.append(message[at : at + length].lower().replace(b".", b"\\."))
        at += length
