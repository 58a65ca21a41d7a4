"""What a list makes of a packet that an operator describes, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from vrouter.config.acl import FLAGS, ICMP4, ICMP6, PROTOCOLS, WITH_PORTS, AclEntry, IcmpType, IpProtocol
from vrouter.config.constraints import InvalidError
from vrouter.config.dscp import Dscp, dscp_text
from vrouter.filters.match import Packet, is_neighbor_discovery
from vrouter.filters.terms import Field, Form, icmp_interval, terms
from vrouter.filters.text import describe
from vrouter.net.address import parse_address

_ICMP: Final = {PROTOCOLS["icmp"]: ICMP4, PROTOCOLS["icmpv6"]: ICMP6}
_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_WHAT: Final = {
    Field.SOURCE: "source",
    Field.DESTINATION: "destination",
    Field.SOURCE_PORT: "source port",
    Field.DESTINATION_PORT: "destination port",
    Field.PROTOCOL: "protocol",
    Field.FORM: "dscp or fragment",
    Field.FLAGS: "tcp flags",
}


def explain(acls: Mapping[str, Sequence[AclEntry]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Tell which entry decides: {acl, source, destination, protocol?, source_port?, icmp_type?, ...}.

    Raises ValueError for arguments that make no sense.
    """
    name = str(arguments.get("acl"))
    if name not in acls:
        raise ValueError(f"no interface has an ACL {name!r}; bound are: {', '.join(sorted(acls)) or 'none'}")
    try:
        packet = packet_of(arguments)
    except InvalidError as error:
        raise ValueError(f"{error.message} ({error.help})" if error.help else error.message) from error
    steps = []
    for number, entry in enumerate(acls[name], 1):
        failed = _failed(entry, packet)
        steps.append({"entry": number, "text": describe(entry), "matches": failed is None, "failed": failed})
        if failed is None:
            mark = None if entry.set_dscp is None or entry.action != "permit" else dscp_text(entry.set_dscp)
            return {"acl": name, "steps": steps, "entry": number, "action": entry.action, "set_dscp": mark}
    action = "permit" if is_neighbor_discovery(packet) else "deny"
    return {"acl": name, "steps": steps, "entry": None, "action": action, "set_dscp": None}


def _failed(entry: AclEntry, packet: Packet) -> str | None:
    """Name what does not match; None: all does."""
    asked = terms(entry, packet.family)
    if asked is None:
        return "family"
    for number, spans in asked.items():
        field = Field(number)
        if not any(first <= packet.value(field) <= last for first, last in spans):
            return "icmp type" if field == Field.DESTINATION_PORT and packet.protocol in _ICMP else _WHAT[field]
    return None


def packet_of(arguments: Mapping[str, Any]) -> Packet:
    """Make the packet.  Raises ValueError and InvalidError."""
    source, destination = (parse_address(str(arguments.get(key))) for key in ("source", "destination"))
    if source.family != destination.family:
        raise ValueError("source and destination are of different families")
    protocol = IpProtocol().parse(str(arguments.get("protocol") or "udp"))
    later = bool(arguments.get("fragment"))
    first, second = (_port(arguments, key, protocol) for key in ("source_port", "destination_port"))
    if protocol in _ICMP and not later:
        second = _icmp(protocol, str(arguments.get("icmp_type") or "echo-request"))
    words = [word for word in str(arguments.get("tcp_flags") or "").lower().split(",") if word]
    unknown = [word for word in words if word not in FLAGS]
    if unknown:
        raise ValueError(f"no TCP flag {unknown[0]!r}; there is: {', '.join(FLAGS)}")
    return Packet(
        source.family, source.value, destination.value, protocol, 0 if later else first, 0 if later else second,
        flags=0 if later else sum(FLAGS[word] for word in set(words)),
        dscp=Dscp().parse(str(arguments.get("dscp") or "0")), form=Form.LATER if later else Form.WHOLE,
    )  # fmt: skip


def _port(arguments: Mapping[str, Any], key: str, protocol: int) -> int:
    value = arguments.get(key)
    if value is None:
        return 0
    if protocol not in WITH_PORTS:
        raise ValueError(f"{_NAMES.get(protocol, protocol)} has no ports")
    if not 0 <= int(value) <= 65535:
        raise ValueError(f"{value} is no port")
    return int(value)


def _icmp(protocol: int, text: str) -> int:
    span = icmp_interval(protocol, IcmpType().parse(text))
    if span is None:
        raise ValueError(f"{_NAMES[protocol]} has no type {text!r}; there is: {', '.join(_ICMP[protocol])}")
    return span[0]
