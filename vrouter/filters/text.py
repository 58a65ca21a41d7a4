"""An entry of a list in words, as `show acl` prints it: "web: permit tcp to 203.0.113.0/24 port 80,443"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vrouter.config.acl import PROTOCOLS, AclEntry
from vrouter.config.dscp import dscp_text

_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


def _spans(spans: Iterable[tuple[int, int]]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def describe(entry: AclEntry) -> str:
    """Give one line."""
    words: list[str] = [entry.action]
    if entry.family is not None:
        words.append(entry.family)
    if entry.protocol:
        words.append(",".join(_NAMES.get(number, str(number)) for number in entry.protocol))
    if entry.source or entry.source_port:
        words += ["from", ",".join(entry.source) or "any"]
    if entry.source_port:
        words += ["port", _spans(entry.source_port)]
    if entry.destination or entry.destination_port:
        words += ["to", ",".join(entry.destination) or "any"]
    if entry.destination_port:
        words += ["port", _spans(entry.destination_port)]
    if entry.icmp_type:
        words += ["type", ",".join(entry.icmp_type)]
    if entry.tcp_flags:
        words += ["flags", ",".join(entry.tcp_flags)]
    if entry.dscp:
        words += ["dscp", ",".join(map(dscp_text, entry.dscp))]
    if entry.fragments:
        words.append("fragments")
    if entry.set_dscp is not None:
        words += ["set-dscp", dscp_text(entry.set_dscp)]
    line = " ".join(words)
    return f"{entry.name}: {line}" if entry.name else line
