"""Values of route policies as operators write them: prefix ranges, communities, numbers to set or to add.

    10.0.0.0/8 le 32        a prefix and the lengths of what it stands for; alone: itself
    65000:100, 65000:*      community (RFC 1997), or by a well-known name
    65000:1:2, 65000:*:*    large community (RFC 8092)
    rt:65000:100            extended community (RFC 4360): rt or soo, with an AS number or an IPv4 address; or 0x...
    100, +10, -10           a number to set, to add, to take off

Markers for `typing.Annotated` give canonical text; the functions give numbers.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from vrouter.config.address import IpAddress, IpPrefix
from vrouter.config.as_path import MAX_PATTERN, compile_pattern
from vrouter.config.constraints import Integer, InvalidError, Name, clip
from vrouter.net.address import BITS, IPV4, Prefix, parse_prefix

Kind = Literal["community", "large-community", "extended-community"]
KINDS: Final[tuple[Kind, ...]] = ("community", "large-community", "extended-community")
WIDTH: Final[dict[Kind, int]] = {"community": 32, "large-community": 96, "extended-community": 64}
_EXAMPLES: Final[dict[Kind, str]] = {
    "community": "65000:100",
    "large-community": "65000:1:2",
    "extended-community": "rt:65000:100",
}
# The IANA registry of well-known communities.
WELL_KNOWN: Final = {
    "graceful-shutdown": "65535:0",
    "accept-own": "65535:1",
    "llgr-stale": "65535:6",
    "no-llgr": "65535:7",
    "blackhole": "65535:666",
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-export-subconfed": "65535:65283",
    "no-peer": "65535:65284",
}
_SUBTYPES: Final = {"rt": 2, "soo": 3}
_NAMED: Final = re.compile(r"[a-z][a-z0-9-]*")
_RANGE: Final = re.compile(r"(\S+?)(?:\s+ge\s+([0-9]+))?(?:\s+le\s+([0-9]+))?")
MAX32: Final = 2**32 - 1


@dataclass(frozen=True)
class PrefixRange:
    """A prefix and which lengths within it are meant."""

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise InvalidError(
                f"'{clip(text)}' is no prefix", "write PREFIX, PREFIX le N, PREFIX ge N or PREFIX ge N le N"
            )
        prefix, low, high = IpPrefix().parse(found[1]), found[2], found[3]
        own = parse_prefix(prefix)
        for number in (low, high):
            if number is not None and not own.length <= Integer(0, 999).parse(number) <= BITS[own.family]:
                bounds = f"within {own.length} to {BITS[own.family]}"
                raise InvalidError(f"a length of {number} is not possible in {prefix}", f"{bounds}")
        if low is not None and high is not None and int(low) > int(high):
            raise InvalidError(f"'{clip(text)}' matches nothing", f"write ge {high} le {low}")
        return prefix + (f" ge {low}" if low else "") + (f" le {high}" if high else "")

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]+( +ge +[0-9]+)?( +le +[0-9]+)?$"}


def prefix_range(text: str) -> tuple[Prefix, int, int]:
    """Read the canonical text: the prefix, the shortest and the longest length."""
    found = _RANGE.fullmatch(text)
    assert found is not None
    prefix = _prefix(found[1])
    if found[2] is None and found[3] is None:
        return prefix, prefix.length, prefix.length
    low = prefix.length if found[2] is None else int(found[2])
    return prefix, low, BITS[prefix.family] if found[3] is None else int(found[3])


def _prefix(text: str) -> Prefix:
    """Read a canonical prefix: of lists with many, `ipaddress` would take most of the time."""
    if ":" in text:
        return parse_prefix(text)
    address, _, length = text.partition("/")
    first, second, third, fourth = address.split(".")
    return Prefix(IPV4, int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth), int(length))


@dataclass(frozen=True)
class AsPathPattern:
    """A pattern over AS paths; see `as_path.py`."""

    def parse(self, text: str) -> str:
        """Give the text, if it compiles."""
        compile_pattern(text)
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": ["string", "integer"], "maxLength": MAX_PATTERN}


@dataclass(frozen=True)
class AsPathMatch:
    """The name of an AS-path list, or a pattern."""

    def parse(self, text: str) -> str:
        """Give the text."""
        return Name("AS-path list").parse(text) if is_name(text) else AsPathPattern().parse(text)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return AsPathPattern().json_schema()


def is_name(text: str) -> bool:
    """Tell a name from a value: it begins with a letter, and no value consists of these characters alone."""
    return _NAMED.fullmatch(text) is not None


@dataclass(frozen=True)
class CommunityValue:
    """A community of any kind; `*` in the place of a number stands for all."""

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        kind_of(text)
        return text.lower()

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Za-z*.:-]+$"}


@dataclass(frozen=True)
class CommunityMatch:
    """A community of one kind, or the name of some."""

    kind: Kind
    single: bool = False  # a value to add or set: no `*`

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        if is_name(text):
            return Name("name of a community").parse(text)
        value = text.lower()
        actual = kind_of(value)
        if actual != self.kind:
            raise InvalidError(f"'{clip(text)}' is of the kind {actual}", f"write it under '{actual}'")
        if self.single and "*" in value:
            raise InvalidError(f"'{clip(text)}' stands for many", "write one value")
        return value

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return CommunityValue().json_schema()


def kind_of(text: str) -> Kind:
    """Tell of which kind a community is.  Raises InvalidError when it is none."""
    lowered = text.lower()
    if lowered in WELL_KNOWN:
        return "community"
    parts = lowered.split(":")
    kind: Kind = "community" if len(parts) == 2 else "large-community"
    if lowered.startswith("0x") or parts[0].isalpha():
        kind = "extended-community"
    community(lowered, kind)
    return kind


def community(text: str, kind: Kind) -> tuple[int, int]:
    """Read a community: its value, and a mask whose bits are zero where `*` stands.  Raises InvalidError."""
    text = WELL_KNOWN.get(text, text)
    if kind == "extended-community":
        return _extended(text)
    parts = text.split(":")
    if len(parts) != (2 if kind == "community" else 3):
        raise InvalidError(f"'{clip(text)}' is no community", f"write it as {', '.join(_EXAMPLES.values())}")
    bits = 16 if kind == "community" else 32
    value = mask = 0
    for part in parts:
        number, known = _number(part, bits)
        value, mask = value << bits | number, mask << bits | known
    return value, mask


def _number(text: str, bits: int) -> tuple[int, int]:
    if text == "*":
        return 0, 0
    return Integer(0, (1 << bits) - 1).parse(text), (1 << bits) - 1


def _extended(text: str) -> tuple[int, int]:
    if re.fullmatch(r"0x[0-9a-f]{16}", text):
        return int(text, 16), 2**64 - 1
    name, _, rest = text.partition(":")
    administrator, colon, assigned = rest.rpartition(":")
    if name not in _SUBTYPES or not colon:
        hint = "write rt:AS:NUMBER, soo:AS:NUMBER, with an IPv4 address for AS, or 0x and 16 digits"
        raise InvalidError(f"'{clip(text)}' is no extended community", hint)
    head = _SUBTYPES[name] << 48  # behind the type: RFC 4360 sections 3.1 and 3.2, RFC 5668
    if "." in administrator:
        try:
            address = int(ipaddress.IPv4Address(administrator))
        except ValueError:
            raise InvalidError(f"'{clip(administrator)}' is no IPv4 address") from None
        number, known = _number(assigned, 16)
        return 1 << 56 | head | address << 16 | number, 2**64 - 2**16 | known
    asn = Integer(0, MAX32).parse(administrator)
    bits = 32 if asn < 1 << 16 else 16
    number, known = _number(assigned, bits)
    kind = 0 if bits == 32 else 2
    return kind << 56 | head | asn << bits | number, 2**64 - (1 << bits) | known


@dataclass(frozen=True)
class Adjustment:
    """A number to set, or, with a sign, to add or to take off."""

    high: int = MAX32

    def parse(self, text: str) -> str:
        """Give the text."""
        sign = text[:1] if text[:1] in {"+", "-"} else ""
        return sign + str(Integer(0, self.high).parse(text.removeprefix(sign)))

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        number = {"type": "integer", "maximum": self.high}
        return {"anyOf": [number, {"type": "string", "pattern": "^[+-]?[0-9]+$"}]}


@dataclass(frozen=True)
class NextHopChange:
    """Where packets are to go: an address, or one of three words."""

    words: tuple[str, ...] = ("self", "discard", "peer")

    def parse(self, text: str) -> str:
        """Give the canonical text."""
        if text in self.words:
            return text
        if is_name(text) and ":" not in text:
            raise InvalidError(f"'{clip(text)}' is no next hop", f"write an address, {', '.join(self.words)}")
        return IpAddress().parse(text)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^({'|'.join(self.words)}|[0-9A-Fa-f:.]+)$"}


@dataclass(frozen=True)
class AddressOrRange:
    """An address, or a prefix with the addresses in it."""

    def parse(self, text: str) -> str:
        """Give the canonical text; an address as itself."""
        return IpPrefix().parse(text) if "/" in text else IpAddress().parse(text)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]+)?$"}
