"""The BFD sessions of a VR, read without C: what control has published, and what became of it.

tables_segment.bfd_root --> bfd_table (immutable) --> bfd_entry[]      asked for
state_segment.bfd[]                                                    the sessions themselves
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.segment import Segment, View

NEVER: Final = 0
_ATTEMPTS: Final = 16


def _words(prefix: str, *others: str) -> dict[int, str]:
    """Give the names of an enum's values, as operators read them."""
    return {
        value: name.removeprefix(prefix).lower().replace("_", "-")
        for name, value in CONSTANTS.items()
        if name.startswith(prefix) and name not in others
    }


STATES: Final = {
    CONSTANTS[f"BFD_{name}"]: name.lower().replace("_", "-") for name in ("ADMIN_DOWN", "DOWN", "INIT", "UP")
}
DIAGNOSTICS: Final = {
    CONSTANTS["BFD_NO_DIAGNOSTIC"]: "none",
    CONSTANTS["BFD_TIME_EXPIRED"]: "time-expired",
    CONSTANTS["BFD_ECHO_FAILED"]: "echo-failed",
    CONSTANTS["BFD_NEIGHBOR_DOWN"]: "neighbor-down",
    CONSTANTS["BFD_FORWARDING_RESET"]: "forwarding-reset",
    CONSTANTS["BFD_PATH_DOWN"]: "path-down",
    CONSTANTS["BFD_CONCATENATED_DOWN"]: "concatenated-path-down",
    CONSTANTS["BFD_CLOSED"]: "administratively-down",
    CONSTANTS["BFD_REVERSE_CONCATENATED_DOWN"]: "reverse-concatenated-path-down",
}
AUTHENTICATIONS: Final = _words("BFD_AUTH_")
# Both structs begin with what makes a session the same: remote, local, family, flags, interface.
KEY_BYTES: Final = FIELDS["bfd_entry"]["transmit_us"][0]
_FLAGS_AT: Final = FIELDS["bfd_entry"]["flags"][0]


def entry_key(entry: bytes) -> bytes:
    """Give what makes the session of a struct bfd_entry the same."""
    flags = entry[_FLAGS_AT] & CONSTANTS["BFD_MULTIHOP"]
    return entry[:_FLAGS_AT] + bytes((flags,)) + entry[_FLAGS_AT + 1 : KEY_BYTES]


def published(tables: Segment) -> list[bytes]:
    """Give the published entries, as struct bfd_entry; it may be replaced while we read."""
    for _ in range(_ATTEMPTS):
        offset = tables.integer("bfd_root")
        if not offset:
            return []
        try:
            table = tables.at("bfd_table", offset)
            count = min(table.integer("count"), CONSTANTS["MAX_BFD_SESSIONS"])
            size = SIZES["bfd_entry"]
            first = offset + SIZES["bfd_table"]
            entries = [bytes(tables.buffer[at : at + size]) for at in range(first, first + count * size, size)]
        except ValueError:  # led outside the segment: replaced under our hands, or broken
            entries = []
        if tables.integer("bfd_root") == offset:
            return entries
    return []


def sessions(state: Segment) -> dict[bytes, View]:
    """Give a copy of each session by its key."""
    limit = state.integer("bfd_used")
    return {session_key(view): view for _slot, view in state.used("bfd", "discriminator", limit)}


def session_key(session: View) -> bytes:
    """Give what makes a struct bfd_session the same."""
    return (
        session.octets("remote")
        + session.octets("local")
        + bytes((session.integer("family"), session.integer("flags")))
        + session.integer("interface").to_bytes(2, "little")
    )


def shown(state: Segment, names: Mapping[int, str], now_ns: int) -> list[dict[str, Any]]:
    """Give all sessions as plain data, by the address of the peer; times are seconds."""
    found = [_shown(view, names, now_ns) for view in sessions(state).values()]
    return sorted(found, key=lambda entry: (_sortable(entry["remote"]), entry["interface"], entry["multihop"]))


def _sortable(text: str) -> tuple[int, int]:
    address = ipaddress.ip_address(text)
    return address.version, int(address)


def _address(view: View, field: str) -> str:
    size = 4 if view.integer("family") == CONSTANTS["FAMILY_IPV4"] else 16
    return str(ipaddress.ip_address(view.octets(field)[:size]))


def _shown(view: View, names: Mapping[int, str], now_ns: int) -> dict[str, Any]:
    number = view.integer

    def ago(field: str) -> float | None:
        return round((now_ns - number(field)) / 1e9, 3) if number(field) != NEVER else None

    interval = max(number("desired_in_force_us"), number("remote_required_us"))
    detection = number("remote_multiplier") * max(number("required_in_force_us"), number("remote_desired_us"))
    return {
        "remote": _address(view, "remote"),
        "local": _address(view, "local") if any(view.octets("local")) else None,
        "interface": names.get(number("interface"), "") if number("interface") else "",
        "multihop": bool(number("flags") & CONSTANTS["BFD_MULTIHOP"]),
        "state": STATES.get(number("state"), "unknown"),
        "remote_state": STATES.get(number("remote_state"), "unknown"),
        "diagnostic": DIAGNOSTICS.get(number("diagnostic"), str(number("diagnostic"))),
        "remote_diagnostic": DIAGNOSTICS.get(number("remote_diagnostic"), str(number("remote_diagnostic"))),
        "last_failure": DIAGNOSTICS.get(number("failure"), str(number("failure"))) if number("downs") else None,
        "discriminator": number("discriminator"),
        "remote_discriminator": number("remote_discriminator"),
        "multiplier": number("multiplier"),
        "remote_multiplier": number("remote_multiplier"),
        "transmit_interval": interval / 1e6,
        "receive_interval": max(number("required_in_force_us"), number("remote_desired_us")) / 1e6,
        "detection_time": detection / 1e6,
        "echo_interval": number("echo_us") / 1e6,
        "authentication": AUTHENTICATIONS.get(number("authentication"), "unknown"),
        "since": ago("changed_ns"),
        "ups": number("ups"),
        "downs": number("downs"),
        "received": number("rx_packets"),
        "sent": number("tx_packets"),
        "refused": number("rx_drops"),
        "echoes_received": number("rx_echoes"),
        "echoes_sent": number("tx_echoes"),
        "last_received": ago("rx_last_ns"),
        "longest_gap": number("longest_gap_ns") / 1e9,
    }
