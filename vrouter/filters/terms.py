"""What an entry of an access control list asks of each field of a packet, as intervals of numbers.

A packet of one family matches an entry if each field's value lies in one of the field's intervals; a field
without intervals may have any value.  An entry whose prefixes are all of the other family is not for this one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from vrouter.config.acl import ESTABLISHED, FLAGS, ICMP4, ICMP6, PROTOCOLS, AclEntry
from vrouter.net.address import BITS, IPV4, IPV6, parse_prefix

Interval = tuple[int, int]  # first, last
Terms = dict[int, tuple[Interval, ...]]  # by field; ascending, apart from each other
FAMILIES: Final = (IPV4, IPV6)
_FAMILY_NAMES: Final = {IPV4: "ipv4", IPV6: "ipv6"}


class Field(enum.IntEnum):
    """Fields as in include/abi/filter.h; a unit test compares."""

    SOURCE = 0
    DESTINATION = 1
    SOURCE_PORT = 2
    DESTINATION_PORT = 3  # ICMP: 256 * type + code
    PROTOCOL = 4
    FORM = 5  # DSCP + 64 * Form
    FLAGS = 6


class Form(enum.IntEnum):
    """How much of the transport header a packet has."""

    WHOLE = 0
    LATER = 1  # a fragment that is not the first
    BARE = 2  # cut short


def width(field: Field, family: int) -> int:
    """Give the bits of a field's values."""
    if field in {Field.SOURCE, Field.DESTINATION}:
        return BITS[family]
    return 16 if field in {Field.SOURCE_PORT, Field.DESTINATION_PORT} else 8


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Give the same numbers in as few intervals as there can be."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def prefix_interval(text: str) -> tuple[int, Interval]:
    """Give the family of a prefix, and its first and last address."""
    family, value, length = parse_prefix(text)
    return family, (value, value | ((1 << (BITS[family] - length)) - 1))


def _addresses(family: int, prefixes: tuple[str, ...]) -> tuple[Interval, ...]:
    spans = (prefix_interval(text) for text in prefixes)
    return merged(span for of, span in spans if of == family)


def icmp_interval(protocol: int, text: str) -> Interval | None:
    """Give the values of type and code that a name or a number stands for; None: no such name of this protocol."""
    known = ICMP4 if protocol == PROTOCOLS["icmp"] else ICMP6
    if text[0].isdigit():
        kind, slash, rest = text.partition("/")
        number, code = int(kind), int(rest) if slash else None
    elif text in known:
        number, code = known[text]
    else:
        return None
    return (number * 256, number * 256 + 255) if code is None else (number * 256 + code,) * 2


def _flag_values(words: tuple[str, ...]) -> tuple[Interval, ...]:
    def holds(flags: int) -> bool:
        for word in words:
            if word == ESTABLISHED:
                good = flags & (FLAGS["ack"] | FLAGS["rst"]) != 0
            else:
                good = (flags & FLAGS[word.removeprefix("!")] != 0) != word.startswith("!")
            if not good:
                return False
        return True

    return merged((flags, flags) for flags in range(256) if holds(flags))


def _forms(entry: AclEntry) -> tuple[Interval, ...]:
    """Give DSCP and form in one number."""
    transport = entry.source_port or entry.destination_port or entry.icmp_type or entry.tcp_flags
    forms = (Form.LATER,) if entry.fragments else (Form.WHOLE,) if transport else tuple(Form)
    codes = entry.dscp or tuple(range(64))
    return merged((form * 64 + code, form * 64 + code) for form in forms for code in codes)


def terms(entry: AclEntry, family: int) -> Terms | None:
    """Give what an entry asks of packets of a family; None: it is not for them."""
    if entry.family is not None and entry.family != _FAMILY_NAMES[family]:
        return None
    found: Terms = {}
    for field, prefixes in ((Field.SOURCE, entry.source), (Field.DESTINATION, entry.destination)):
        if prefixes:
            found[field] = _addresses(family, prefixes)
    if entry.protocol:
        found[Field.PROTOCOL] = merged((number, number) for number in entry.protocol)
    if entry.source_port:
        found[Field.SOURCE_PORT] = merged(entry.source_port)
    if entry.destination_port:
        found[Field.DESTINATION_PORT] = merged(entry.destination_port)
    if entry.icmp_type:
        known = (icmp_interval(entry.protocol[0], text) for text in entry.icmp_type)
        found[Field.DESTINATION_PORT] = merged(span for span in known if span is not None)
    if entry.tcp_flags:
        found[Field.FLAGS] = _flag_values(entry.tcp_flags)
    if entry.dscp or entry.fragments or _forms(entry) != ((0, 64 * len(Form) - 1),):
        found[Field.FORM] = _forms(entry)
    if not all(found.values()):
        return None
    whole = {number: ((0, (1 << width(Field(number), family)) - 1),) for number in found}
    return {number: spans for number, spans in found.items() if spans != whole[number]}
